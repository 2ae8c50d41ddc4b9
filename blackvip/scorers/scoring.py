"""Asking: images, with or without prompts, to the service's log scores, a bounded number at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from ..inputs.images import Images
from ..inputs.reading import BATCH
from .background import prefetch
from .ledger import Ledger

__all__ = ["Drawing", "Encoding", "score_images", "log_scores_of"]

Drawing = Callable[[torch.Tensor], torch.Tensor]
Encoding = Callable[[torch.Tensor], np.ndarray]

_MOST_BATCHES, _MOST_BYTES = 16, 64 * 2**20  # that are asked for together


def score_images(
    ledger: Ledger,
    images: Images,
    rows: np.ndarray,
    draw: Drawing | None = None,
    encode: Encoding | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, Any]]:
    """Log scores of images, portion by portion; the next is read and drawn while the service answers.

    Parameters
    ----------
    ledger : Ledger
    images : Images
    rows : ndarray of int
        Those that are sent.
    draw : callable or None, default=None
        Draws prompts onto pixels (n, 3, height, width). None: images are sent as they are.
    encode : callable or None, default=None
        Makes features (n, n_features) of the pixels as they are, so that an image is read once for both.

    Yields
    ------
    rows : ndarray of shape (n,)
    log_scores : ndarray of shape (n, n_classes)
    features : ndarray of shape (n, n_features) or None
    """

    def made(portion: np.ndarray) -> tuple[np.ndarray, Any, Any]:
        sent, features = [], []
        for part in np.split(portion, range(BATCH, len(portion), BATCH)):
            pixels = images.pixels(part)
            sent.append(ledger.as_sent(pixels if draw is None else draw(pixels)))
            if encode is not None:
                features.append(encode(pixels))
        return portion, ledger.joined(sent), np.concatenate(features) if features else None

    for portion, sent, features in prefetch(map(made, _portions(ledger, images, rows))):
        yield portion, ledger.log_scores(sent), features


def log_scores_of(ledger: Ledger, images: Images, rows: np.ndarray, draw: Drawing | None = None) -> np.ndarray:
    """Log scores (len(rows), n_classes) of images; see `score_images`."""
    parts = [log_scores for _, log_scores, _ in score_images(ledger, images, rows, draw)]
    return np.concatenate(parts) if parts else np.empty((0, ledger.n_classes))


def _portions(ledger: Ledger, images: Images, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Rows that are asked for together: those of a call; more and more, where a score function makes its own calls.

    So one that makes many requests at a time is seldom without an image to send.
    """
    height, width = images.size
    bound = max(1, _MOST_BYTES // (height * width * 3 * (4 if ledger.takes_tensors else 1)))
    size = BATCH if ledger.streams else ledger.images_per_call
    while len(rows):
        taken = min(size, bound)
        yield rows[:taken]
        rows = rows[taken:]
        if ledger.streams:
            size = min(2 * size, _MOST_BATCHES * BATCH)
