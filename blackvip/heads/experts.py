"""Experts: linear classifiers on features or score columns, whose log probabilities the fused head weighs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from ..persistence.arrays import Array
from ..persistence.fields import number
from ..persistence.saveable import Saveable
from .regression import linear_logits

__all__ = ["LEAST_LOG_PROBA", "LinearExpert"]

#: The least log probability of an expert: a confident mistake should not outvote all others.
LEAST_LOG_PROBA = -15.0


@dataclass
class LinearExpert(Saveable):
    """Linear classifier on features or score columns, and its weight in the stack of the fused head.

    Attributes
    ----------
    coef : ndarray of shape (n_classes, n_inputs)
        Weights of its inputs, for the classes that have images.
    intercept : ndarray of shape (n_classes,)
        Added to the log odds of each class.
    alpha : float
        Non-negative weight of its log probabilities in the stack.
    """

    coef: np.ndarray
    intercept: np.ndarray
    alpha: float = 1.0

    saved_parameters = {
        "coef": Array(("n_classes", "n_inputs")),
        "intercept": Array(("n_classes",)),
        "alpha": number(low=0),
    }

    def log_proba(self, inputs: np.ndarray) -> np.ndarray:
        """Log probabilities (n, n_classes) of inputs (n, n_inputs), at least -15."""
        return np.maximum(log_softmax(linear_logits(inputs, self.coef, self.intercept), axis=1), LEAST_LOG_PROBA)
