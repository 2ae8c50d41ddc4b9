"""The local ensemble: the head of cascades, which classifies images on this machine and calls no service."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from ..losses import fit_temperature
from ..persistence.arrays import Array
from ..persistence.fields import NONE, ListOf, OneOf, integer
from ..persistence.format import expect
from ..persistence.objects import Object
from .base import Head
from .fused import FusedHead
from .local_probe import LocalProbe
from .regression import linear_logits
from .scored import LabelledScores

__all__ = ["LocalEnsemble", "linear_discriminant"]

_SHRINKAGE = 0.5  # of the covariance: right for some ten images per class, and harmless for more


class LocalEnsemble(Head):
    """Mean of a local probe and of a linear discriminant of all local features; it needs no service.

    Both are linear, but fail on different images: the probe has a regression for each block of features, and the
    discriminant only needs means and one covariance.

    Parameters
    ----------
    block_sizes : tuple of int or None, default=None
        Number of columns of each block of features. None: all columns are one block.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    coef_ : ndarray of shape (n_classes, n_features_in_)
        Weights of the discriminant, divided by its temperature.
    intercept_ : ndarray of shape (n_classes,)
        Intercepts of the discriminant, divided by its temperature.
    n_features_in_ : int
        Number of columns of X.
    probe_ : LocalProbe
        The fitted probe.

    Notes
    -----
    With the probe's log probabilities q and the discriminant's d, both cross-validated for the temperature (B27)::

        log p = log_softmax((q + d) / 2)
    """

    needs_scores = False
    needs_features = True
    min_classes = min_images = 2

    probe_: FusedHead
    coef_: np.ndarray
    intercept_: np.ndarray

    saved_parameters = {"block_sizes": OneOf(NONE, ListOf(integer(1)))}
    saved_attributes = {
        "probe_": Object(FusedHead),
        "coef_": Array(("n_classes", "n_features")),
        "intercept_": Array(("n_classes",)),
        "n_features_in_": integer(1),
    }

    def _finish_loading(self) -> None:
        super()._finish_loading()
        expect(self.n_features_in_ == self.coef_.shape[1], "a head's n_features_in_ does not fit its coef_")
        same = np.array_equal(self.classes_, self.probe_.classes_)
        expect(same and not self.probe_.needs_scores, "a local ensemble and its probe do not fit one another")

    def __init__(self, block_sizes: tuple[int, ...] | None = None):
        self.block_sizes = block_sizes

    def with_layout(self, n_scores: int, block_sizes: tuple[int, ...], vector_size: int = 0) -> Head:
        """Make an unfitted copy for blocks of features of these sizes."""
        return clone(self).set_params(block_sizes=block_sizes)

    def check_layout(self, n_classes: int, n_scores: int, block_sizes: tuple[int, ...]) -> None:
        self.probe_.check_layout(n_classes, 0, block_sizes)
        super().check_layout(n_classes, 0, block_sizes)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LocalEnsemble:
        """Fit the probe and the discriminant.

        Parameters
        ----------
        X : array-like of shape (n_images, n_features)
            Local features.
        y : array-like of shape (n_images,)
            Labels of at least two classes, each with at least two images.
        sample_weight : array-like of shape (n_images,) or None, default=None
            Non-negative weights of the images.

        Returns
        -------
        self : LocalEnsemble
            The fitted head.
        """
        self.fit_held_out(X, y, sample_weight)
        return self

    def fit_held_out(self, X: Any, y: Any, sample_weight: Any = None) -> np.ndarray:
        """Fit, and compute cross-validated log probabilities of the training images; see `fit`."""
        self.probe_ = LocalProbe(self.block_sizes)
        return self._fit_discriminant(X, y, sample_weight, self.probe_.fit_held_out(X, y, sample_weight))

    def fit_scored(self, data: LabelledScores) -> np.ndarray:
        """Fit to scored images; the probe is shared with the heads that have the same one.

        Parameters
        ----------
        data : LabelledScores
            The training images; their scores are not used.

        Returns
        -------
        held_out : ndarray of shape (n_images, n_classes)
            Log probabilities of all classes, each row from a head that was not fitted to that image.
        """
        self.probe_ = LocalProbe(self.block_sizes)
        probe = self.probe_.fit_scored(data)[:, self.probe_.classes_]
        return self._of_all_classes(self._fit_discriminant(data.features, data.y, data.weights, probe), data.n_classes)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Compute log probabilities.

        Parameters
        ----------
        X : array-like of shape (n_images, n_features_in_)
            Local features.

        Returns
        -------
        log_proba : ndarray of shape (n_images, n_classes)
            Log probabilities, in the order of `classes_`.
        """
        check_is_fitted(self)
        return _mean(
            self.probe_.predict_log_proba(X), linear_logits(np.asarray(X, np.float64), self.coef_, self.intercept_)
        )

    def _fit_discriminant(self, X: Any, y: Any, sample_weight: Any, probe: np.ndarray) -> np.ndarray:
        """Fit the discriminant; return held-out log probabilities, given those of the probe (n_images, n_classes)."""
        X = np.asarray(X, np.float64)
        weights = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, np.float64)
        self.classes_, index = np.unique(y, return_inverse=True)
        self.n_features_in_ = X.shape[1]
        logits = np.empty(probe.shape)
        for train, test in self._folds(index):
            coef, intercept = linear_discriminant(X[train], index[train], weights[train])
            logits[test] = X[test] @ coef.T + intercept
        temperature = fit_temperature(logits, index, weights=weights)
        coef, intercept = linear_discriminant(X, index, weights)
        self.coef_, self.intercept_ = coef / temperature, intercept / temperature
        return _mean(probe, logits / temperature)


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
    ridge = shrinkage * np.square(spread).sum() / X.shape[1] + np.finfo(float).tiny
    spread *= np.sqrt(1 - shrinkage)
    offsets = means - centre
    # The covariance is spread.T @ spread + ridge; the smaller of two equivalent systems is solved.
    if len(X) < X.shape[1]:
        inner = spread @ spread.T + ridge * np.eye(len(X))
        coef = (offsets - np.linalg.solve(inner, spread @ offsets.T).T @ spread) / ridge
    else:
        coef = np.linalg.solve(spread.T @ spread + ridge * np.eye(X.shape[1]), offsets.T).T
    return coef, -(coef * (means + centre)).sum(axis=1) / 2


def _mean(probe: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Log probabilities (n_images, n_classes) from the probe's and the discriminant's logits (B27)."""
    return log_softmax((probe + log_softmax(logits, axis=1)) / 2, axis=1)
