"""The base class of prompters, and the prompted image (eq. 1).

A prompter is fitted to the training images, which gives it all that is not trained: an encoder, means, scales. While an
optimizer searches, it makes the prompts of many candidate parameter vectors at once. Finally it is frozen at the vector
that was found. A frozen prompter needs no classifier: it turns images into prompted images, and pickles.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from ..inputs.images import to_uint8
from ..inputs.reading import ImageTransformer, as_output, pixel_batches
from ..inputs.sources import open_images
from ..persistence.arrays import Array
from ..persistence.fields import NONE, OneOf, number
from ..persistence.files import SaveableEstimator
from ..persistence.format import expect

__all__ = ["FeatureBatches", "Prompter", "at_once", "prompted"]

_DRAWN_BYTES = 8 * 2**20  # pixels in double precision that get their prompts at once

FeatureBatches = Callable[[], Iterable[torch.Tensor]]


class Prompter(SaveableEstimator, ImageTransformer, ABC):
    """Base class of prompters. A subclass needs `fit_pixels`, `features`, `initial_parameters` and `prompts`.

    To scikit-learn a prompter is a transformer of images. A class statement with a name, such as
    ``class PromptBasis(Prompter, name="basis")``, registers that name.

    Attributes
    ----------
    n_parameters_ : int
        Number of parameters of a candidate; `fit_pixels` sets it.
    parameters_ : ndarray of shape (n_parameters_,)
        The parameters at which the prompter is frozen.
    statistics_ : ndarray of shape (n_statistics,) or None
        The batch statistics that belong to them.
    prompt_scale_ : float
        The factor of the prompt; 0 leaves images unmodified.
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

    @property
    def title(self) -> str:
        """What it draws, in two or three words, for reports."""
        return f"prompter {type(self).__name__}"

    def _finish_loading(self) -> None:
        super()._finish_loading()
        found, expected = len(self.parameters_), getattr(self, "n_parameters_", len(self.parameters_))
        expect(found == expected, f"parameters_ has {found} numbers; expected {expected}")

    @abstractmethod
    def fit_pixels(self, pixels: torch.Tensor) -> Prompter:
        """Learn everything that is not trained, and set `n_parameters_`.

        Parameters
        ----------
        pixels : tensor of shape (n, 3, height, width)
            A sample of the training images, RGB in [0, 1].

        Returns
        -------
        self : Prompter
            The fitted prompter. It has no prompts before `freeze` is called.
        """

    @abstractmethod
    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute the features from which the prompts of images are made.

        Parameters
        ----------
        pixels : tensor of shape (n, 3, height, width)
            RGB in [0, 1].

        Returns
        -------
        features : tensor of shape (n, ...)
            One entry per image. They do not depend on the trained parameters.
        """

    @abstractmethod
    def initial_parameters(self, rng: np.random.Generator) -> np.ndarray:
        """Return the parameters that training starts from.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of random numbers.

        Returns
        -------
        parameters : ndarray of shape (n_parameters_,)
            The parameters, float64.
        """

    @abstractmethod
    def prompts(
        self, candidates: torch.Tensor, features: torch.Tensor, statistics: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute the prompts of groups of candidates, each with images of its group.

        Parameters
        ----------
        candidates : tensor of shape (g, p, n_parameters_)
            Parameter vectors, p in each of the g groups.
        features : tensor of shape (g, n, ...)
            Features of the images of each group.
        statistics : tensor of shape (n_statistics,) or None, default=None
            Result of `batch_statistics`, with which the prompt of an image does not depend on the other images. None:
            statistics of the batch.

        Returns
        -------
        prompts : tensor of shape (g, p, n, 3, height, width)
            Prompts in units of the pixel range, not bounded.
        """

    def canvas(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the pictures to which the prompts are added: by default the images themselves.

        Parameters
        ----------
        pixels : tensor of shape (n, 3, height, width)
            RGB in [0, 1].

        Returns
        -------
        canvas : tensor of shape (n, 3, height, width)
            RGB in [0, 1]. It does not depend on the parameters, and has the size of `drawn_size`.
        """
        return pixels

    def drawn_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size of prompted images: by default that of the images.

        Parameters
        ----------
        size : (int, int)
            (height, width) of the images, in pixels.

        Returns
        -------
        size : (int, int)
            (height, width) of the prompted images, in pixels.
        """
        return size

    def original(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the pictures without a prompt that displays compare with prompted images: by default the canvas.

        Parameters
        ----------
        pixels : tensor of shape (n, 3, height, width)
            RGB in [0, 1].

        Returns
        -------
        original : tensor of shape (n, 3, height, width)
            RGB in [0, 1].
        """
        return self.canvas(pixels)

    def canvas_and_features(
        self, pixels: torch.Tensor, dtype: torch.dtype = torch.float32
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the canvas and the features together.

        A prompter that derives both from the same intermediate result overrides this method.

        Parameters
        ----------
        pixels : tensor of shape (n, 3, height, width)
            RGB in [0, 1].
        dtype : torch.dtype, default=torch.float32
            Type of the canvas.

        Returns
        -------
        canvas : tensor of shape (n, 3, height, width)
            Result of `canvas`; `pixels` itself if the prompter draws on the images.
        features : tensor of shape (n, ...)
            Result of `features`.
        """
        return self.canvas(pixels.to(dtype)), self.features(pixels)

    @property
    def n_statistics(self) -> int:
        """Length of the vector of batch statistics; 0 if prompts do not depend on the batch."""
        return 0

    def batch_statistics(self, parameters: torch.Tensor, batches: FeatureBatches) -> torch.Tensor | None:
        """Compute statistics with which the prompt of an image does not depend on the other images of its batch.

        Parameters
        ----------
        parameters : tensor of shape (n_parameters_,)
            The parameters at which the prompter will be frozen.
        batches : callable
            Returns an iterator over the features of all training images.

        Returns
        -------
        statistics : tensor of shape (n_statistics,) or None
            The statistics; None if prompts do not depend on the batch.
        """
        return None

    def freeze(
        self, parameters: np.ndarray, statistics: torch.Tensor | None = None, prompt_scale: float = 1.0
    ) -> Prompter:
        """Fix the parameters and their batch statistics.

        Parameters
        ----------
        parameters : ndarray of shape (n_parameters_,)
            The trained parameters. A float64 copy of them is kept.
        statistics : tensor of shape (n_statistics,) or None, default=None
            Result of `batch_statistics` for these parameters.
        prompt_scale : float, default=1.0
            Factor of the prompt, at least 0; 0 leaves images unmodified.

        Returns
        -------
        self : Prompter
            The frozen prompter.
        """
        self.parameters_ = np.array(parameters, dtype=np.float64)
        self.statistics_ = None if statistics is None else statistics.double().numpy()
        self.prompt_scale_ = float(prompt_scale)
        return self

    @property
    def frozen_state(self) -> list[Any]:
        """Values that distinguish this frozen prompter from others of its class fitted to the same images."""
        return [self.parameters_, self.statistics_, self.prompt_scale_]

    def frozen_prompts(self, features: torch.Tensor) -> torch.Tensor:
        """Compute the prompts of the frozen parameters.

        They are computed in double precision, so that the 8-bit image that is sent does not depend on its batch.

        Parameters
        ----------
        features : tensor of shape (n, ...)
            Result of `features`.

        Returns
        -------
        prompts : tensor of shape (n, 3, height, width), float64
            Prompts in units of the pixel range, not bounded, and not yet multiplied by `prompt_scale_`.
        """
        statistics = None if self.statistics_ is None else torch.from_numpy(self.statistics_)
        candidate = torch.from_numpy(self.parameters_)[None, None]
        return self.prompts(candidate, features.double()[None], statistics)[0, 0]

    def draw(self, pixels: torch.Tensor) -> torch.Tensor:
        """Draw prompts onto images without rounding them to 8 bits; no service is called.

        Parameters
        ----------
        pixels : tensor of shape (n, 3, height, width)
            RGB in [0, 1].

        Returns
        -------
        prompted : tensor of shape (n, 3, height, width)
            RGB in [0, 1].

        Raises
        ------
        NotFittedError
            If the prompter is not frozen.
        """
        check_is_fitted(self, "parameters_")
        if self.prompt_scale_ == 0:
            return pixels
        parts = pixels.split(at_once(pixels))
        return torch.cat([self.draw_features(*self.canvas_and_features(part, torch.float64)) for part in parts])

    def draw_features(self, canvas: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Draw prompts onto canvases whose features are known; see `draw`.

        Parameters
        ----------
        canvas : tensor of shape (n, 3, height, width), float64
            Result of `canvas`.
        features : tensor of shape (n, ...)
            Result of `features` for the same images.

        Returns
        -------
        prompted : tensor of shape (n, 3, height, width)
            RGB in [0, 1].
        """
        return prompted(canvas, self.frozen_prompts(features)[None], self.prompt_scale_)[0]

    def fit(self, X: Any, y: Any = None) -> Prompter:
        """Learn everything that is not trained, and freeze at the parameters that training would start from.

        To train a prompter, use `BlackVIPClassifier`, or `BlackVIPPrompter` in a pipeline.

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
        """Draw prompts onto images, in the form that a service receives; no service is called.

        Parameters
        ----------
        X : images, in any form that `BlackVIPClassifier` takes
            Images of the size that `fit` was given, unless `fit` had to resize.

        Returns
        -------
        prompted : ndarray of shape (n_images, height, width, 3), uint8
            RGB. If X has rows of flattened pixels, the shape is (n_images, height * width * 3).
        """
        X = open_images(X)
        return as_output(self, X, self.prompted_images(X))

    def prompted_images(self, X: Any) -> np.ndarray:
        """Draw prompts onto images; the result has the shape of images even if X is a table.

        Parameters
        ----------
        X : images, in any form that `BlackVIPClassifier` takes
            Images of the size that `fit` was given, unless `fit` had to resize.

        Returns
        -------
        prompted : ndarray of shape (n_images, height, width, 3), uint8
            RGB.
        """
        batches = pixel_batches(self.image_format_, self._open_images(X))
        return np.concatenate([to_uint8(self.draw(pixels)) for pixels in batches])

    @property
    def _n_features_out(self) -> int:
        height, width = self.drawn_size((self.image_format_.height, self.image_format_.width))
        return height * width * 3


def at_once(pixels: torch.Tensor) -> int:
    """Return the number of images whose prompts are made together, to bound memory.

    Parameters
    ----------
    pixels : tensor of shape (n, 3, height, width)
        The images.

    Returns
    -------
    n_images : int
        At least 1, and as many as take 8 MiB in double precision. Their features may take many times that.
    """
    return max(1, _DRAWN_BYTES // max(1, pixels[:1].numel() * 8))


def prompted(pixels: torch.Tensor, prompts: torch.Tensor, prompt_scale: float) -> torch.Tensor:
    """Compute prompted images clip(x + eps h(x)) in [0, 1] (eq. 1).

    Parameters
    ----------
    pixels : tensor of shape (..., n, 3, height, width)
        The prompter's canvas x: for most prompters, the images.
    prompts : tensor of shape (..., p, n, 3, height, width)
        The prompts h(x); the shapes are broadcast.
    prompt_scale : float
        The factor eps, in units of the pixel range.

    Returns
    -------
    prompted : tensor of shape (..., p, n, 3, height, width)
        RGB in [0, 1].
    """
    return torch.add(pixels, prompts, alpha=prompt_scale).clamp_(0, 1)  # eq. 1
