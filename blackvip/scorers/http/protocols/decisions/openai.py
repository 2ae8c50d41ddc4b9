"""OpenAI's decisions, also on Azure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .....exceptions import Refusal
from ...adapter import Request
from ...encoding import data_url
from ...keys import key_header
from .base import INSTRUCTIONS, Decisions

__all__ = ["OpenAIDecisions"]


class OpenAIDecisions(Decisions):
    """Adapter for OpenAI's decisions: an image and up to 255 options in, a probability for each option out.

    Parameters
    ----------
    model : str, default="gpt-6-luna"
        Name of the model; on Azure, of the deployment.
    instructions : str, default="Which option describes the image best?"
        The question.
    descriptions : mapping or None, default=None
        Longer descriptions of some or all options: from class prompt to text.
    n_orders : int, default=1
        Number of orders of the options, up to 400, whose probabilities are averaged; see `Decisions`.
    detail : {"low", "high", "auto", "original"}, default="auto"
        Resolution at which the model sees the image.
    key_header : {"Authorization", "api-key"}, default="Authorization"
        Header of the key. Azure's own keys take "api-key", and its access tokens "Authorization".

    Notes
    -----
    The url of the scorer is ``https://api.openai.com/v1``; on Azure it is that of the resource, followed by
    ``/openai/v1``. Probabilities have two decimals, so small changes of an image often change nothing:
    ``n_orders=4`` makes them finer, in the same request.
    """

    max_class_prompts = 255
    max_questions = 400

    def __init__(
        self,
        model: str = "gpt-6-luna",
        *,
        instructions: str = INSTRUCTIONS,
        descriptions: Mapping[str, str] | None = None,
        n_orders: int = 1,
        detail: str = "auto",
        key_header: str = "Authorization",
    ):
        super().__init__(model, instructions=instructions, descriptions=descriptions, n_orders=n_orders)
        self.detail = detail
        self.key_header = key_header

    def body(self, image: bytes, questions: dict[str, dict[str, str | None]]) -> Any:
        content = [{"type": "input_image", "image_url": data_url(image), "detail": self.detail}]
        return {
            "model": self.model,
            "input": [{"role": "user", "content": content}],
            "questions": [
                {
                    "type": "choice",
                    "name": name,
                    "instructions": self.instructions,
                    "choices": [
                        {"value": option} | ({} if description is None else {"description": description})
                        for option, description in options.items()
                    ],
                }
                for name, options in questions.items()
            ],
        }

    def answers(self, answer: Any) -> Iterable[tuple[str, Any]]:
        for given in answer["answers"]:
            if given["type"] == "refusal":
                yield given["name"], Refusal("The model declined to answer.")
            else:
                yield given["name"], [(entry["value"], entry["probability"]) for entry in given["probabilities"]]

    def authorize(self, request: Request, url: str, body: bytes, key: str | None) -> dict[str, str]:
        """Return the header with the key; see `Adapter`."""
        return key_header(self.key_header, key)
