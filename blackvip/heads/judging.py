"""Judging: how well a head does on training images that it was not fitted to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..persistence.arrays import Array
from ..persistence.objects import Object
from ..persistence.saveable import Saveable
from .base import Head, log_loss
from .scored import LabelledScores

__all__ = ["HeadResult", "is_clear", "judge"]

_LEAST_GAIN = 1e-3  # of the log loss, in nats, for which single class prompts get weights


@dataclass(repr=False)
class HeadResult(Saveable):
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

    saved_parameters = {
        "head": Object(Head),
        "held_out": Array(("n_images", "n_classes")),
        "hits": Array(("n_images",), "bool"),
        "losses": Array(("n_images",)),
        "weights": Array(("n_images",), low=0),
    }

    def __repr__(self) -> str:
        return f"HeadResult({self.head}, accuracy={self.accuracy:.3f}, log_loss={self.log_loss:.3f})"

    @classmethod
    def of(cls, head: Head, held_out: np.ndarray, y: np.ndarray, weights: np.ndarray) -> HeadResult:
        """Make the result of held-out log probabilities (n_images, n_classes) for the classes y (n_images,)."""
        return cls(head, held_out, held_out.argmax(axis=1) == y, log_loss(held_out, y), weights)

    @property
    def accuracy(self) -> float:
        """Share of the images that are classified correctly."""
        return float(np.average(self.hits, weights=self.weights))

    @property
    def log_loss(self) -> float:
        """Mean of `losses`."""
        return float(np.average(self.losses, weights=self.weights))

    def is_worse(self, other: HeadResult, rows: np.ndarray | None = None) -> bool:
        """Compare with another head on the same images, pair by pair.

        Parameters
        ----------
        other : HeadResult
            The other head.
        rows : ndarray of int or None, default=None
            The images to compare on. None: all.

        Returns
        -------
        is_worse : bool
            Whether this head gets fewer images right or has a higher log loss, by more than a standard error of the
            difference, and is no better in the other one of both; or gets fewer right by more than two (B17).
        """
        weights, missed, excess = self._differences(other, rows)
        is_less_accurate = is_clear(missed, weights) and weights @ excess >= 0
        has_higher_loss = is_clear(excess, weights) and weights @ missed >= 0
        return bool(is_less_accurate or has_higher_loss or is_clear(missed, weights, n_errors=2.0))

    def is_less_accurate(self, other: HeadResult, rows: np.ndarray | None = None) -> bool:
        """Return whether this head gets fewer images right than another, by more than a standard error."""
        weights, missed, _ = self._differences(other, rows)
        return is_clear(missed, weights)

    def is_beaten_by(self, other: HeadResult, rows: np.ndarray | None = None) -> bool:
        """Return whether another head gets more images right and has the lower log loss, be it by little."""
        weights, missed, excess = self._differences(other, rows)
        return bool(weights @ missed > 0 and weights @ excess > 0)

    def _differences(self, other: HeadResult, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return how this head differs from another on some of the images, or on all.

        Returns
        -------
        weights : ndarray of shape (n,)
            Weights of the images.
        missed : ndarray of shape (n,)
            1 for images that only the other head gets right, and -1 for those that only this one does.
        excess : ndarray of shape (n,)
            By how much the losses of this head are higher, in nats.
        """
        chosen = slice(None) if rows is None else rows
        missed, excess = other.hits.astype(float) - self.hits, self.losses - other.losses
        return self.weights[chosen], missed[chosen], excess[chosen]


def is_clear(differences: np.ndarray, weights: np.ndarray | None = None, n_errors: float = 1.0) -> bool:
    """Return whether a weighted mean is above 0 by more than its standard error, or a multiple of it.

    Parameters
    ----------
    differences : ndarray of shape (n,)
        Differences, image by image.
    weights : ndarray of shape (n,) or None, default=None
        Weights of the images. None: 1 for each.
    n_errors : float, default=1.0
        Number of standard errors.

    Returns
    -------
    clear : bool
        False for fewer than two differences.
    """
    n = len(differences)
    # A single image, whose standard error is as large as itself, is never clear.
    deviation = differences.std(ddof=1) if n > 1 else np.inf
    return bool(n and np.average(differences, weights=weights) > (1 + 1e-9) * n_errors * deviation / np.sqrt(n))


def judge(head: Head, data: LabelledScores) -> HeadResult:
    """Fit a copy of a head to scored images, and cross-validate it on them.

    If classes have several prompts, a head may use the score of each of them. It does so only if that is clearly
    better than their means.

    Parameters
    ----------
    head : Head
        The head, which does not change.
    data : LabelledScores
        Scored images with their labels.

    Returns
    -------
    result : HeadResult
        The fitted copy, and its cross-validated log probabilities.
    """
    laid_out = head.with_layout(data.n_classes, data.block_sizes, data.vector_size)
    if not laid_out.needs_scores:
        # It is the same whatever was sent.
        result: HeadResult = data.once((type(laid_out), str(laid_out.get_params())), lambda: _judged(laid_out, data))
        return result
    twins = laid_out.with_deviations(data.prompt_classes) if data.prompt_classes else []
    result = _judged(laid_out, data)
    for twin in twins:
        further = _judged(twin, data)
        if result.is_worse(further) and result.log_loss - further.log_loss > _LEAST_GAIN:
            result = further
    return result


def _judged(head: Head, data: LabelledScores) -> HeadResult:
    """Fit a head, and cross-validate it."""
    held_out = head.fit_scored(data)
    return HeadResult.of(head, held_out, data.y, data.weights)
