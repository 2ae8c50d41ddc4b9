"""Scaling of scores before a regression."""

from __future__ import annotations

import numpy as np

__all__ = ["scaling_of"]

_ROUNDING = 10 * np.finfo(float).eps  # of a standard deviation, relative to the largest score: below it there is none


def scaling_of(scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute weighted means and standard deviations of scores; those of a constant score are 1.

    Parameters
    ----------
    scores : ndarray of shape (n_rows, n_scores)
    weights : ndarray of shape (n_fits, n_rows)
        Non-negative weights of the rows in each regression.

    Returns
    -------
    mean : ndarray of shape (n_fits, n_scores)
    scale : ndarray of shape (n_fits, n_scores)
        Positive.
    """
    shares = weights / weights.sum(axis=1, keepdims=True)
    # Differences from one row keep the digits of scores that are nearly constant.
    offset = scores[0] if len(scores) else 0.0
    mean = shares @ (scores - offset)
    spread = np.stack([share @ np.square(scores - offset - of_fit) for share, of_fit in zip(shares, mean)])
    scale = np.sqrt(spread)
    is_constant = scale <= _ROUNDING * np.abs(scores).max(axis=0, initial=0)
    return mean + offset, np.where(is_constant, 1.0, scale)
