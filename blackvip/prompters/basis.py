"""The prompt basis: a weighted sum of fixed images and simple filters of the image (B1)."""

from __future__ import annotations

import math
from numbers import Real

import numpy as np
import torch
from sklearn.utils._param_validation import Interval

from ..encoders.filters import filtered, gaussian
from ..persistence.arrays import Array
from ..persistence.fields import NONE, integer
from ..persistence.format import expect
from .base import Prompter

__all__ = ["PromptBasis"]

_MEASURED_PIXELS = 2**22  # pixels of training images on which the root mean square of each phi is measured
_CACHED_PIXELS = 2**14  # pixels of images whose phi stay in a processor's cache


class PromptBasis(Prompter, name="basis"):
    """Prompt with fourteen parameters: a weighted sum of fixed images and simple filters of the image.

    The prompt of an image x is the sum of ``w_j * phi_j(x)`` (B1). The phi are:

    - mean, median, 10 % and 90 % quantiles of the training images, and a constant; they remove or add what all images
      share,
    - the image and its square, for contrast and tone,
    - three Gaussian blurs of the image, for sharpness and shading,
    - the image's own mean and median in each channel, for fog, lighting and the colour of the background,
    - its 3 x 3 maximum and minimum, for thicker or thinner strokes.

    The more parameters a prompter has, the more billed images SPSA needs. The basis therefore trains with far fewer
    images than a decoder.

    Parameters
    ----------
    rms : float, default=0.3
        Root mean square over the training images to which each phi is scaled, in units of the pixel range. It is
        measured on a part of the images if there are many.

    Attributes
    ----------
    images_ : ndarray of shape (5, 3, height, width), float32
        The phi that are the same for every image.
    scale_ : ndarray of shape (14,)
        Factor of each phi (B2).
    n_parameters_ : int
        Number of weights, 14.
    """

    _parameter_constraints = {"rms": [Interval(Real, 0, None, closed="left")]}
    _sigmas = (1.0, 3.0, 8.0)
    _n_fixed, _n_phi = 5, 5 + len(_sigmas) + 6

    saved_attributes = {
        "images_": Array((_n_fixed, 3, "height", "width"), "float32"),
        "scale_": Array((_n_phi,)),
        "n_parameters_": integer(_n_phi, _n_phi),
        "parameters_": Array((_n_phi,)),
        "statistics_": NONE,
    }

    def __init__(self, rms: float = 0.3):
        self.rms = rms

    def _finish_loading(self) -> None:
        super()._finish_loading()
        size = (self.image_format_.height, self.image_format_.width)
        expect(self.images_.shape[2:] == size, f"images_ have the size {self.images_.shape[2:]}; expected {size}")

    def fit_pixels(self, pixels: torch.Tensor) -> PromptBasis:
        self._validate_params()
        # Quantiles are taken line by line, since NumPy copies its input.
        lines = np.moveaxis(pixels.numpy(), 2, 0)
        quantiles = np.stack([np.quantile(line, [0.5, 0.1, 0.9], axis=0) for line in lines], axis=2)
        images = [pixels.mean(0).numpy(), *quantiles, np.ones(pixels.shape[1:])]
        self.images_ = np.stack(images).astype(np.float32)
        self.n_parameters_ = len(self.images_) + len(self._sigmas) + 6
        power = np.zeros(self.n_parameters_)
        power[: len(images)] = np.square(self.images_, dtype=np.float64).mean((1, 2, 3))
        some = pixels[:: math.ceil(pixels[:, 0].numel() / _MEASURED_PIXELS)]
        for part in some.split(max(1, _CACHED_PIXELS // pixels[0, 0].numel())):
            squares = self.features(part).double().square_().mean((2, 3, 4))
            power[len(images) :] += squares.sum(0).numpy() / len(some)
        # (B2)
        self.scale_ = self.rms / np.sqrt(power).clip(min=1e-3)
        return self

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute the phi that depend on the image.

        Parameters
        ----------
        pixels : tensor of shape (n, 3, height, width)
            RGB in [0, 1].

        Returns
        -------
        phi : tensor of shape (n, 9, 3, height, width)
            Values in units of the pixel range, before they are scaled.
        """
        # In double precision the order of the sums does not show in the result.
        x = pixels.double()
        flat = x.flatten(2)
        phi = pixels.new_empty(len(pixels), len(self._sigmas) + 6, *pixels.shape[1:])
        phi[:, 0] = pixels
        for k, sigma in enumerate(self._sigmas, 1):
            phi[:, k] = filtered(x, gaussian(sigma), gaussian(sigma))
        *_, square, mean, median, largest, smallest = phi.unbind(1)
        torch.square(pixels, out=square)
        mean[:] = flat.mean(2)[..., None, None]
        # The lower median. NumPy's partition takes ten times as long where many pixels are alike.
        median[:] = pixels.flatten(2).median(2).values[..., None, None]
        largest[:] = _largest_around(pixels)
        smallest[:] = -_largest_around(-pixels)
        return phi

    def initial_parameters(self, rng: np.random.Generator) -> np.ndarray:
        return np.zeros(self.n_parameters_)

    def prompts(
        self, candidates: torch.Tensor, features: torch.Tensor, statistics: torch.Tensor | None = None
    ) -> torch.Tensor:
        # (B1): fixed images (g, p, d), and phi of each image (g, n, p, d), where d is 3 * height * width
        weights = candidates * torch.from_numpy(self.scale_).to(candidates)
        of_fixed, of_image = weights.split([len(self.images_), len(self._sigmas) + 6], dim=2)
        fixed = of_fixed @ torch.from_numpy(self.images_).to(candidates).flatten(1)
        own = of_image[:, None] @ features.to(candidates.dtype).flatten(3)
        return (own.transpose(1, 2) + fixed[:, :, None]).unflatten(3, features.shape[3:])


def _largest_around(pixels: torch.Tensor) -> torch.Tensor:
    """Compute the maximum of the 3 x 3 pixels around each pixel."""
    for dim in (-1, -2):
        side = pixels.shape[dim]
        if side > 1:
            pairs = torch.maximum(pixels.narrow(dim, 0, side - 1), pixels.narrow(dim, 1, side - 1))
            first, last = pixels.narrow(dim, 0, 1), pixels.narrow(dim, side - 1, 1)
            pixels = torch.maximum(torch.cat([first, pairs], dim), torch.cat([pairs, last], dim))
    return pixels
