"""Pairs of gradient orientations: what shapes are made of, wherever they are in the image."""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["N_ORIENTATIONS", "N_PAIRS", "orientation_pairs"]

N_ORIENTATIONS = 8  #: Number of orientations of gradients.

_DISTANCES = (1, 2, 4)  # pixels of a map between the two gradients of a pair
_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))  # (down, right); the opposite ones have the same pairs
_FAINT = 1e-4  # is added to the mean over all pairs, so that those of an even image stay small

#: Number of kinds of pairs in one map.
N_PAIRS = len(_DISTANCES) * len(_DIRECTIONS) * N_ORIENTATIONS**2


def orientation_pairs(maps: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Compute how often two orientations occur at a certain offset from each other, as shares of all pairs.

    Parameters
    ----------
    maps : tensor of shape (n, 8, height, width), float64
        Gradient magnitude of each pixel in each orientation. Where they are multiples of 2^-14, the sums are exact, and
        depend neither on other images nor on the number of threads.
    lengths : tensor of shape (8, 1)
        Factor of the magnitudes in each orientation.

    Returns
    -------
    pairs : tensor of shape (n, 768)
        Mean product of the magnitudes of each two orientations, at offsets of 1, 2 and 4 px to the right, down, and
        along both diagonals; divided by the mean over all pairs of the image. Pairs that reach beyond the border count
        as 0.

    References
    ----------
    T. Kobayashi and N. Otsu, "Image feature extraction using gradient local auto-correlations", ECCV 2008.
    """
    n, _, height, width = maps.shape
    most = max(_DISTANCES)
    offsets = [(distance * down, distance * right) for distance in _DISTANCES for down, right in _DIRECTIONS]
    padded = F.pad(maps, (most, most, 0, most))
    others = [padded[..., down : down + height, most + right : most + right + width] for down, right in offsets]
    # (n, 8, n_pixels) @ (n, n_pixels, n_offsets * 8)
    products = maps.flatten(2) @ torch.stack(others, dim=1).flatten(1, 2).flatten(2).mT
    of_lengths = lengths * lengths.T.repeat(1, len(offsets))
    pairs = (products * of_lengths).flatten(1) / (height * width)
    return pairs / (pairs.mean(dim=1, keepdim=True) + _FAINT)  # (B31), without the square root
