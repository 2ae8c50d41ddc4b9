"""Histograms of gradient orientations: image features that need no weights, download or training."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from ..persistence.arrays import Array
from ..persistence.format import expect
from .base import Encoder
from .filters import filtered, gaussian

__all__ = ["GradientEncoder"]

_SIDE = 64  # px: larger images are shrunk until their shorter side has this length
_SIGMAS = (1.0, 2.0)  # px: scales of the Gaussian derivatives
_N_ORIENTATIONS = 8
_WINDOW = 17  # px: side of the square over which gradient magnitudes are averaged
_FAINT = 0.02  # is added to that average, so that noise on an even background stays small
_EMPTY = 1e-6  # is added to a histogram before its square root, whose slope at 0 would amplify rounding errors
_COARSE, _FINE, _COLOUR = (1, 2), (4, 7), (1, 2, 4)  # sides of the grids
_AT_ONCE = 16  # images whose maps fit into a processor's cache
_MIN_SPREAD = 0.01  # smallest divisor of a feature
_MIN_SHARE = 0.1  # smallest divisor, as a share of the root mean square spread in the feature's block


class GradientEncoder(Encoder, name="gradients"):
    """Histograms of gradient orientations and mean colours: features of an image that need no training.

    There are three blocks of features, in this order:

    - "coarse": histograms of gradient orientations over grids of 1 x 1 and 2 x 2 cells,
    - "fine": the same over grids of 4 x 4 and 7 x 7 cells,
    - "colour": the mean of each channel over grids of 1 x 1, 2 x 2 and 4 x 4 cells.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features_out_,)
        Mean of each feature over the training images.
    scale_ : ndarray of shape (n_features_out_,)
        Standard deviation of each feature over the training images, and at least a tenth of the typical one in its
        block.
    n_features_out_ : int
        Number of features.

    Notes
    -----
    Gradients are Gaussian derivatives of the mean of the channels, at scales of 1 and 2 px. Images whose shorter side
    exceeds 64 px are shrunk first. The magnitude of a gradient is divided by the mean magnitude around it, so features
    depend little on contrast, and not at all on brightness. Each magnitude is shared by the two nearest of eight
    orientations. The means over cells are square-rooted. Finally each feature is standardised and divided by the square
    root of its block's size, so a block of a training image has a norm near 1.
    """

    saved_attributes = {"mean_": Array(("n_features",)), "scale_": Array(("n_features",), low=1e-3)}

    def _finish_loading(self) -> None:
        super()._finish_loading()
        n_features = sum(self.block_sizes_)
        expect(self.n_features_out_ == n_features, f"n_features_out_ is {self.n_features_out_}; expected {n_features}")
        expect(len(self.mean_) == n_features, f"mean_ has {len(self.mean_)} numbers; expected {n_features}")

    @property
    def block_sizes_(self) -> tuple[int, ...]:
        """Number of features in each block: coarse, fine and colour."""
        per_cell = len(_SIGMAS) * _N_ORIENTATIONS
        return per_cell * _n_cells(_COARSE), per_cell * _n_cells(_FINE), 3 * _n_cells(_COLOUR)

    def fit_pixels(self, pixels: torch.Tensor) -> GradientEncoder:
        features = _in_parts(pixels, torch.float64).numpy()
        self.mean_ = features.mean(axis=0)
        blocks = np.split(features.std(axis=0), np.cumsum(self.block_sizes_)[:-1])
        floors = [max(_MIN_SPREAD, _MIN_SHARE * math.sqrt(np.square(spread).mean())) for spread in blocks]
        self.scale_ = np.concatenate([np.maximum(spread, floor) for spread, floor in zip(blocks, floors)])
        self.n_features_out_ = len(self.mean_)
        return self

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        features = _in_parts(pixels, pixels.dtype)
        sizes = np.repeat(self.block_sizes_, self.block_sizes_)
        mean, scale = torch.as_tensor(self.mean_), torch.as_tensor(self.scale_ * np.sqrt(sizes))
        return (features - mean.to(features)) / scale.to(features)  # (B14)


def _n_cells(grids: tuple[int, ...]) -> int:
    return sum(side**2 for side in grids)


def _in_parts(pixels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Compute features (n, n_features) before they are standardised, for a few images at a time."""
    return torch.cat([_descriptors(part.to(dtype)) for part in pixels.split(_AT_ONCE)])


def _descriptors(pixels: torch.Tensor) -> torch.Tensor:
    """Compute square roots of orientation histograms, and mean colours: (n, n_features)."""
    grey = _made_smaller(pixels.mean(dim=1, keepdim=True))
    maps = [_orientation_maps(grey, sigma) for sigma in _SIGMAS]
    histograms = [(_pooled(maps, grids) + _EMPTY).sqrt() for grids in (_COARSE, _FINE)]
    return torch.cat([*histograms, _pooled([pixels], _COLOUR)], dim=1)


def _made_smaller(images: torch.Tensor) -> torch.Tensor:
    height, width = images.shape[-2:]
    ratio = _SIDE / min(height, width)
    if ratio >= 1:
        return images
    return F.interpolate(images, size=(round(height * ratio), round(width * ratio)), mode="bilinear", antialias=True)


def _pooled(maps: list[torch.Tensor], grids: tuple[int, ...]) -> torch.Tensor:
    """Compute means over the cells of grids; cells share pixels if there are fewer pixels than cells."""
    return torch.cat([F.adaptive_avg_pool2d(part, side).flatten(1) for side in grids for part in maps], dim=1)


def _orientation_maps(grey: torch.Tensor, sigma: float) -> torch.Tensor:
    """Compute the relative gradient magnitude in each orientation; the first orientation points to the right.

    Parameters
    ----------
    grey : tensor of shape (n, 1, height, width)
        Mean of the channels.
    sigma : float
        Standard deviation of the Gaussian, in pixels.

    Returns
    -------
    maps : tensor of shape (n, 8, height, width)
        Magnitudes relative to their surroundings.
    """
    smooth = gaussian(sigma)
    at = torch.arange(len(smooth)) - len(smooth) // 2
    slope = at * smooth
    # The derivative is 1 where brightness rises by 1 per pixel.
    slope /= (at * slope).sum()
    to_right = filtered(grey, rows=smooth, columns=slope)
    down = filtered(grey, rows=slope, columns=smooth)
    magnitude = (to_right.square() + down.square()).sqrt()
    even = torch.full((_WINDOW,), 1 / _WINDOW, dtype=torch.float64)
    magnitude = magnitude / (filtered(magnitude, rows=even, columns=even) + _FAINT)  # (B14)
    angle = torch.atan2(down, to_right) * (_N_ORIENTATIONS / (2 * math.pi))
    below = angle.floor()
    # The share of the magnitude that belongs to the next orientation.
    towards = angle - below
    # A remainder, since the number of orientations is a power of two; % takes ten times as long.
    nearest = torch.cat([below, below + 1], dim=1).long() & (_N_ORIENTATIONS - 1)
    shares = torch.cat([magnitude * (1 - towards), magnitude * towards], dim=1)
    n, _, height, width = grey.shape
    return shares.new_zeros(n, _N_ORIENTATIONS, height, width).scatter_(1, nearest, shares)
