"""Scaling of scores before a regression."""

from __future__ import annotations

import numpy as np
from sklearn.preprocessing import StandardScaler

__all__ = ["fit_scaler"]


def fit_scaler(scores: np.ndarray, weights: np.ndarray) -> StandardScaler:
    """Fit weighted means and standard deviations of scores (n_images, n_scores); those of a constant score are 1."""
    # The weighted variance of a constant score may come out just below zero, of which scikit-learn takes care.
    with np.errstate(invalid="ignore"):
        return StandardScaler().fit(scores, sample_weight=weights)
