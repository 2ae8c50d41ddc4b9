"""TorchServe's inference API: ``/predictions/{model}``."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from ....exceptions import ServiceError
from ..adapter import Adapter, Images, Request
from ..encoding import media_type
from ..json_bodies import shortened

__all__ = ["TorchServe"]


class TorchServe(Adapter):
    """Adapter for TorchServe: ``POST predictions/{model}[/{version}]`` with a file as its body.

    TorchServe's ``image_classifier`` answers with a dict from the most probable labels to their probabilities. A list
    of numbers, which many custom handlers return, is read as scores in the order of the class prompts.

    Parameters
    ----------
    model : str
        Name of the model.
    version : str or None, default=None
        Version of the model. None: its default version.
    fixed_labels : bool, default=True
        Whether scores are for the model's own labels instead of the class prompts.
    score_type : {"auto", "logits", "probabilities"}, default="probabilities"
        Type of the scores.

    Notes
    -----
    The url of the scorer is that of TorchServe's inference API, usually at port 8080. Each request has one image, since
    TorchServe batches requests itself.
    """

    def __init__(
        self,
        model: str,
        *,
        version: str | None = None,
        fixed_labels: bool = True,
        score_type: str = "probabilities",
    ):
        self.model = model
        self.version = version
        self.fixed_labels = fixed_labels
        self.score_type = score_type

    def request(self, images: Images, class_prompts: list[str]) -> Request:
        path = f"predictions/{quote(self.model, safe='')}"
        if self.version is not None:
            path += f"/{quote(self.version, safe='')}"
        return Request(path, content=images[0], headers={"Content-Type": media_type(images[0])})

    def scores(self, answer: Any, class_prompts: list[str]) -> Any:
        if isinstance(answer, dict) and isinstance(answer.get("code"), int) and "message" in answer:
            status = answer["code"]
            message = f"TorchServe answered with the error {status}: {shortened(answer['message'])}."
            raise ServiceError(message, retry=status == 429 or status >= 500, status=status)
        if isinstance(answer, list) and len(answer) == 1 and isinstance(answer[0], (list, dict)):
            # A handler that answers with a batch of one.
            return answer
        if not isinstance(answer, (list, dict)):
            raise ServiceError(f"TorchServe's answer is neither a dict nor a list of scores: {shortened(answer)}.")
        return [answer]
