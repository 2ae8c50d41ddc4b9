"""How much a service contradicts itself."""

from __future__ import annotations

import numpy as np

from ..losses import cross_entropy

__all__ = ["score_noise"]


def score_noise(log_scores_a: np.ndarray, log_scores_b: np.ndarray, y: np.ndarray) -> float:
    """The standard deviation of the loss of one answer, from two answers to the same images; bills nothing.

    Two answers of which each has the variance s^2 differ by 2 s^2 on the average.

    Parameters
    ----------
    log_scores_a, log_scores_b : ndarray of shape (n_images, n_classes)
        Of the same images, sent twice.
    y : ndarray of shape (n_images,)
        Class indices.

    Returns
    -------
    noise : float
        Of the cross-entropy of one image, in nats; 0 for a service that always answers alike.

    Examples
    --------
    >>> import numpy as np
    >>> log_scores = np.log([[0.7, 0.3], [0.4, 0.6]])
    >>> score_noise(log_scores, log_scores, np.array([0, 1]))
    0.0
    """
    difference = cross_entropy(log_scores_a, y) - cross_entropy(log_scores_b, y)
    return float(np.sqrt(np.mean(difference**2) / 2))
