"""Judging: how well a head does on training images that it was not fitted to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Head, log_loss
from .scored import LabelledScores

__all__ = ["HeadResult", "judge"]


@dataclass(repr=False)
class HeadResult:
    """A fitted head with its cross-validated results on the training images.

    Attributes
    ----------
    head : Head
        Fitted to all training images.
    held_out : ndarray of shape (n_images, n_classes)
        Log probabilities of the training images, each from a head that was not fitted to it.
    hits : ndarray of shape (n_images,), bool
        Whether the most probable class is the true one.
    losses : ndarray of shape (n_images,)
        Negative log probabilities of the true classes, in nats.
    weights : ndarray of shape (n_images,)
        Weights of the images in `accuracy` and `log_loss`.
    """

    head: Head
    held_out: np.ndarray
    hits: np.ndarray
    losses: np.ndarray
    weights: np.ndarray

    def __repr__(self) -> str:
        return f"HeadResult({self.head}, accuracy={self.accuracy:.3f}, log_loss={self.log_loss:.3f})"

    @property
    def accuracy(self) -> float:
        """Share of the images that are classified correctly."""
        return float(np.average(self.hits, weights=self.weights))

    @property
    def log_loss(self) -> float:
        """Mean of `losses`."""
        return float(np.average(self.losses, weights=self.weights))

    def is_worse(self, other: HeadResult, rows: np.ndarray, margin: float = 0.0) -> bool:
        """Compare with another head on some images.

        Parameters
        ----------
        other : HeadResult
            A head on the same images.
        rows : ndarray of int
            The images to compare on.
        margin : float, default=0.0
            Standard errors by which the log loss must be higher.

        Returns
        -------
        is_worse : bool
            Whether this head gets fewer images right, and its log loss is higher by more than the margin (B17).
        """
        weights, excess = self.weights[rows], (self.losses - other.losses)[rows]
        standard_error = excess.std() / np.sqrt(len(rows))
        fewer = weights @ self.hits[rows] < weights @ other.hits[rows]
        return bool(fewer and np.average(excess, weights=weights) > margin * standard_error)


def judge(head: Head, data: LabelledScores) -> HeadResult:
    """Fit a copy of a head to scored images, and cross-validate it on them."""
    fitted = head.with_layout(data.n_classes, data.block_sizes)
    held_out = fitted.fit_scored(data)
    return HeadResult(fitted, held_out, held_out.argmax(axis=1) == data.y, log_loss(held_out, data.y), data.weights)
