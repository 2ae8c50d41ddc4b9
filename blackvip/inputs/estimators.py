"""Mixins of the estimators of this package: labels from log probabilities, and clones that share a score function."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from ..process.settings import UsualSettings
from .labels import class_indices, labels_of, training_weights

__all__ = ["PredictsFromLogProba", "SharesScoreFunction"]


class PredictsFromLogProba(UsualSettings, ClassifierMixin):
    """Mixin of classifiers that make all their predictions from `predict_log_proba`."""

    classes_: np.ndarray
    predict_log_proba: Any

    def predict(self, X: Any) -> np.ndarray:
        """Predict class labels; it bills as many images as `predict_log_proba`.

        Parameters
        ----------
        X : images, in any form that `fit` takes
            Images of the training images' size, unless `fit` had to resize.

        Returns
        -------
        y : ndarray of shape (n_images,)
            The most probable class of each image.
        """
        # The probabilities of 100,000 images in 1,000 classes would take 800 MB.
        best = [log_proba.argmax(axis=1) for log_proba in self._log_proba_parts(X)]
        return self.classes_[np.concatenate(best)]

    def _log_proba_parts(self, X: Any) -> Iterable[np.ndarray]:
        """Make log probabilities (n, n_classes) of images, in one part unless a subclass makes them batch by batch."""
        return [self.predict_log_proba(X)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict class probabilities; it bills as many images as `predict_log_proba`.

        Parameters
        ----------
        X : images, in any form that `fit` takes
            Images of the training images' size, unless `fit` had to resize.

        Returns
        -------
        proba : ndarray of shape (n_images, n_classes)
            Columns are in the order of `classes_`.
        """
        return np.exp(self.predict_log_proba(X))

    def decision_function(self, X: Any) -> np.ndarray:
        """Compute log probabilities, or log odds for two classes; it bills as many images as `predict_log_proba`.

        Parameters
        ----------
        X : images, in any form that `fit` takes
            Images of the training images' size, unless `fit` had to resize.

        Returns
        -------
        decision : ndarray of shape (n_images, n_classes), or (n_images,) for two classes
            Columns are in the order of `classes_`. For two classes, the log odds of the second one.
        """
        log_proba = self.predict_log_proba(X)
        return log_proba[:, 1] - log_proba[:, 0] if len(self.classes_) == 2 else log_proba

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Compute the accuracy on labelled images; it bills as many images as `predict_log_proba`.

        Labels are checked before any image is sent. A label that is not among `classes_` counts as a mistake; if none
        is among them, it is an error.

        Parameters
        ----------
        X : images, in any form that `fit` takes
            Images of the training images' size, unless `fit` had to resize.
        y : array-like of shape (n_images,)
            Their labels.
        sample_weight : array-like of shape (n_images,) or None, default=None
            Weights of the images.

        Returns
        -------
        accuracy : float
            Share of the images whose label is predicted.
        """
        check_is_fitted(self)
        y = labels_of(X, y)
        index = class_indices(y, self.classes_, unknown="ignore")
        if len(y) > 1 and (index < 0).all():
            class_indices(y, self.classes_)
        weights = training_weights(sample_weight, None, index)
        hits = (index >= 0) & (self.predict(X) == self.classes_[index])
        return float(np.average(hits, weights=weights))


class SharesScoreFunction(BaseEstimator):
    """Mixin of estimators whose clones share the score function: no model or client is copied for a fold."""

    score_fn: Any

    def __sklearn_clone__(self) -> Any:
        twin = BaseEstimator.__sklearn_clone__(copy.copy(self).set_params(score_fn=None))
        twin.score_fn = self.score_fn
        return twin
