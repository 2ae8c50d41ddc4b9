"""The tempered head: the service's own answers, with calibrated probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import log_softmax
from sklearn.model_selection import KFold

from ..losses import fit_temperature
from ..persistence.fields import integer, number
from .base import Auto, Head

__all__ = ["TemperedHead"]

_N_FOLDS = 5


class TemperedHead(Head, name="tempered", auto=Auto(rank=2)):
    """Softmax of the service's scores at a fitted temperature (B5; Guo et al., ICML 2017).

    It predicts the same classes as the service, and needs few images, since it has a single parameter.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Numbers of the columns of X.
    temperature_ : float
        Above 1 if the service is too sure of its answers.
    n_features_in_ : int
        Number of columns of X.
    """

    learns = False

    temperature_: float

    saved_attributes = {"temperature_": number(low=1e-12), "n_features_in_": integer(1)}

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> TemperedHead:
        """Fit the temperature.

        Parameters
        ----------
        X : ndarray of shape (n_images, n_classes)
            Log scores.
        y : ndarray of shape (n_images,)
            Class indices.
        sample_weight : ndarray of shape (n_images,) or None, default=None
            Weights of the images.

        Returns
        -------
        self : TemperedHead
            The fitted head.
        """
        self.n_features_in_ = X.shape[1]
        self.classes_ = np.arange(X.shape[1])
        self.temperature_ = fit_temperature(X, y, weights=sample_weight)
        return self

    def fit_held_out(self, X: Any, y: Any, sample_weight: Any = None) -> np.ndarray:
        """Fit, and compute cross-validated log probabilities (n_images, n_classes)."""
        weights = np.ones(len(y)) if sample_weight is None else sample_weight
        held_out = np.empty(X.shape)
        for train, test in KFold(min(_N_FOLDS, len(y)), shuffle=True, random_state=0).split(X) if len(y) > 1 else ():
            held_out[test] = self.fit(X[train], y[train], weights[train]).predict_log_proba(X[test])
        self.fit(X, y, weights)
        return held_out if len(y) > 1 else self.predict_log_proba(X)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Log probabilities of shape (n_images, n_classes), of log scores of this shape."""
        return log_softmax(X / self.temperature_, axis=1)
