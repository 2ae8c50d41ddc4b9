"""Adapter that makes a head of any scikit-learn classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import has_fit_parameter

from .base import FLOOR, Head, head_class
from .trial import try_to_fit

__all__ = ["ClassifierHead", "make_head"]


class ClassifierHead(Head):
    """Adapter that makes a head of any scikit-learn classifier; the classifier is trained on the log scores.

    Parameters
    ----------
    classifier : estimator with `predict_proba`
        A classifier of scikit-learn's kind; it is cloned.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    classifier_ : estimator
        The fitted classifier.
    """

    def __init__(self, classifier: Any):
        self.classifier = classifier

    @property
    def title(self) -> str:
        """Name of the classifier in reports."""
        return type(self.classifier).__name__

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> ClassifierHead:
        """Fit the classifier.

        Parameters
        ----------
        X : ndarray of shape (n_images, n_scores)
            Log scores.
        y : ndarray of shape (n_images,)
            Labels.
        sample_weight : ndarray of shape (n_images,) or None, default=None
            Weights of the images.

        Returns
        -------
        self : ClassifierHead
            The fitted head.

        Raises
        ------
        ValueError
            If the weights differ, but the classifier does not support weights.
        """
        self.classifier_ = clone(self.classifier).fit(X, y, **self._weights(sample_weight))
        self.classes_ = self.classifier_.classes_
        return self

    def check_fits(self, n_scores: int, y: np.ndarray, weights: np.ndarray) -> None:
        """Try the classifier on made-up log scores.

        Parameters
        ----------
        n_scores : int
            Number of log scores per image.
        y : ndarray of shape (n_images,)
            Class indices.
        weights : ndarray of shape (n_images,)
            Weights of the images.

        Raises
        ------
        ValueError
            If it cannot be fitted, or returns no probability for each class.
        """
        self._weights(weights)

        def probabilities(X: np.ndarray, y: np.ndarray, weights: np.ndarray) -> Any:
            return clone(self).fit(X, y, weights).classifier_.predict_proba(X[:1])

        try_to_fit(probabilities, str(self.classifier), n_scores, y, weights, self._folds(y))

    def _weights(self, sample_weight: np.ndarray | None) -> dict[str, np.ndarray]:
        """Return the weights as an argument of `fit`; none if it does not support them and all are equal."""
        if sample_weight is None:
            return {}
        if has_fit_parameter(self.classifier, "sample_weight"):
            return {"sample_weight": sample_weight}
        if np.ptp(sample_weight):
            raise ValueError(
                f"The head {self.classifier} does not support sample_weight, but the images have different weights. "
                "Omit sample_weight and class_weight, or use another head."
            )
        return {}

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Compute log probabilities.

        Parameters
        ----------
        X : ndarray of shape (n_images, n_scores)
            Log scores.

        Returns
        -------
        log_proba : ndarray of shape (n_images, n_classes)
            Columns are in the order of `classes_`; at least log(1e-12).
        """
        return np.log(np.maximum(self.classifier_.predict_proba(X), FLOOR))


def make_head(head: Any) -> Head:
    """Make an unfitted head from a short name, None, a `Head`, or a classifier, which is put into an adapter."""
    if head is None or isinstance(head, str):
        return head_class(head)()
    return clone(head) if isinstance(head, Head) else ClassifierHead(clone(head))
