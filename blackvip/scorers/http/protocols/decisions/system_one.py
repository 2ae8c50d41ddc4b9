"""The System One form of decisions, which many servers and hosts share."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from .....exceptions import ServiceError
from ...adapter import Adapter, Images, Request, Send
from ...encoding import data_url, media_type
from ...json_bodies import error_codes, shortened
from ...keys import key_header
from ...label_mass import LabelMass
from ..by_name import preset_of
from .base import INSTRUCTIONS, Decisions
from .presets import SYSTEM_ONE_PRESETS, SystemOnePreset

__all__ = ["SystemOne"]


class SystemOne(Decisions):
    """Adapter for decisions in the System One form: an image and a list of options in, probabilities out.

    Parameters
    ----------
    model : str
        Name of the model; on Foundry, of the deployment.
    preset : str or SystemOnePreset
        The service: "vllm", "llama.cpp", "ollama", "lmstudio", "openrouter", "perplexity", "cloudflare", "foundry" or
        "typesafe"; or a preset of your own.
    instructions : str, default="Which option describes the image best?"
        The question.
    descriptions : mapping or None, default=None
        Longer descriptions of some or all options: from class prompt to text. Some models read the description of an
        option in place of the option.
    n_orders : int, default=1
        Number of orders of the options, whose probabilities are averaged; see `Decisions`.
    state : str, default="An image."
        The text beside the image.

    Notes
    -----
    The url of the scorer is the part before the preset's path: ``http://localhost:8000`` for a vLLM on this machine,
    ``https://openrouter.ai/api``, ``https://api.perplexity.ai``, the resource's url for Foundry, and
    ``https://api.cloudflare.com/client/v4/accounts/{account}/ai/run`` for Cloudflare's "clef" and "clef-flash".

    vLLM returns the probability that the model gives to all options together, over its whole vocabulary. A
    `LabelMassWarning` says if it is low: the model then does not understand the question.

    Examples
    --------
    >>> from blackvip.scorers.http import HTTPScorer, SystemOne
    >>> scorer = HTTPScorer("http://localhost:8000", SystemOne("LiquidAI/LFM2-VL-d1", "vllm", n_orders=2))
    >>> scorer.max_class_prompts
    26
    """

    _label_mass: LabelMass | None = None

    def __init__(
        self,
        model: str,
        preset: str | SystemOnePreset,
        *,
        instructions: str = INSTRUCTIONS,
        descriptions: Mapping[str, str] | None = None,
        n_orders: int = 1,
        state: str = "An image.",
    ):
        super().__init__(model, instructions=instructions, descriptions=descriptions, n_orders=n_orders)
        self.preset = preset
        self.state = state

    @property
    def service(self) -> SystemOnePreset:
        """The preset."""
        return preset_of(self.preset, SYSTEM_ONE_PRESETS, SystemOnePreset)

    @property
    def max_class_prompts(self) -> int | None:  # type: ignore[override]
        """The most options of a question."""
        of_models = [most for part, most in self.service.model_max_options.items() if part in self.model.lower()]
        return min([self.service.max_options, *of_models])

    @property
    def max_questions(self) -> int:  # type: ignore[override]
        """The most questions of a request."""
        return self.service.max_questions

    @property
    def first_timeout(self) -> float | None:  # type: ignore[override]
        """Time limit in seconds until the service has answered for the first time."""
        return self.service.first_timeout

    @property
    def path(self) -> str:  # type: ignore[override]
        """Path of requests below the scorer's url."""
        return self.service.path.replace("{model}", quote(self.model, safe="@/"))

    def prepare(self, send: Send, class_prompts: list[str]) -> Adapter:
        """Check the options and parameters, and return a copy that watches the mass of the options; see `Adapter`."""
        super().prepare(send, class_prompts)
        prepared = copy.copy(self)
        prepared._label_mass = LabelMass()
        return prepared

    def request(self, images: Images, class_prompts: list[str]) -> Request:
        """Build a request with the image, and a question for each order of the options; see `Adapter`."""
        request = super().request(images, class_prompts)
        request.headers = dict(self.service.headers)
        return request

    def body(self, image: bytes, questions: dict[str, dict[str, str | None]]) -> Any:
        state: Any = self.state
        beside: dict[str, Any] = {}
        form = self.service.images
        if form == "state":
            state = [{"type": "image_url", "image_url": {"url": data_url(image)}}, self.state]
        elif form == "assets":
            asset = {"type": "image", "format": media_type(image).removeprefix("image/"), "data_base64": image}
            state, beside = f"{self.state} image-1", {"assets": {"image-1": asset}}
        else:
            beside = {form: [data_url(image)]}
        return {
            "model": self.model,
            "state": state,
            **beside,
            "questions": {
                name: {"type": "choice", "instructions": self.instructions, "criteria": options}
                for name, options in questions.items()
            },
        }

    def parse(self, content: bytes, headers: Mapping[str, str]) -> Any:
        """Parse an answer and take the result out of what wraps it; see `Adapter`."""
        answer, result = super().parse(content, headers), self.service.result
        if result is None or not isinstance(answer, dict) or "answers" in answer:
            return answer
        if not isinstance(answer.get(result), dict):
            passing = not self.service.passing_codes.isdisjoint(error_codes(content))
            raise ServiceError(
                f"The service answered without {result!r}: {shortened(answer)}.",
                retry=passing,
                status=429 if passing else None,
            )
        return answer[result]

    def answers(self, answer: Any) -> Iterable[tuple[str, Any]]:
        if self._label_mass is not None:
            for told in (answer.get("diagnostics") or {}).values():
                self._label_mass.add(told.get("label_mass"))
        return [(name, given["probabilities"].items()) for name, given in answer["answers"].items()]

    def is_final(self, status: int, content: bytes) -> bool:
        """Return whether the code of an error lasts; see `Adapter`."""
        return not self.service.final_codes.isdisjoint(error_codes(content)) or super().is_final(status, content)

    def is_passing(self, status: int, content: bytes) -> bool:
        """Return whether the code of an error passes; see `Adapter`."""
        return not self.service.passing_codes.isdisjoint(error_codes(content))

    def authorize(self, request: Request, url: str, body: bytes, key: str | None) -> dict[str, str]:
        """Return the header with the key; see `Adapter`."""
        return key_header(self.service.key_header, key)
