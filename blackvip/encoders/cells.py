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
    """Number of doublings s for an image: the fewest whose 7·2^s px cover it, from 1 to 5 (B3)."""
    return min(MAX_STAGES, max(1, math.ceil(math.log2(max(height, width) / CELLS))))


def fit_to_image(pictures: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Cut the centre (height, width) out of square pictures (..., side, side); smaller pictures are enlarged first."""
    side = max(height, width)
    if side > pictures.shape[-1]:
        flat = pictures.reshape(-1, 1, *pictures.shape[-2:])
        flat = F.interpolate(flat, size=(side, side), mode="bilinear")
        pictures = flat.view(*pictures.shape[:-2], side, side)
    top, left = (pictures.shape[-1] - height) // 2, (pictures.shape[-1] - width) // 2
    return pictures[..., top : top + height, left : left + width]


def split_moments(statistics: torch.Tensor, widths: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Split the vector of batch statistics into (mean, variance) of stages with these widths."""
    parts = statistics.split([width for width in widths for _ in range(2)])
    return list(zip(parts[::2], parts[1::2]))
