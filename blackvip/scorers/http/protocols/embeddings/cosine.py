"""Services that compare an image with texts themselves, and answer with cosines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .....exceptions import ServiceError
from ...adapter import Adapter, Images, Request, Send
from ...json_bodies import shortened
from ...json_templates import filled, placeholders
from ...keys import key_header
from ..by_name import preset_of
from .forms import IMAGE_PART, image_values, path_for
from .vectors import in_order, scale_factor

__all__ = ["COSINE_FORMS", "CosineForm", "CosineScore"]

# Largest error of a cosine above 1, of models in half precision.
_ROUNDING = 0.01


@dataclass(frozen=True)
class CosineForm:
    """A service that compares an image with texts: its request, and where the cosines are in its answer.

    Parameters
    ----------
    body : mapping
        The body of a request: JSON with names in braces. ``{prompts}`` stands for the list of class prompts, and the
        others are those of `EmbeddingForm`.
    cosines : str
        Where the cosines are in an answer: names of fields with dots between them, and ``*`` for the list. An `index`
        beside a cosine is its place.
    path : str
        Path of requests below the scorer's url.
    max_class_prompts : int or None, default=None
        The most class prompts of a request. None: no limit.
    key_header : str, default="Authorization"
        Header of the key, which follows the word "Bearer" in Authorization.
    first_timeout : float or None, default=300.0
        Time limit in seconds until the service has answered for the first time. None: the scorer's `timeout`.
    """

    body: Mapping[str, Any]
    cosines: str
    path: str
    max_class_prompts: int | None = None
    key_header: str = "Authorization"
    first_timeout: float | None = 300.0

    def __post_init__(self) -> None:
        if "prompts" not in placeholders(self.body) or not image_values(self.body):
            raise ValueError(
                f"body has the placeholders {sorted(placeholders(self.body))}; expected 'prompts', and 'image' or "
                "'image_url'."
            )


#: Forms by name. You may add your own, or pass it to `CosineScore`.
COSINE_FORMS: dict[str, CosineForm] = {
    "vllm": CosineForm(
        {"model": "{model}", "text_1": {"content": [IMAGE_PART]}, "text_2": "{prompts}"},
        cosines="data.*.score",
        path="score",
    ),
    "roboflow": CosineForm(
        {
            "clip_version_id": "{model}",
            "subject": {"type": "base64", "value": "{image}"},
            "subject_type": "image",
            "prompt": "{prompts}",
            "prompt_type": "text",
        },
        cosines="similarity.*",
        path="clip/compare",
        # Its CLIP_MAX_BATCH_SIZE, which its own environment may raise.
        max_class_prompts=8,
    ),
}


class CosineScore(Adapter):
    """Adapter for services that compare an image with texts: scores are a scale times the cosines that they return.

    A request has one image and all class prompts, which a CLIP model embeds again for each image. `Embeddings` embeds
    them once; use it where the service offers both.

    Parameters
    ----------
    model : str
        Name of the model; for Roboflow, the version of CLIP, such as "ViT-B-16".
    form : str or CosineForm, default="vllm"
        The service: "vllm", its path ``/v1/score``; "roboflow", the path ``/clip/compare`` of its inference server; or
        a form of your own.
    scale : float or "fit", default=100.0
        Factor of the cosine, as in `Embeddings`.

    Notes
    -----
    The url of the scorer is ``http://localhost:8000/v1`` for vLLM, and ``http://localhost:9001`` for an inference
    server of Roboflow, which reads its key from its own environment.

    Examples
    --------
    >>> from blackvip.scorers.http import CosineScore, HTTPScorer
    >>> scorer = HTTPScorer("http://localhost:9001", CosineScore("ViT-B-16", "roboflow"))
    >>> scorer.max_class_prompts
    8
    """

    score_type = "logits"

    def __init__(self, model: str, form: str | CosineForm = "vllm", *, scale: float | Literal["fit"] = 100.0):
        self.model = model
        self.form = form
        self.scale = scale

    @property
    def service(self) -> CosineForm:
        """The form."""
        return preset_of(self.form, COSINE_FORMS, CosineForm)

    @property
    def max_class_prompts(self) -> int | None:  # type: ignore[override]
        """The most class prompts of a request."""
        return self.service.max_class_prompts

    @property
    def first_timeout(self) -> float | None:  # type: ignore[override]
        """Time limit in seconds until the service has answered for the first time."""
        return self.service.first_timeout

    def prepare(self, send: Send, class_prompts: list[str]) -> CosineScore:
        """Check the scale; see `Adapter`.

        Raises
        ------
        ValueError
            If the scale is neither a positive number nor "fit".
        """
        scale_factor(self.scale)
        return self

    def request(self, images: Images, class_prompts: list[str]) -> Request:
        """Build a request with the image and all class prompts; see `Adapter`."""
        values = {name: value_of(images[0]) for name, value_of in image_values(self.service.body).items()}
        body = filled(self.service.body, {"model": self.model, "prompts": list(class_prompts), **values})
        return Request(path_for(self.service.path, self.model), body)

    def scores(self, answer: Any, class_prompts: list[str]) -> np.ndarray:
        """Return the scale times the cosines; see `Adapter`."""
        cosines = in_order(answer, self.service.cosines, len(class_prompts), "cosines")
        for cosine in cosines:
            if type(cosine) not in (int, float) or not abs(cosine) <= 1 + _ROUNDING:
                raise ServiceError(
                    f"The service's cosine is {shortened(cosine, 40)}; expected a number from -1 to 1. Is the model "
                    "one that embeds texts and images?"
                )
        return scale_factor(self.scale) * np.array([cosines], np.float64)

    def authorize(self, request: Request, url: str, body: bytes, key: str | None) -> dict[str, str]:
        """Return the header with the key; see `Adapter`."""
        return key_header(self.service.key_header, key)
