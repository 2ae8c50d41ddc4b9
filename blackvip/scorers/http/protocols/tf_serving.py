"""TensorFlow Serving's REST API: ``:predict`` in the row format."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from ....exceptions import ServiceError
from ..adapter import Adapter, Images, Request
from ..encoding import to_tensor
from ..json_bodies import shortened

__all__ = ["TFServing"]


class TFServing(Adapter):
    """Adapter for TensorFlow Serving: ``POST v1/models/{model}:predict`` with a list of instances.

    Parameters
    ----------
    model : str
        Name of the model.
    version : int or None, default=None
        Version of the model. None: the latest.
    version_label : str or None, default=None
        Label of the version, used instead of `version`.
    signature_name : str or None, default=None
        Signature of the model. None: its default.
    input, output : str or None, default=None
        Names of the tensors. None: the model has only one.
    image_format : {"png", "jpeg", "raw"}, default="png"
        Files are sent as ``{"b64": ...}``, for a model that decodes them itself. "raw": nested lists of pixels, for a
        model that takes tensors of shape (n, height, width, 3). They are several times as long as files.
    scaled : bool, default=False
        Whether pixels are sent as numbers between 0 and 1 instead of integers between 0 and 255.
    score_type : {"auto", "logits", "probabilities"}, default="auto"
        Type of the scores.
    fixed_labels : bool, default=False
        Whether scores are for the model's own labels instead of the class prompts.

    Notes
    -----
    The url of the scorer is the part before ``/v1``. Class prompts are not sent: the model's outputs must be in their
    order.
    """

    images_per_request = None

    def __init__(
        self,
        model: str,
        *,
        version: int | None = None,
        version_label: str | None = None,
        signature_name: str | None = None,
        input: str | None = None,
        output: str | None = None,
        image_format: str = "png",
        scaled: bool = False,
        score_type: str = "auto",
        fixed_labels: bool = False,
    ):
        self.model = model
        self.version = version
        self.version_label = version_label
        self.signature_name = signature_name
        self.input = input
        self.output = output
        self.image_format = image_format
        self.scaled = scaled
        self.score_type = score_type
        self.fixed_labels = fixed_labels

    def request(self, images: Images, class_prompts: list[str]) -> Request:
        instances: list[Any]
        if self.image_format != "raw":
            instances = [{"b64": image} for image in images]
        else:
            instances = (to_tensor(images) if self.scaled else images).tolist()  # type: ignore[arg-type, union-attr]
        if self.input is not None:
            instances = [{self.input: instance} for instance in instances]
        body: dict[str, Any] = {"instances": instances}
        if self.signature_name is not None:
            body = {"signature_name": self.signature_name, **body}
        path = f"v1/models/{quote(self.model, safe='')}"
        if self.version is not None:
            path += f"/versions/{self.version}"
        elif self.version_label is not None:
            path += f"/labels/{quote(self.version_label, safe='')}"
        return Request(f"{path}:predict", json=body)

    def scores(self, answer: Any, class_prompts: list[str]) -> Any:
        predictions = answer.get("predictions") if isinstance(answer, dict) else None
        if not isinstance(predictions, list):
            raise ServiceError(f"The answer of TensorFlow Serving has no predictions: {shortened(answer)}.")
        if not predictions or not isinstance(predictions[0], dict):
            return predictions
        names = sorted(predictions[0])
        name = self.output or (names[0] if len(names) == 1 else None)
        if name not in names:
            raise ServiceError(
                f"The model {self.model!r} has the outputs {names}; set output to the one with the scores."
            )
        return [row[name] for row in predictions]
