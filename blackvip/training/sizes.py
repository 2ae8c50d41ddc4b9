"""The choice of a size at which the service sees images best, where it takes images of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from ..losses import fit_temperature
from ..prompters.enlarged import Enlarged
from ..scorers.ledger import Ledger
from .corrections import capped_losses, in_turn_of_classes

__all__ = ["choose_size", "enlargements", "n_images_for_size", "sizes_to_try"]

_FACTORS = 1.5, 2.0
_LARGEST = 512  # px: longer sides than this are no longer small for any network
_COMPARED = 16  # images on which the sizes are compared; the winner is judged on all


def enlargements(size: tuple[int, int]) -> list[Enlarged]:
    """Return the prompters that enlarge images of this (height, width), in pixels, and leave them small enough."""
    prompters = [Enlarged(factor) for factor in _FACTORS]
    return [prompter for prompter in prompters if max(prompter.drawn_size(size)) <= _LARGEST]


def sizes_to_try(ledger: Ledger, size: tuple[int, int]) -> list[Enlarged]:
    """Return the `enlargements` of images of this (height, width), if the score function takes images of any size."""
    return enlargements(size) if ledger.takes_any_size else []


def n_images_for_size(n_sizes: int, n_images: int) -> int:
    """Return the number of images that `choose_size` bills."""
    return n_images + (n_sizes - 1) * min(_COMPARED, n_images) if n_sizes else 0


def choose_size(
    names: list[str],
    score: Callable[[list[str], np.ndarray], Iterable[np.ndarray]],
    y: np.ndarray,
    weights: np.ndarray,
    rng: np.random.Generator,
) -> str:
    """Choose the size with the lowest loss on a few images, and score all others at this size.

    Parameters
    ----------
    names : list of str
        Names of the sizes to choose from.
    score : callable
        ``score(names, rows)`` yields the log scores (len(rows), n_classes) of images at each of these sizes; it bills
        them.
    y : ndarray of shape (n_images,)
        Class indices.
    weights : ndarray of shape (n_images,)
        Weights of the images in all means.
    rng : numpy.random.Generator
        Draws the order of the images.

    Returns
    -------
    name : str
        The chosen size.

    Notes
    -----
    Each size has a temperature of its own: a network may be twice as sure of large images as of small ones, and no
    better. Whether the chosen size is better than the images' own is left to the heads, which see what losses at one
    temperature hide (docs/method.md).
    """
    compared, others = np.split(in_turn_of_classes(y, rng), [_COMPARED])
    weighed, losses = weights[compared], {}
    for name, log_scores in zip(names, score(names, compared), strict=True):
        temperature = fit_temperature(log_scores, y[compared], weights=weighed)
        losses[name] = np.average(capped_losses(log_scores, y[compared], temperature), weights=weighed)
    chosen = min(names, key=losses.__getitem__)
    for _ in score([chosen], others):
        pass
    return chosen
