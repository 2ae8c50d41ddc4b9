"""Prompters: from an image's features to the prompt that is added to it, for many candidates at once.

A prompter is fitted to the training images (what is fixed: an encoder, means, scales), makes prompts for any
number of candidate parameter vectors while an optimizer searches, and at the end is frozen at the vector that
was found. A frozen prompter stands alone: it turns images into prompted images and pickles by itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from ..inputs.images import to_uint8
from ..inputs.reading import ImageTransformer, as_output, pixel_batches
from ..persistence.arrays import Array
from ..persistence.fields import NONE, OneOf, number
from ..persistence.files import SaveableEstimator

__all__ = ["FeatureBatches", "Prompter", "at_once", "make_prompter", "prompted"]

_DRAWN_BYTES = 8 * 2**20  # of pixels in double precision, onto which prompts are drawn at once

FeatureBatches = Callable[[], Iterable[torch.Tensor]]


class Prompter(SaveableEstimator, ImageTransformer, ABC):
    """What the training loop needs of a prompter, and what a frozen one is to scikit-learn: a transformer of images.

    Attributes
    ----------
    n_parameters_ : int
        Length of a candidate, known after `fit_pixels`.
    parameters_ : ndarray of shape (n_parameters_,)
        The vector at which the prompter is frozen.
    statistics_ : ndarray of shape (n_statistics,) or None
        The batch statistics that belong to it.
    prompt_scale_ : float
        The factor of the prompt with which it was frozen.
    """

    named: ClassVar[dict[str, type[Prompter]]] = {}  #: Prompters that have a short name, as in ``prompter="basis"``.
    n_parameters_: int
    parameters_: np.ndarray
    statistics_: np.ndarray | None
    prompt_scale_: float

    saved_attributes = {
        "parameters_": Array(("n_parameters",)),
        "statistics_": OneOf(NONE, Array(("n_statistics",))),
        "prompt_scale_": number(low=0),
    }

    @abstractmethod
    def fit_pixels(self, pixels: torch.Tensor) -> Prompter:
        """Learn what is fixed from training images (n, 3, height, width) in [0, 1]."""

    @abstractmethod
    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the prompt of each image is made from, of shape (n, ...)."""

    @abstractmethod
    def initial_parameters(self, rng: np.random.Generator) -> np.ndarray:
        """The vector of shape (n_parameters_,) that training starts from."""

    @abstractmethod
    def prompts(
        self, candidates: torch.Tensor, features: torch.Tensor, statistics: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Prompts (p, n, 3, height, width) of candidates (p, n_parameters_) for features (n, ...).

        With `statistics`, as `batch_statistics` gives them, an image's prompt does not depend on the others.
        """

    def grouped_prompts(self, candidates: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Prompts (g, p, n, 3, height, width) of groups of candidates (g, p, n_parameters_), each for its own images.

        Parameters
        ----------
        candidates : tensor of shape (g, p, n_parameters_)
            As many in each group.
        features : tensor of shape (g, n, ...)
            Of the images of each group.

        Returns
        -------
        prompts : tensor of shape (g, p, n, 3, height, width)
            As `prompts` makes them of each group; a prompter may be faster for all.
        """
        prompts = [self.prompts(*group) for group in zip(candidates, features)]
        return torch.stack(prompts) if len(prompts) > 1 else prompts[0][None]

    def canvas(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the prompts are added to: the images as they are, unless a prompter says otherwise.

        Parameters
        ----------
        pixels : tensor of shape (n, 3, height, width)
            RGB in [0, 1].

        Returns
        -------
        canvas : tensor of shape (n, 3, height, width)
            RGB in [0, 1]; it does not depend on the parameters.
        """
        return pixels

    def batch_statistics(self, parameters: torch.Tensor, batches: FeatureBatches) -> torch.Tensor | None:
        """What `prompts` needs so that an image's prompt does not depend on the rest of its batch, if anything.

        Parameters
        ----------
        parameters : tensor of shape (n_parameters_,)
            The parameters that will be frozen.
        batches : callable
            Returns an iterator over the features of all training images.

        Returns
        -------
        statistics : tensor of shape (n_statistics,) or None
            None where prompts do not depend on the batch.
        """
        return None

    def freeze(
        self, parameters: np.ndarray, statistics: torch.Tensor | None = None, prompt_scale: float = 1.0
    ) -> Prompter:
        """Fix the parameters, and the batch statistics that belong to them.

        Parameters
        ----------
        parameters : ndarray of shape (n_parameters_,)
            Kept in float64.
        statistics : tensor of shape (n_statistics,) or None
            As `batch_statistics` gives them.
        prompt_scale : float
            The factor of the prompt; 0 draws none.

        Returns
        -------
        self : Prompter
            The frozen prompter.
        """
        self.parameters_ = np.array(parameters, dtype=np.float64)
        self.statistics_ = None if statistics is None else statistics.double().numpy()
        self.prompt_scale_ = float(prompt_scale)
        return self

    def frozen_prompts(self, features: torch.Tensor) -> torch.Tensor:
        """Prompts of the frozen parameters.

        Double precision makes the 8-bit image that is sent independent of the batch it was computed in.

        Parameters
        ----------
        features : tensor of shape (n, ...)
            As `features` makes them.

        Returns
        -------
        prompts : tensor of shape (n, 3, height, width), float64
            In units of the pixel range, not bounded, before `prompt_scale_`.
        """
        statistics = None if self.statistics_ is None else torch.from_numpy(self.statistics_)
        return self.prompts(torch.from_numpy(self.parameters_)[None], features.double(), statistics)[0]

    def draw(self, pixels: torch.Tensor) -> torch.Tensor:
        """Prompted images, before they are rounded to 8 bits; no service is called.

        Parameters
        ----------
        pixels : tensor of shape (n, 3, height, width)
            RGB in [0, 1].

        Returns
        -------
        prompted : tensor of shape (n, 3, height, width)
            RGB in [0, 1].
        """
        check_is_fitted(self, "parameters_")
        if self.prompt_scale_ == 0:
            return pixels
        drawn = []
        for part in pixels.split(at_once(pixels)):
            prompts = self.frozen_prompts(self.features(part))
            drawn.append(prompted(self.canvas(part.double()), prompts[None], self.prompt_scale_)[0])
        return torch.cat(drawn)

    def fit(self, X: Any, y: Any = None) -> Prompter:
        """Learn what is fixed, and freeze at the parameters that training would start from.

        `BlackVIPClassifier` is what trains a prompter; `BlackVIPPrompter` does so within a pipeline.

        Parameters
        ----------
        X : images, in any form that `BlackVIPClassifier` takes
            The training images.
        y : None
            Ignored.

        Returns
        -------
        self : Prompter
            The untrained prompter.
        """
        pixels = self._pixels(X)
        self.fit_pixels(pixels)
        w = self.initial_parameters(np.random.default_rng(0))
        batches = lambda: (self.features(part).double() for part in pixels.split(64))
        return self.freeze(w, self.batch_statistics(torch.as_tensor(w), batches))

    def transform(self, X: Any) -> np.ndarray:
        """Images with their prompts, as they are sent to a service; no service is called.

        Parameters
        ----------
        X : images, in any form that `BlackVIPClassifier` takes
            Of the size that `fit` was given, unless it had to resize.

        Returns
        -------
        prompted : ndarray of shape (n_images, height, width, 3), uint8
            RGB. Where X is rows of flattened pixels, of shape (n_images, height * width * 3).
        """
        return as_output(self, X, self.prompted_images(X))

    def prompted_images(self, X: Any) -> np.ndarray:
        """Images with their prompts, as images whatever X is; no service is called.

        Parameters
        ----------
        X : images, in any form that `BlackVIPClassifier` takes
            Of the size that `fit` was given, unless it had to resize.

        Returns
        -------
        prompted : ndarray of shape (n_images, height, width, 3), uint8
            RGB.
        """
        batches = pixel_batches(self.image_format_, self._open_images(X))
        return np.concatenate([to_uint8(self.draw(pixels)) for pixels in batches])

    @property
    def _n_features_out(self) -> int:
        return self.image_format_.height * self.image_format_.width * 3


def at_once(pixels: torch.Tensor) -> int:
    """Images whose prompts are made together, as far as memory goes; features may be many times as large."""
    return max(1, _DRAWN_BYTES // max(1, pixels[:1].numel() * 8))


def prompted(pixels: torch.Tensor, prompts: torch.Tensor, prompt_scale: float) -> torch.Tensor:
    """clip(x + eps h(x)), BlackVIP eq. 1, in pixels of [0, 1]: (n, ...) and (p, n, ...) -> (p, n, ...).

    x is the prompter's `canvas` of the images, which for most is the images.
    """
    return torch.add(pixels, prompts, alpha=prompt_scale).clamp_(0, 1)


def make_prompter(prompter: str | Prompter) -> Prompter:
    """Make an unfitted prompter from a short name, or clone a `Prompter`."""
    if isinstance(prompter, Prompter):
        return clone(prompter)
    if prompter in Prompter.named:
        return Prompter.named[prompter]()
    raise ValueError(f"prompter={prompter!r}; expected one of {', '.join(map(repr, Prompter.named))}, or a Prompter.")
