"""Heads: from the service's log scores to class probabilities.

A calibrated head costs almost no images, since it is trained on scores that are already paid for, and is
often worth more than the prompt (see docs/method.md). Any scikit-learn classifier can be a head.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted, validate_data

from ..inputs.labels import check_labels, training_weights

__all__ = ["CalibratedHead", "ServiceHead", "log_loss"]


class _LogProbaClassifier(ClassifierMixin, BaseEstimator):
    """A classifier whose predictions all come from its log probabilities."""

    classes_: np.ndarray

    def predict_log_proba(self, X: Any) -> np.ndarray:
        raise NotImplementedError

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities.

        Parameters
        ----------
        X : array-like of shape (n_images, n_features_in_)
            Log scores.

        Returns
        -------
        proba : ndarray of shape (n_images, n_classes)
            In the order of `classes_`.
        """
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """Labels.

        Parameters
        ----------
        X : array-like of shape (n_images, n_features_in_)
            Log scores.

        Returns
        -------
        y : ndarray of shape (n_images,)
            The most probable class of each.
        """
        best = self.predict_log_proba(X).argmax(axis=1)
        return self.classes_[best]


class ServiceHead(_LogProbaClassifier):
    """No head: the softmax of the service's scores, as in the paper."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> ServiceHead:
        """Learn nothing; the classes are the columns of X, by their numbers."""
        self.classes_ = np.arange(X.shape[1])
        return self

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Log probabilities of shape (n_images, n_classes), of log scores of this shape."""
        return log_softmax(X, axis=1)


class CalibratedHead(_LogProbaClassifier):
    """Multinomial logistic regression on log scores, its strength chosen by cross-validation.

    Parameters
    ----------
    Cs : tuple of float, default=(0.1, 0.3, 1.0, 3.0)
        Inverse regularisation strengths to choose from, by the cross-validated log loss.
    n_folds : int, default=5
        Folds, at most; a class with fewer images allows fewer. With a class of one image, the middle one of
        `Cs` is taken without a choice.
    standardize : bool, default=True
        Whether to scale each input to mean 0 and variance 1 first.

    Attributes
    ----------
    C_ : float
        The chosen strength.
    classes_ : ndarray of shape (n_classes,)
        The labels.
    coef_ : ndarray of shape (n_classes, n_features_in_)
        Weights of the log scores as they come, not standardized.
    intercept_ : ndarray of shape (n_classes,)
        What is added to them.
    n_features_in_ : int
        Columns of X.

    Examples
    --------
    >>> import numpy as np
    >>> from blackvip import CalibratedHead
    >>> log_scores = np.log([[0.6, 0.4], [0.7, 0.3], [0.9, 0.1], [0.8, 0.2]])
    >>> CalibratedHead().fit(log_scores, ["cat", "cat", "dog", "dog"]).predict(log_scores).tolist()
    ['cat', 'cat', 'dog', 'dog']
    """

    coef_: np.ndarray
    intercept_: np.ndarray
    C_: float

    def __init__(self, Cs: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0), n_folds: int = 5, standardize: bool = True):
        self.Cs = Cs
        self.n_folds = n_folds
        self.standardize = standardize

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> CalibratedHead:
        """Choose the strength, and learn.

        Parameters
        ----------
        X : array-like of shape (n_images, n_features)
            Log scores, or any other inputs.
        y : array-like of shape (n_images,)
            Labels, two classes at least.
        sample_weight : array-like of shape (n_images,) or None, default=None
            Weights of the images, not negative.

        Returns
        -------
        self : CalibratedHead
            The fitted head.
        """
        self.fit_held_out(X, y, sample_weight)
        return self

    def fit_held_out(self, X: Any, y: Any, sample_weight: Any = None) -> np.ndarray:
        """`fit`, and log probabilities of the training images, each from a head that has not seen it.

        Parameters
        ----------
        X : array-like of shape (n_images, n_features)
            Log scores, or any other inputs.
        y : array-like of shape (n_images,)
            Labels, two classes at least.
        sample_weight : array-like of shape (n_images,) or None, default=None
            Weights of the images, not negative.

        Returns
        -------
        log_proba : ndarray of shape (n_images, n_classes)
            By cross-validation, in the order of `classes_`.
        """
        y = check_labels(y)
        X, y = validate_data(self, X, y)
        weights = training_weights(sample_weight, None, y)
        self.classes_, index = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has 1 class, {self.classes_.tolist()[0]!r}; expected at least two classes.")
        self.C_, held_out = self._chosen(X, index, weights)
        self.coef_, self.intercept_ = self._regression(self.C_, X, index, weights)
        return held_out

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Log probabilities.

        Parameters
        ----------
        X : array-like of shape (n_images, n_features_in_)
            Log scores.

        Returns
        -------
        log_proba : ndarray of shape (n_images, n_classes)
            In the order of `classes_`.
        """
        check_is_fitted(self)
        return _log_proba(validate_data(self, X, reset=False), self.coef_, self.intercept_)

    def _regression(self, C: float, X: np.ndarray, index: np.ndarray, weights: np.ndarray) -> tuple[Any, Any]:
        """Weights (n_classes, n_features) and intercepts (n_classes,) that act on X as it is."""
        scaler = StandardScaler().fit(X, sample_weight=weights) if self.standardize else None
        scaled = X if scaler is None else scaler.transform(X)
        model = LogisticRegression(C=C, max_iter=1000).fit(scaled, index, sample_weight=weights)
        coef, intercept = model.coef_, model.intercept_
        if len(coef) == 1:  # two classes: the log odds of the second
            coef, intercept = np.concatenate([0 * coef, coef]), np.concatenate([0 * intercept, intercept])
        if scaler is not None:
            coef = coef / scaler.scale_
            intercept = intercept - coef @ scaler.mean_
        return coef, intercept

    def _chosen(self, X: np.ndarray, index: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
        """The best strength and its held-out log probabilities."""
        n_folds = min(self.n_folds, np.bincount(index).min())
        if n_folds < 2:
            C = self.Cs[len(self.Cs) // 2]
            return C, _log_proba(X, *self._regression(C, X, index, weights))
        folds = list(StratifiedKFold(n_folds, shuffle=True, random_state=0).split(X, index))

        def held_out(C: float) -> np.ndarray:
            log_proba = np.empty((len(X), len(self.classes_)))
            for train, test in folds:
                log_proba[test] = _log_proba(X[test], *self._regression(C, X[train], index[train], weights[train]))
            return log_proba

        tried = {C: held_out(C) for C in self.Cs}
        best = min(tried, key=lambda C: np.average(log_loss(tried[C], index), weights=weights))
        return best, tried[best]


def _log_proba(X: np.ndarray, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
    return log_softmax(X @ coef.T + intercept, axis=1)


def log_loss(log_proba: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Negative log probability of the true class, image by image, in nats."""
    return -log_proba[np.arange(len(y)), y]
