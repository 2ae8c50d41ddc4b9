"""Filters: weighted sums of the pixels around each one, row by row and column by column."""

from __future__ import annotations

import math
from functools import lru_cache

import torch

__all__ = ["filtered", "gaussian"]


def gaussian(sigma: float) -> torch.Tensor:
    """The weights of a Gaussian with `sigma` px, cut off at two standard deviations; their sum is 1."""
    reach = math.ceil(2 * sigma)
    weights = torch.exp(-torch.arange(-reach, reach + 1, dtype=torch.float64).square() / (2 * sigma**2))
    return weights / weights.sum()


def filtered(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Images filtered by two products with matrices, which take a fraction of a convolution's time.

    Parameters
    ----------
    images : tensor of shape (..., height, width)
    rows : tensor of shape (n,), float64
        Weights of a pixel and of those above and below it, from top to bottom; n is odd. The border goes on as it ends.
    columns : tensor of shape (m,), float64
        Weights of a pixel and of those beside it, from left to right.

    Returns
    -------
    filtered : tensor of shape (..., height, width)
    """
    height, width = images.shape[-2:]
    down, across = _matrix(height, tuple(rows.tolist())), _matrix(width, tuple(columns.tolist()))
    return down.to(images.dtype) @ (images @ across.T.to(images.dtype))


@lru_cache(maxsize=64)
def _matrix(side: int, weights: tuple[float, ...]) -> torch.Tensor:
    """The matrix (side, side) that filters a line of pixels."""
    reach = len(weights) // 2
    pixel = torch.arange(side)[:, None]
    seen = (pixel + torch.arange(-reach, reach + 1)).clamp(0, side - 1)
    values = torch.tensor(weights, dtype=torch.float64).expand(side, -1)
    empty = torch.zeros(side, side, dtype=torch.float64)
    return empty.index_put_((pixel.expand_as(seen), seen), values, accumulate=True)
