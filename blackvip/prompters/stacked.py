"""Two prompters, one after another: a trained prompt on corrected images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..inputs.images import from_uint8, to_uint8
from ..inputs.reading import ReadsImages
from ..persistence.format import expect
from ..persistence.objects import Object
from .base import FeatureBatches, Prompter, at_once
from .by_name import PROMPTER, make_prompter

__all__ = ["Stacked"]


class Stacked(Prompter):
    """Prompter that draws on the output of another: the images that `first` corrects are the canvas of `then`.

    Only `then` is trained. It is fitted to corrected images, and computes its features from them. `prompt_scale` is the
    factor of its prompt. For displays, the prompt is the whole change of the image.

    Parameters
    ----------
    first : str or Prompter, default="autocontrast"
        A prompter without parameters, such as a `Correction` or its name.
    then : str or Prompter, default="basis"
        Any prompter, or its name.

    Attributes
    ----------
    first_, then_ : Prompter
        Both prompters, fitted.
    n_parameters_ : int
        Number of parameters of `then_`.

    Examples
    --------
    >>> from blackvip import BlackVIPClassifier, Stacked
    >>> def service(images, class_prompts):
    ...     return images.mean(axis=(1, 2))
    >>> clf = BlackVIPClassifier(service, prompter=Stacked("median", "basis"))
    """

    first_: Prompter
    then_: Prompter

    _parameter_constraints = {"first": [str, Prompter], "then": [str, Prompter]}
    saved_parameters = {"first": PROMPTER, "then": PROMPTER}
    saved_attributes = {"first_": Object(Prompter), "then_": Object(Prompter)}
    derived_attributes = ("n_parameters_",)

    def __init__(self, first: str | Prompter = "autocontrast", then: str | Prompter = "basis"):
        self.first = first
        self.then = then

    @property
    def title(self) -> str:
        return f"{self.then_.title} on the {self.first_.title}"

    def _finish_loading(self) -> None:
        self.n_parameters_ = len(self.then_.parameters_)
        super()._finish_loading()
        expect(not len(self.first_.parameters_), "first_ of a Stacked has parameters")
        for part in (self.first_, self.then_):
            expect(part.image_format_ == self.image_format_, "a Stacked and its parts have different image formats")

    def fit_pixels(self, pixels: torch.Tensor) -> Stacked:
        self._validate_params()
        self.first_ = make_prompter(self.first).fit_pixels(pixels)
        if self.first_.n_parameters_:
            raise ValueError(
                f"first={self.first!r} has {self.first_.n_parameters_} parameters; expected a prompter without any, "
                "such as 'autocontrast' or another Correction."
            )
        self.first_.freeze(np.zeros(0))
        corrected = torch.cat([self._corrected(part) for part in pixels.split(at_once(pixels))])
        self.then_ = make_prompter(self.then).fit_pixels(corrected)
        self.n_parameters_ = self.then_.n_parameters_
        return self

    def drawn_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return self.then_.drawn_size(self.first_.drawn_size(size))

    def canvas(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.then_.canvas(self._corrected(pixels).to(pixels.dtype))

    def original(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.then_.original(self.first_.original(pixels))

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.then_.features(self._corrected(pixels))

    def canvas_and_features(
        self, pixels: torch.Tensor, dtype: torch.dtype = torch.float32
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.then_.canvas_and_features(self._corrected(pixels), dtype)

    def initial_parameters(self, rng: np.random.Generator) -> np.ndarray:
        return self.then_.initial_parameters(rng)

    def prompts(
        self, candidates: torch.Tensor, features: torch.Tensor, statistics: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self.then_.prompts(candidates, features, statistics)

    @property
    def n_statistics(self) -> int:
        return self.then_.n_statistics

    def batch_statistics(self, parameters: torch.Tensor, batches: FeatureBatches) -> torch.Tensor | None:
        return self.then_.batch_statistics(parameters, batches)

    def freeze(
        self, parameters: np.ndarray, statistics: torch.Tensor | None = None, prompt_scale: float = 1.0
    ) -> Stacked:
        super().freeze(parameters, statistics, prompt_scale)
        self.then_.freeze(parameters, statistics, prompt_scale)
        # Both have the same arrays, so that a file holds them once.
        self.then_.parameters_, self.then_.statistics_ = self.parameters_, self.statistics_
        if hasattr(self, "image_format_"):
            self._tell_parts()
        return self

    @property
    def frozen_state(self) -> list[Any]:
        return [*self.first_.frozen_state, *self.then_.frozen_state]

    def read_like(self, fitted: ReadsImages) -> None:
        super().read_like(fitted)
        self._tell_parts()

    def _tell_parts(self) -> None:
        """Let the parts read images in the same format, so that each can be used and saved alone."""
        for part in (self.first_, self.then_):
            part.read_like(self)

    def _corrected(self, pixels: torch.Tensor) -> torch.Tensor:
        """Correct images with `first_`, and round to 8 bits: (n, 3, height, width), float32, in [0, 1]."""
        return from_uint8(to_uint8(self.first_.draw(pixels))).contiguous()
