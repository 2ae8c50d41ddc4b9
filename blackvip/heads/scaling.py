"""Scaling of scores before a regression."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Scaling", "no_scaling", "scaling_of"]

_ROUNDING = 10 * np.finfo(float).eps  # of a standard deviation, relative to the largest score: below it there is none


class Scaling(NamedTuple):
    """Differences of scores from a mean, divided by a scale, for each of several regressions.

    Attributes
    ----------
    mean : ndarray of shape (n_fits, n_scores)
    scale : ndarray of shape (n_fits, n_scores)
        Positive.
    """

    mean: np.ndarray
    scale: np.ndarray

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Scale scores (n_rows, n_scores); returns (n_fits, n_scores, n_rows)."""
        z: np.ndarray = (scores.T - self.mean[:, :, None]) / self.scale[:, :, None]
        return z

    def undo(self, coef: np.ndarray, intercept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Turn weights (n_fits, n_classes, n_scores) and intercepts (n_fits, n_classes) into those of the scores."""
        coef = coef / self.scale[:, None]
        return coef, intercept - (coef @ self.mean[:, :, None])[..., 0]


def no_scaling(n_scores: int) -> Scaling:
    """Make one scaling for all regressions, which changes nothing."""
    return Scaling(np.zeros((1, n_scores)), np.ones((1, n_scores)))


def scaling_of(scores: np.ndarray, weights: np.ndarray) -> Scaling:
    """Compute weighted means and standard deviations of scores; the scale of a constant score is 1.

    Parameters
    ----------
    scores : ndarray of shape (n_rows, n_scores)
    weights : ndarray of shape (n_fits, n_rows)
        Non-negative weights of the rows in each regression.

    Returns
    -------
    scaling : Scaling
    """
    shares = weights / weights.sum(axis=1, keepdims=True)
    # Differences from one row keep the digits of scores that are nearly constant.
    offset = scores[0] if len(scores) else 0.0
    mean = shares @ (scores - offset)
    spread = np.stack([share @ np.square(scores - offset - of_fit) for share, of_fit in zip(shares, mean)])
    scale = np.sqrt(spread)
    is_constant = scale <= _ROUNDING * np.abs(scores).max(axis=0, initial=0)
    return Scaling(mean + offset, np.where(is_constant, 1.0, scale))
