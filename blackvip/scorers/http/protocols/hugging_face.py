"""Hugging Face's inference API: zero-shot image classification, and image classification."""

from __future__ import annotations

from typing import Any

from ....exceptions import ServiceError
from ..adapter import Adapter, Images
from ..json_bodies import shortened

__all__ = ["HuggingFaceClassifier", "HuggingFaceZeroShot"]


class HuggingFaceZeroShot(Adapter):
    """Adapter for zero-shot image classification on Hugging Face: the class prompts are the candidate labels.

    Parameters
    ----------
    hypothesis_template : str, default="{}"
        Template into which the service inserts each label. Class prompts are usually whole sentences.

    Notes
    -----
    The url of the scorer is that of the model or of an inference endpoint.
    """

    score_type = "probabilities"

    def __init__(self, *, hypothesis_template: str = "{}"):
        self.hypothesis_template = hypothesis_template

    def request(self, images: Images, class_prompts: list[str]) -> Any:
        parameters = {"candidate_labels": class_prompts, "hypothesis_template": self.hypothesis_template}
        return {"inputs": images[0], "parameters": parameters}

    def scores(self, answer: Any, class_prompts: list[str]) -> Any:
        return [_by_label(answer)]


class HuggingFaceClassifier(Adapter):
    """Adapter for image classification on Hugging Face: a model with its own labels.

    Parameters
    ----------
    top_k : int or None, default=None
        Number of labels in an answer. None: the service's default, usually five.
    function_to_apply : {"sigmoid", "softmax", "none"} or None, default=None
        Function applied to the model's outputs. None: the service's default.
    fixed_labels : bool, default=True
        Whether scores are for the model's own labels instead of the class prompts.

    Notes
    -----
    The url of the scorer is that of the model or of an inference endpoint.
    """

    def __init__(self, *, top_k: int | None = None, function_to_apply: str | None = None, fixed_labels: bool = True):
        self.top_k = top_k
        self.function_to_apply = function_to_apply
        self.fixed_labels = fixed_labels

    @property
    def score_type(self) -> str:  # type: ignore[override]
        """Type of the scores."""
        return "logits" if self.function_to_apply == "none" else "probabilities"

    def request(self, images: Images, class_prompts: list[str]) -> Any:
        wanted = {"top_k": self.top_k, "function_to_apply": self.function_to_apply}
        parameters = {name: value for name, value in wanted.items() if value is not None}
        return {"inputs": images[0], **({"parameters": parameters} if parameters else {})}

    def scores(self, answer: Any, class_prompts: list[str]) -> Any:
        return [_by_label(answer)]


def _by_label(answer: Any) -> dict[str, Any]:
    if isinstance(answer, dict) and "error" in answer:
        raise ServiceError(f"The service answered with an error: {shortened(answer['error'])}.")
    if isinstance(answer, list) and len(answer) == 1 and isinstance(answer[0], list):
        # The answer to a batch of one image.
        answer = answer[0]
    if not isinstance(answer, list) or not all(isinstance(entry, dict) and "label" in entry for entry in answer):
        raise ServiceError(f"The answer is not a list of labels with scores: {shortened(answer)}.")
    scores = {entry["label"]: entry.get("score") for entry in answer}
    if len(scores) < len(answer):
        raise ServiceError(f"The answer has a label twice: {shortened(answer)}.")
    return scores
