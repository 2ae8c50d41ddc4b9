"""Noise of a service: differences between its answers to the same image."""

from __future__ import annotations

import numpy as np

from ..losses import cross_entropy

__all__ = ["score_noise"]


def score_noise(log_scores_a: np.ndarray, log_scores_b: np.ndarray, y: np.ndarray) -> float:
    """Return the standard deviation of the loss of one answer, from two answers to the same images; bills nothing.

    Two answers whose losses have the variance s^2 each differ by 2 s^2 in the mean square.

    Parameters
    ----------
    log_scores_a, log_scores_b : ndarray of shape (n_images, n_classes)
        Log scores of the same images, sent twice.
    y : ndarray of shape (n_images,)
        Class indices.

    Returns
    -------
    noise : float
        Standard deviation of the cross-entropy of one image, in nats; 0 for a service that always answers alike.

    Examples
    --------
    >>> import numpy as np
    >>> log_scores = np.log([[0.7, 0.3], [0.4, 0.6]])
    >>> score_noise(log_scores, log_scores, np.array([0, 1]))
    0.0
    """
    difference = cross_entropy(log_scores_a, y) - cross_entropy(log_scores_b, y)
    # (B24)
    return float(np.sqrt(np.mean(difference**2) / 2))
