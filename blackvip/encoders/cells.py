"""Geometry of the 7 x 7 cells that encoders and the decoder share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

__all__ = ["CELLS", "MAX_STAGES", "fit_to_image", "n_stages_for", "split_moments"]

CELLS = 7  #: The decoder starts from CELLS x CELLS positions.
MAX_STAGES = 5  #: Most doublings of the decoder: from 7 to 224 pixels.


def n_stages_for(height: int, width: int) -> int:
    """Return the number of doublings s of the decoder for images of a size (B3).

    Parameters
    ----------
    height, width : int
        Size of the images, in pixels.

    Returns
    -------
    n_stages : int
        The smallest s from 1 to 5 for which a picture of 7·2^s px covers the image; 5 for images above 224 px.
    """
    return min(MAX_STAGES, max(1, math.ceil(math.log2(max(height, width) / CELLS))))


def fit_to_image(pictures: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Cut the centre out of square pictures; pictures that are smaller than the image are enlarged first.

    Parameters
    ----------
    pictures : tensor of shape (..., side, side)
        The pictures.
    height, width : int
        Size of the images, in pixels.

    Returns
    -------
    cut : tensor of shape (..., height, width)
        The centres of the pictures.
    """
    side = max(height, width)
    if side > pictures.shape[-1]:
        flat = pictures.reshape(-1, 1, *pictures.shape[-2:])
        flat = F.interpolate(flat, size=(side, side), mode="bilinear")
        pictures = flat.view(*pictures.shape[:-2], side, side)
    top, left = (pictures.shape[-1] - height) // 2, (pictures.shape[-1] - width) // 2
    return pictures[..., top : top + height, left : left + width]


def split_moments(statistics: torch.Tensor, widths: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Split a vector of batch statistics into the mean and the variance of each stage.

    Parameters
    ----------
    statistics : tensor of shape (2 * sum(widths),)
        Mean and variance of the first stage, then of the second stage, and so on.
    widths : sequence of int
        Number of channels of each stage.

    Returns
    -------
    moments : list of (tensor, tensor)
        Mean and variance of each stage, each of shape (width,).
    """
    parts = statistics.split([width for width in widths for _ in range(2)])
    return list(zip(parts[::2], parts[1::2]))
