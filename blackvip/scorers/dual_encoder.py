"""Models on this machine that embed images and texts, such as CLIP, as score functions."""

from __future__ import annotations

import sys
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator

from ..exceptions import ClassPromptError
from ..process.devices import device_of, in_passes
from ..process.settings import usual_settings
from .local_models import HoldsModel, as_pixels, digest_of

__all__ = ["PRECISIONS", "DualEncoderScorer", "Tower"]

#: Types of the image tower in mixed precision, by name; None: that of its weights.
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# Class prompts whose embeddings are kept; about 20 MB.
_MOST_PROMPTS = 10_000
# Pixels of a forward pass on a CPU. More of them exceed its caches and are slower.
_CPU_PIXELS = 8 * 224 * 224


class Tower(ABC):
    """A loaded model on its device, with the embeddings of the class prompts that were used last.

    Parameters
    ----------
    device : torch.device
        Device of the model.
    n_pixels : int
        Number of pixels of an image as the model sees it.
    """

    def __init__(self, device: torch.device, n_pixels: int):
        self.device = device
        #: Maximal number of images in a forward pass.
        self.most_images = sys.maxsize if device.type != "cpu" else max(1, _CPU_PIXELS // n_pixels)
        # Guards the attributes below.
        self._lock = threading.Lock()
        self._embeddings: OrderedDict[tuple[str, tuple[str, ...]], torch.Tensor] = OrderedDict()
        self._last: tuple[Any, torch.Tensor] = (None, torch.empty(0))

    @abstractmethod
    def prepared(self, pixels: torch.Tensor) -> Any:
        """Return pixels (n, 3, height, width) on the model's device in its size and normalised.

        They are single-precision floats in [0, 1], or of 8 bits, which are treated as in the model's own preprocessing.
        """

    @abstractmethod
    def encode_images(self, prepared: Any) -> torch.Tensor:
        """Return the features (n, n_features) of prepared images."""

    @abstractmethod
    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        """Return the normalised embeddings (n, n_features) of texts."""

    @abstractmethod
    def scaled(self, cosines: torch.Tensor) -> torch.Tensor:
        """Return the logits of cosines (n, n_classes)."""

    def logits(self, pixels: torch.Tensor, texts: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
        """Return the logits (n, n_classes) of pixels (n, 3, height, width) for embeddings of class prompts."""
        pixels = pixels.to(self.device)
        prepared = self.prepared(pixels if pixels.dtype == torch.uint8 else pixels.float())
        with torch.autocast(self.device.type, dtype) if dtype is not None else nullcontext():
            features = self.encode_images(prepared).float()
        if dtype == torch.float16 and not features.isfinite().all():
            features = self.encode_images(prepared)
        return self.scaled(F.normalize(features, dim=-1) @ texts.T)

    def text_embeddings(self, prompts: list[str], templates: tuple[str, ...], batch_size: int) -> torch.Tensor:
        """Return the normalised embeddings (n_classes, n_features) of class prompts, from the cache if possible."""
        wanted = (tuple(prompts), templates)
        with self._lock:
            if self._last[0] != wanted:
                new = [prompt for prompt in dict.fromkeys(prompts) if (prompt, templates) not in self._embeddings]
                for prompt, embedding in zip(new, self._embedded(new, templates, batch_size)):
                    self._embeddings[prompt, templates] = embedding
                for prompt in prompts:
                    self._embeddings.move_to_end((prompt, templates))
                self._last = wanted, torch.stack([self._embeddings[prompt, templates] for prompt in prompts])
                while len(self._embeddings) > _MOST_PROMPTS:
                    self._embeddings.popitem(last=False)
            return self._last[1]

    def _embedded(self, prompts: list[str], templates: tuple[str, ...], batch_size: int) -> list[torch.Tensor]:
        texts = [template.replace("{}", prompt) for prompt in prompts for template in templates]
        parts = [self.encode_texts(texts[first : first + batch_size]) for first in range(0, len(texts), batch_size)]
        if not parts:
            return []
        averaged = torch.cat(parts).float().unflatten(0, (len(prompts), len(templates))).mean(dim=1)
        return list(F.normalize(averaged, dim=-1))


class DualEncoderScorer(HoldsModel, BaseEstimator, ABC):
    """Base of score functions that return the logits of such a model.

    A tensor on the model's device never leaves it. A subclass has the parameters `templates`, `device`, `batch_size`
    and `precision`.
    """

    score_type = "logits"
    takes_tensors = True
    templates: Sequence[str] | str | None
    device: str
    batch_size: int
    precision: str

    @abstractmethod
    def _load(self) -> Tower:
        """Load the model on its device."""

    def _architecture(self) -> str:
        """Return what the files on this machine leave open about the model."""
        return ""

    @property
    def identity(self) -> str | None:
        """The content of the files on this machine, and what else the logits depend on; None for a model of a hub."""
        files = self._files()
        if not files:
            return None
        model = f"{type(self).__name__} {self._architecture()}".strip()
        settings = f"templates {_checked_templates(self.templates)}, precision {self.precision}"
        return f"{model}, files {digest_of(files)}, {settings}"

    @property
    def images_per_call(self) -> int:
        """The most images in one call: `batch_size`."""
        return self.batch_size

    @property
    def tensor_device(self) -> str:
        """Device on which prompts are best drawn: a GPU with double precision, else the CPU."""
        device = device_of(self.device)
        return "cpu" if device.type == "mps" else str(device)

    @usual_settings()
    def __call__(self, images: np.ndarray | torch.Tensor, class_prompts: Sequence[str]) -> np.ndarray:
        """Return the logits of images for class prompts.

        Parameters
        ----------
        images : ndarray of shape (n, height, width, 3), uint8, or tensor of shape (n, 3, height, width)
            A tensor holds floats in [0, 1], on any device.
        class_prompts : sequence of str

        Returns
        -------
        logits : ndarray of shape (n, n_classes), float32

        Raises
        ------
        ValueError
            If the model or its weights are not known, or its files have changed since they were loaded.
        """
        self._validate_params()
        templates = _checked_templates(self.templates)
        pixels = as_pixels(images)
        tower = self._model()
        dtype = _autocast_dtype(self.precision, tower.device)
        if not len(pixels):
            return np.empty((0, len(class_prompts)), np.float32)
        with torch.inference_mode():
            texts = tower.text_embeddings(list(class_prompts), templates, self.batch_size)
            most = min(self.batch_size, tower.most_images)
            return torch.cat(in_passes(lambda part: tower.logits(part, texts, dtype), pixels, most)).cpu().numpy()

    @usual_settings()
    def differentiable(self, class_prompts: Sequence[str]) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return the logits as a function of pixels that gradients can pass.

        Parameters
        ----------
        class_prompts : sequence of str
            One text per class.

        Returns
        -------
        network : callable
            It maps pixels (n, 3, height, width) in [0, 1] to logits (n, n_class_prompts).
        """
        self._validate_params()
        templates, tower = _checked_templates(self.templates), self._model()
        with torch.no_grad():
            texts = tower.text_embeddings(list(class_prompts), templates, self.batch_size).clone()
        return lambda pixels: tower.logits(pixels, texts, None)


def _autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype in which the image tower runs; None for that of its weights."""
    if precision == "auto":
        return torch.float16 if device.type == "cuda" else None
    return PRECISIONS[precision]


def _checked_templates(templates: Sequence[str] | str | None) -> tuple[str, ...]:
    if templates is None:
        return ("{}",)
    checked = (templates,) if isinstance(templates, str) else tuple(templates)
    if not checked:
        raise ClassPromptError("templates is empty; expected texts with '{}', or None to use class prompts unchanged.")
    for template in checked:
        if not isinstance(template, str) or "{}" not in template:
            raise ClassPromptError(
                f"The template {template!r} is not a text with '{{}}' in place of the class prompt; every class "
                "would get the same text."
            )
    return checked
