"""Gradient features: local descriptors of an image that need no weights, no download and no training."""

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

_SIDE = 64  # px of the shorter side, at most, that gradients are taken at
_SIGMAS = (1.0, 2.0)  # px, of the Gaussian derivatives
_N_ORIENTATIONS = 8
_WINDOW = 17  # px: gradients are relative to their mean over such a square
_FAINT = 0.02  # added to that mean, so that noise on an even ground stays small
_EMPTY = 1e-6  # added to a histogram before its square root, whose slope at 0 would blow rounding errors up
_COARSE, _FINE, _COLOUR = (1, 2), (4, 7), (1, 2, 4)  # sides of the grids
_AT_ONCE = 16  # images, whose maps a processor's cache holds
_LEAST = 0.01  # spread that a feature is divided by at least
_LEAST_SHARE = 0.1  # the same, as a share of the root mean square spread in the feature's block


class GradientEncoder(Encoder, name="gradients"):
    """Histograms of gradient orientations, and colours: features of an image that nothing was trained for.

    There are three blocks of features, in this order:

    - "coarse": histograms of gradient orientations over grids of 1 x 1 and 2 x 2 cells,
    - "fine": the same over grids of 4 x 4 and 7 x 7 cells,
    - "colour": the mean of each channel over grids of 1 x 1, 2 x 2 and 4 x 4 cells.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features_out_,)
        Of each feature over the training images.
    scale_ : ndarray of shape (n_features_out_,)
        Its standard deviation there, but not less than a tenth of what is usual in its block.
    n_features_out_ : int
        Features of an image.

    Notes
    -----
    Gradients are Gaussian derivatives of the mean of the channels, at scales of 1 and 2 px of an image whose shorter
    side has 64 px at most; larger images are made smaller first. Their magnitudes are divided by the mean
    magnitude around them, so that they depend little on contrast, and not at all on brightness. Each goes
    to the two nearest of eight orientations. Means over cells are square-rooted. At last each feature is standardised
    and divided by the square root of its block's size: a block of a training image has a norm near 1.
    """

    saved_attributes = {"mean_": Array(("n_features",)), "scale_": Array(("n_features",), low=1e-3)}

    def _finish_loading(self) -> None:
        super()._finish_loading()
        n_features = sum(self.block_sizes_)
        expect(self.n_features_out_ == n_features, f"n_features_out_ is {self.n_features_out_}")
        expect(len(self.mean_) == n_features, f"mean_ has {len(self.mean_)} numbers; expected {n_features}")

    @property
    def block_sizes_(self) -> tuple[int, ...]:
        """Features of each block: coarse, fine and colour."""
        per_cell = len(_SIGMAS) * _N_ORIENTATIONS
        return per_cell * _n_cells(_COARSE), per_cell * _n_cells(_FINE), 3 * _n_cells(_COLOUR)

    def fit_pixels(self, pixels: torch.Tensor) -> GradientEncoder:
        features = _in_parts(pixels)
        self.mean_ = features.mean(axis=0)
        blocks = np.split(features.std(axis=0), np.cumsum(self.block_sizes_)[:-1])
        floors = [max(_LEAST, _LEAST_SHARE * math.sqrt(np.square(spread).mean())) for spread in blocks]
        self.scale_ = np.concatenate([np.maximum(spread, floor) for spread, floor in zip(blocks, floors)])
        self.n_features_out_ = len(self.mean_)
        return self

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        sizes = np.repeat(self.block_sizes_, self.block_sizes_)
        return torch.from_numpy((_in_parts(pixels) - self.mean_) / (self.scale_ * np.sqrt(sizes)))


def _n_cells(grids: tuple[int, ...]) -> int:
    return sum(side**2 for side in grids)


def _in_parts(pixels: torch.Tensor) -> np.ndarray:
    """Features as they are, of shape (n, n_features) and in double precision, of a bounded number of images at once."""
    return np.concatenate([_descriptors(part.double()).numpy() for part in pixels.split(_AT_ONCE)])


def _descriptors(pixels: torch.Tensor) -> torch.Tensor:
    grey = _made_smaller(pixels.mean(dim=1, keepdim=True))
    maps = torch.cat([_orientation_maps(grey, sigma) for sigma in _SIGMAS], dim=1)
    histograms = [(_pooled(maps, grids) + _EMPTY).sqrt() for grids in (_COARSE, _FINE)]
    return torch.cat([*histograms, _pooled(pixels, _COLOUR)], dim=1)


def _made_smaller(images: torch.Tensor) -> torch.Tensor:
    height, width = images.shape[-2:]
    ratio = _SIDE / min(height, width)
    if ratio >= 1:
        return images
    return F.interpolate(images, size=(round(height * ratio), round(width * ratio)), mode="bilinear", antialias=True)


def _pooled(maps: torch.Tensor, grids: tuple[int, ...]) -> torch.Tensor:
    """Means over the cells of grids of these sides; where there are fewer pixels than cells, cells share pixels."""
    return torch.cat([F.adaptive_avg_pool2d(maps, side).flatten(1) for side in grids], dim=1)


def _orientation_maps(grey: torch.Tensor, sigma: float) -> torch.Tensor:
    """Relative gradient magnitude in each orientation, of shape (n, 8, height, width); the first one is to the right.

    Parameters
    ----------
    grey : tensor of shape (n, 1, height, width)
    sigma : float
        Of the Gaussian, in px.
    """
    smooth = gaussian(sigma)
    at = torch.arange(len(smooth)) - len(smooth) // 2
    slope = at * smooth
    slope /= (at * slope).sum()  # 1 where brightness rises by 1 a pixel
    to_right = filtered(grey, rows=smooth, columns=slope)
    down = filtered(grey, rows=slope, columns=smooth)
    magnitude = (to_right.square() + down.square()).sqrt()
    even = torch.full((_WINDOW,), 1 / _WINDOW, dtype=torch.float64)
    magnitude = magnitude / (filtered(magnitude, rows=even, columns=even) + _FAINT)
    angle = torch.atan2(down, to_right) * (_N_ORIENTATIONS / (2 * math.pi))
    below = angle.floor()
    towards = angle - below  # what goes to the next orientation
    nearest = torch.cat([below, below + 1], dim=1).long() % _N_ORIENTATIONS
    shares = torch.cat([magnitude * (1 - towards), magnitude * towards], dim=1)
    n, _, height, width = grey.shape
    return shares.new_zeros(n, _N_ORIENTATIONS, height, width).scatter(1, nearest, shares)
