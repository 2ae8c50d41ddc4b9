"""Views: several versions of an image, whose class probabilities are mixed with one weight for each version."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from .base import log_loss
from .folds import usual_folds
from .judging import HeadResult

__all__ = ["mix_views", "mixed_log_proba"]

_RIDGE = 1.0  # penalty of the squared distance of a weight from its share; with few images, all weights stay near it


def mixed_log_proba(weights: np.ndarray, log_probas: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Mix the log probabilities of each view log-linearly: (n_images, n_classes) (B29)."""
    return log_softmax(np.tensordot(weights, np.asarray(log_probas), 1), axis=1)


def mix_views(views: Sequence[HeadResult], y: np.ndarray) -> tuple[np.ndarray, HeadResult]:
    """Fit the weights of a mixture of views, and cross-validate it.

    Parameters
    ----------
    views : sequence of HeadResult
        Results of the same training images, each from another version of them.
    y : ndarray of shape (n_images,)
        Class indices.

    Returns
    -------
    weights : ndarray of shape (n_views,)
        Weights of the views, at least 0.
    result : HeadResult
        Result of the mixture, each image with weights fitted to others. It has the head of the first view.

    Notes
    -----
    There is one weight for each view: a regression on the scores of all views would have as many columns times the
    classes, and fit noise.
    """
    held_out, of_images = np.stack([view.held_out for view in views]), views[0].weights
    weights = _fit(held_out, y, of_images)
    mixed = mixed_log_proba(weights, held_out)
    for train, test in usual_folds(y):
        mixed[test] = mixed_log_proba(_fit(held_out[:, train], y[train], of_images[train]), held_out[:, test])
    return weights, HeadResult.of(views[0].head, mixed, y, of_images)


def _fit(log_probas: np.ndarray, y: np.ndarray, of_images: np.ndarray) -> np.ndarray:
    """Find weights (n_views,) with the lowest penalised loss of log probabilities (n_views, n_images, n_classes)."""
    start = np.full(len(log_probas), 1 / len(log_probas))
    true = log_probas[:, np.arange(len(y)), y]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = mixed_log_proba(weights, log_probas)
        distance = weights - start
        value = of_images @ log_loss(mixed, y) + _RIDGE * distance @ distance / 2
        expected = (np.exp(mixed) * log_probas).sum(axis=2)
        return float(value), (expected - true) @ of_images + _RIDGE * distance

    return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(start)).x
