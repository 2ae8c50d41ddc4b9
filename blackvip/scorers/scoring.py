"""Scoring of images, with or without prompts, in batches of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from ..inputs.images import Images
from ..inputs.reading import BATCH, portions
from .background import prefetch
from .ledger import Ledger

__all__ = [
    "Drawing",
    "Encoding",
    "ReadsPixels",
    "plain_scores_of",
    "score_columns_of",
    "score_columns_of_each",
    "score_images",
]

Drawing = Callable[[torch.Tensor], torch.Tensor]
Encoding = Callable[[torch.Tensor], np.ndarray]
Scoring = Callable[[Any], np.ndarray]

# Limits of what a streaming score function is given at once.
_MOST_BATCHES, _MOST_BYTES = 16, 64 * 2**20


class ReadsPixels(Protocol):
    """Images of one size whose pixels can be read: `Images`, or what is drawn onto them."""

    size: tuple[int, int]

    def pixels(self, rows: np.ndarray) -> torch.Tensor: ...


def score_images(
    ledger: Ledger,
    images: Images,
    rows: np.ndarray,
    draw: Drawing | None = None,
    encode: Encoding | None = None,
    score: Scoring | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, Any]]:
    """Yield log scores of images, batch by batch; the next batch is read and drawn while the service answers.

    Parameters
    ----------
    ledger : Ledger
        Sends and counts the images.
    images : Images
        The images.
    rows : ndarray of int
        Rows of the images that are sent.
    draw : callable or None, default=None
        Draws prompts onto pixels (n, 3, height, width). None: images are sent without a prompt.
    encode : callable or None, default=None
        Computes features (n, n_features) of the pixels without a prompt, so that an image is read once for both.
    score : callable or None, default=None
        Method of the ledger that sends images. None: ``ledger.log_scores``.

    Yields
    ------
    rows : ndarray of shape (n,)
        Rows of a batch.
    log_scores : ndarray of shape (n, n_classes)
        Result of `score`.
    features : ndarray of shape (n, n_features) or None
        Result of `encode`.
    """

    made = lambda batch: (batch, *_made(ledger, images, batch, draw, encode))
    for batch, sent, features in prefetch(map(made, _batches(ledger, images, rows))):
        yield batch, (score or ledger.log_scores)(sent), features


def _made(
    ledger: Ledger, images: ReadsPixels, batch: np.ndarray, draw: Drawing | None, encode: Encoding | None = None
) -> tuple[Any, np.ndarray | None]:
    """Read and draw a batch of images for the score function, and compute their features."""
    sent, features = [], []
    for part in portions(len(batch), images.size):
        pixels = images.pixels(batch[part])
        sent.append(ledger.as_sent(pixels if draw is None else draw(pixels)))
        if encode is not None:
            features.append(encode(pixels))
    return ledger.joined(sent), np.concatenate(features) if features else None


def score_columns_of(ledger: Ledger, images: ReadsPixels, rows: np.ndarray, draw: Drawing | None = None) -> np.ndarray:
    """Send images, and return their score columns, which heads take.

    Parameters
    ----------
    ledger : Ledger
        Sends and counts the images.
    images : Images
        The images, or what is drawn onto them.
    rows : ndarray of int
        Rows of the images that are sent.
    draw : callable or None, default=None
        Draws prompts onto pixels (n, 3, height, width). None: images are sent without prompts.

    Returns
    -------
    columns : ndarray of shape (len(rows), n_columns)
        See `Ledger.score_columns`.
    """
    [columns] = score_columns_of_each(ledger, images, rows, [draw])
    return columns


def score_columns_of_each(
    ledger: Ledger, images: ReadsPixels, rows: np.ndarray, drawings: Sequence[Drawing | None]
) -> Iterator[np.ndarray]:
    """Yield the score columns (len(rows), n_columns) of the same images with each of several drawings.

    The images of the next drawing are made while the service answers those of one.
    """
    batches = list(_batches(ledger, images, rows))
    sent = prefetch(_made(ledger, images, batch, draw)[0] for draw in drawings for batch in batches)
    for _ in drawings:
        parts = [ledger.score_columns(next(sent)) for _ in batches]
        yield np.concatenate(parts) if parts else np.empty((0, ledger.n_columns))


def plain_scores_of(ledger: Ledger, images: Images, rows: np.ndarray) -> np.ndarray:
    """Send images without prompts, and return their scores as the service gives them.

    Parameters
    ----------
    ledger : Ledger
        Sends and counts the images.
    images : Images
        The images.
    rows : ndarray of int
        Rows of the images that are sent.

    Returns
    -------
    scores : ndarray of shape (len(rows), n_prompts)
        See `Ledger.scores`.
    """
    return np.concatenate([scores for _, scores, _ in score_images(ledger, images, rows, score=ledger.scores)])


def _batches(ledger: Ledger, images: ReadsPixels, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows that are sent together: those of a call, or growing batches if the score function streams.

    Growing batches keep a score function that makes many requests at a time supplied with images.
    """
    height, width = images.size
    bound = max(1, _MOST_BYTES // (height * width * 3 * (4 if ledger.takes_tensors else 1)))
    size = BATCH if ledger.streams else ledger.images_per_call
    while len(rows):
        n_taken = min(size, bound)
        yield rows[:n_taken]
        rows = rows[n_taken:]
        if ledger.streams:
            size = min(2 * size, _MOST_BATCHES * BATCH)
