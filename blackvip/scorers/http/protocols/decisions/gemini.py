"""Google's decisions, of the Gemini API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .....exceptions import Refusal
from ...adapter import Request
from ...encoding import media_type
from ...json_bodies import shortened
from ...keys import key_header
from ...usage import Usage
from .base import INSTRUCTIONS, Decisions

__all__ = ["GeminiDecisions"]


class GeminiDecisions(Decisions):
    """Adapter for the decisions of Google's Gemini API: an image and up to 255 options in, probabilities out.

    Parameters
    ----------
    model : str, default="gemini-decision-1"
        Name of the model.
    instructions : str, default="Which option describes the image best?"
        The question.
    descriptions : mapping or None, default=None
        Longer descriptions of some or all options: from class prompt to text.
    n_orders : int, default=1
        Number of orders of the options, up to 1,000, whose probabilities are averaged; see `Decisions`.
    resolution : {"low", "medium", "high", "ultra_high"} or None, default=None
        Resolution at which the model sees the image. None: the service's default.

    Notes
    -----
    The url of the scorer is ``https://generativelanguage.googleapis.com/v1beta``, and its key is an API key. A daily
    quota that is spent ends a fit at once; it can be continued the next day if it has a checkpoint.
    """

    max_class_prompts = 255
    max_questions = 1_000

    def __init__(
        self,
        model: str = "gemini-decision-1",
        *,
        instructions: str = INSTRUCTIONS,
        descriptions: Mapping[str, str] | None = None,
        n_orders: int = 1,
        resolution: str | None = None,
    ):
        super().__init__(model, instructions=instructions, descriptions=descriptions, n_orders=n_orders)
        self.resolution = resolution

    def body(self, image: bytes, questions: dict[str, dict[str, str | None]]) -> Any:
        part = {"type": "image", "data": image, "mime_type": media_type(image)}
        return {
            "model": self.model,
            "input": [part if self.resolution is None else {**part, "resolution": self.resolution}],
            "questions": {
                name: {
                    "type": "choice",
                    "instructions": self.instructions,
                    # Null, which others take for no description, is refused.
                    "criteria": {option: description or "" for option, description in options.items()},
                }
                for name, options in questions.items()
            },
        }

    def answers(self, answer: Any) -> Iterable[tuple[str, Any]]:
        feedback = answer.get("prompt_feedback") or {}
        if feedback.get("block_reason"):
            refusal = Refusal(f"Gemini blocked the request: {shortened(feedback, 200)}.")
            return [("class", refusal)]
        return [(name, given["probabilities"].items()) for name, given in (answer.get("answers") or {}).items()]

    def usage_of(self, answer: Any) -> Usage | None:
        """Return the numbers of tokens, which have names of their own; see `Adapter`."""
        told = answer.get("usage") or {}
        return Usage.of({name.removeprefix("total_"): n for name, n in told.items() if name != "total_tokens"})

    def is_final(self, status: int, content: bytes) -> bool:
        """Return whether a daily quota is spent; see `Adapter`."""
        # As in the id of the quota, GenerateRequestsPerDayPerProjectPerModel.
        return (status == 429 and b"PerDay" in content) or super().is_final(status, content)

    def authorize(self, request: Request, url: str, body: bytes, key: str | None) -> dict[str, str]:
        """Return the header with the key; see `Adapter`."""
        return key_header("x-goog-api-key", key)
