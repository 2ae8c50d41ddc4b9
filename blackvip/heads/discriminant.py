"""Linear discriminant of all local features: an expert that few images teach, since it has a single covariance."""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax

from ..losses import fit_temperature
from .experts import LEAST_LOG_PROBA, LinearExpert
from .folds import stratified_folds

__all__ = ["fit_discriminant", "linear_discriminant"]

_SHRINKAGE = 0.5  # of the covariance: right for some ten images per class, and harmless for more
_LEAST_SPREAD = 1e-3  # of the images around the means of their classes, relative to that of the means


def fit_discriminant(
    X: np.ndarray, index: np.ndarray, weights: np.ndarray, n_folds: int
) -> tuple[LinearExpert, np.ndarray]:
    """Fit a linear discriminant (B27), at the temperature that suits its held-out log probabilities.

    Parameters
    ----------
    X : ndarray of shape (n_images, n_features)
        Local features.
    index : ndarray of shape (n_images,)
        Class indices; each class has as many images as there are folds, or more.
    weights : ndarray of shape (n_images,)
        Non-negative weights of the images.
    n_folds : int
        Number of folds, at least 2.

    Returns
    -------
    discriminant : LinearExpert
        Fitted to all images.
    held_out : ndarray of shape (n_images, n_classes)
        Log probabilities of each image, from a discriminant that was not fitted to it.
    """
    logits = np.empty((len(X), index.max() + 1))
    for train, test in stratified_folds(index, n_folds):
        coef, intercept = linear_discriminant(X[train], index[train], weights[train])
        logits[test] = X[test] @ coef.T + intercept
    temperature = fit_temperature(logits, index, weights=weights)
    coef, intercept = linear_discriminant(X, index, weights)
    held_out = np.maximum(log_softmax(logits / temperature, axis=1), LEAST_LOG_PROBA)
    return LinearExpert(coef / temperature, intercept / temperature), held_out


def linear_discriminant(
    X: np.ndarray, index: np.ndarray, weights: np.ndarray, shrinkage: float = _SHRINKAGE
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a linear discriminant with equally likely classes and a shrunk covariance.

    Parameters
    ----------
    X : ndarray of shape (n_images, n_features)
    index : ndarray of shape (n_images,)
        Class indices; each class has images.
    weights : ndarray of shape (n_images,)
        Non-negative weights of the images.
    shrinkage : float, default=0.5
        Share of a multiple of the identity in the covariance, between 0 and 1.

    Returns
    -------
    coef : ndarray of shape (n_classes, n_features)
    intercept : ndarray of shape (n_classes,)
    """
    totals = np.bincount(index, weights)
    # (n_classes, n_images) @ (n_images, n_features)
    means = (np.arange(len(totals))[:, None] == index) * weights @ X / totals[:, None]
    centre = totals @ means / totals.sum()
    spread = (X - means[index]) * np.sqrt(weights / totals.sum())[:, None]
    offsets = means - centre
    # Classes of a single image have no spread.
    least = _LEAST_SPREAD * np.square(offsets).sum() / len(totals)
    ridge = max(shrinkage * np.square(spread).sum(), least) / X.shape[1] + np.finfo(float).tiny
    spread *= np.sqrt(1 - shrinkage)
    # The covariance is spread.T @ spread + ridge; the smaller of two equivalent systems is solved.
    if len(X) < X.shape[1]:
        inner = spread @ spread.T + ridge * np.eye(len(X))
        coef = (offsets - np.linalg.solve(inner, spread @ offsets.T).T @ spread) / ridge
    else:
        coef = np.linalg.solve(spread.T @ spread + ridge * np.eye(X.shape[1]), offsets.T).T
    return coef, -(coef * (means + centre)).sum(axis=1) / 2
