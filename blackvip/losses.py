"""Losses on log scores."""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax

__all__ = ["cross_entropy"]


def cross_entropy(log_scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Cross-entropy of the softmax of the scores, image by image.

    Parameters
    ----------
    log_scores : ndarray of shape (..., n_images, n_classes)
        Logits or log probabilities.
    y : ndarray of shape (n_images,)
        Class indices.

    Returns
    -------
    losses : ndarray of shape (..., n_images), in nats
    """
    log_proba = log_softmax(log_scores, axis=-1)
    index = np.broadcast_to(y[:, None], (*log_proba.shape[:-1], 1))
    return -np.take_along_axis(log_proba, index, axis=-1)[..., 0]
