"""The tempered head: the service's own answers, with calibrated probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import log_softmax
from sklearn.model_selection import KFold

from ..losses import fit_temperature
from ..persistence.fields import integer, number
from .base import Auto, Head
from .folds import Fold

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

    @staticmethod
    def _folds(y: np.ndarray) -> list[Fold]:
        # Folds need not have all classes.
        return list(KFold(min(_N_FOLDS, len(y)), shuffle=True, random_state=0).split(y)) if len(y) > 1 else []

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Log probabilities of shape (n_images, n_classes), of log scores of this shape."""
        return log_softmax(X / self.temperature_, axis=1)
