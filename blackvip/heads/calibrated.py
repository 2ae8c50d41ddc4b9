"""The calibrated head: multinomial logistic regression on the service's log scores.

It costs almost no images, since it is trained on scores that are already paid for, and is often worth more than the
prompt (see docs/method.md).
"""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from scipy.special import log_softmax
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted, validate_data

from ..inputs.labels import check_labels, training_weights
from ..persistence.arrays import Array
from ..persistence.fields import ListOf, integer, number
from ..persistence.format import expect
from .base import Auto, Head, ServiceHead
from .folds import stratified_folds, weights_of_folds
from .regression import Regressions, linear_logits
from .scaling import no_scaling, scaling_of
from .stack import lowest_loss

__all__ = ["CalibratedHead"]

#: Weights (n_classes, n_features) and intercepts (n_classes,) of a regression.
_Found = tuple[np.ndarray, np.ndarray]
_FTOL = 1e-10  # relative tolerance of the loss


class CalibratedHead(Head, name="calibrated", auto=Auto(rank=1)):
    """Multinomial logistic regression on log scores, with a cross-validated regularisation strength.

    Parameters
    ----------
    Cs : tuple of float, default=(0.1, 0.3, 1.0, 3.0)
        Inverse regularisation strengths to choose from, by the cross-validated log loss.
    n_folds : int, default=5
        Maximum number of folds; at most the number of images in the smallest class. If a class has only one image,
        the middle one of `Cs` is used.
    standardize : bool, default=True
        Whether to scale each input to mean 0 and variance 1 first.

    Attributes
    ----------
    C_ : float
        The chosen inverse regularisation strength.
    classes_ : ndarray of shape (n_classes,)
        The labels.
    coef_ : ndarray of shape (n_classes, n_features_in_)
        Weights that apply to the log scores before standardisation.
    intercept_ : ndarray of shape (n_classes,)
        Intercepts.
    n_features_in_ : int
        Number of columns of X.

    Notes
    -----
    Of classes and inputs with more than 50,000 weights, as 224 classes and their scores have, only the principal
    directions of the inputs have weights, as many as 50,000 allow.

    Examples
    --------
    >>> import numpy as np
    >>> from blackvip import CalibratedHead
    >>> log_scores = np.log([[0.6, 0.4], [0.7, 0.3], [0.9, 0.1], [0.8, 0.2]])
    >>> CalibratedHead().fit(log_scores, ["cat", "cat", "dog", "dog"]).predict(log_scores).tolist()
    ['cat', 'cat', 'dog', 'dog']
    """

    min_classes = 2
    fallback = ServiceHead

    coef_: np.ndarray
    intercept_: np.ndarray
    C_: float

    _parameter_constraints = {
        "Cs": ["array-like"],
        "n_folds": [Interval(Integral, 1, None, closed="left")],
        "standardize": ["boolean"],
    }
    saved_parameters = {"Cs": ListOf(number())}
    saved_attributes = {
        "C_": number(),
        "coef_": Array(("n_classes", "n_inputs")),
        "intercept_": Array(("n_classes",)),
        "n_features_in_": integer(1),
    }

    def _finish_loading(self) -> None:
        super()._finish_loading()
        expect(self.n_features_in_ == self.coef_.shape[1], "a head's n_features_in_ does not fit its coef_")

    def __init__(self, Cs: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0), n_folds: int = 5, standardize: bool = True):
        self.Cs = Cs
        self.n_folds = n_folds
        self.standardize = standardize

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> CalibratedHead:
        """Choose the strength, and fit.

        Parameters
        ----------
        X : array-like of shape (n_images, n_features)
            Log scores or other inputs.
        y : array-like of shape (n_images,)
            Labels of at least two classes.
        sample_weight : array-like of shape (n_images,) or None, default=None
            Non-negative weights of the images.

        Returns
        -------
        self : CalibratedHead
            The fitted head.
        """
        self.fit_held_out(X, y, sample_weight)
        return self

    def fit_held_out(self, X: Any, y: Any, sample_weight: Any = None) -> np.ndarray:
        """Fit, and compute cross-validated log probabilities of the training images.

        Parameters
        ----------
        X : array-like of shape (n_images, n_features)
            Log scores or other inputs.
        y : array-like of shape (n_images,)
            Labels of at least two classes.
        sample_weight : array-like of shape (n_images,) or None, default=None
            Non-negative weights of the images.

        Returns
        -------
        log_proba : ndarray of shape (n_images, n_classes)
            Each row comes from a head that was not fitted to that image, unless a class has only one. In the order of
            `classes_`. Images without weight belong to no fold, and are predicted by the head itself.
        """
        y = check_labels(y)
        X, y = validate_data(self, X, y)
        weights = training_weights(sample_weight, None, y)
        if not len(self.Cs) or min(self.Cs) <= 0:
            raise ValueError(f"Cs={self.Cs!r}; expected one or more positive strengths, such as (0.1, 1.0).")
        self.classes_, index = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has 1 class, {self.classes_.tolist()[0]!r}; expected at least two classes.")
        if len(np.unique(index[weights > 0])) < 2:
            raise ValueError("Only images of 1 class have a weight above zero; expected at least two classes.")
        self.C_, held_out, (self.coef_, self.intercept_) = self._choose(X, index, weights)
        return held_out

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Compute log probabilities.

        Parameters
        ----------
        X : array-like of shape (n_images, n_features_in_)
            Log scores.

        Returns
        -------
        log_proba : ndarray of shape (n_images, n_classes)
            Log probabilities, in the order of `classes_`.
        """
        check_is_fitted(self)
        return _log_proba(validate_data(self, X, reset=False), self.coef_, self.intercept_)

    def _choose(self, X: np.ndarray, index: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray, _Found]:
        """Choose the best strength; return it with its held-out log probabilities (n_images, n_classes) and its fit."""
        rows = np.flatnonzero(weights)
        n_folds = min(self.n_folds, np.unique(index[rows], return_counts=True)[1].min())
        folds = stratified_folds(index[rows], n_folds) if n_folds > 1 else []
        folds = [(rows[train], rows[test]) for train, test in folds]
        # The first one is fitted to all images, once the strength is known.
        regressions = _Regressions(X, index, np.stack([weights, *weights_of_folds(weights, folds)]), self.standardize)

        def of_folds(C: float) -> np.ndarray:
            log_proba = np.zeros((len(X), len(self.classes_)))
            for found, (_, test) in zip(regressions.fit(C, slice(1, None)), folds):
                log_proba[test] = _log_proba(X[test], *found)
            return log_proba

        C, held_out = self.Cs[len(self.Cs) // 2], np.empty((len(X), len(self.classes_)))
        if folds:
            C, held_out = lowest_loss(sorted(self.Cs), of_folds, index, weights)
        [found] = regressions.fit(C, slice(1))
        alone = weights == 0 if folds else slice(None)
        held_out[alone] = _log_proba(X[alone], *found)
        return C, held_out, found


class _Regressions:
    """Logistic regressions on the same images, each with weights (n_fits, n_images) of its own."""

    def __init__(self, X: np.ndarray, index: np.ndarray, weights: np.ndarray, standardize: bool):
        self.n_classes = int(index.max()) + 1
        self.scaling = scaling_of(X, weights) if standardize else no_scaling(X.shape[1])
        self.regressions = Regressions(self.scaling.apply(X), index, weights, self.n_classes)

    def fit(self, C: float, which: slice) -> list[_Found]:
        """Fit weights (n_classes, n_features) and intercepts (n_classes,) that apply to X before standardisation."""
        # With two classes, scikit-learn's penalty is that of the weights of the log odds, not of both classes.
        found = self.regressions.fit((2 if self.n_classes == 2 else 1) / C, _FTOL, which)
        coef, intercept = self.scaling.undo(found.coef, found.intercept)
        if self.n_classes == 2:
            coef, intercept = coef - coef[:, :1], intercept - intercept[:, :1]
        return list(zip(coef, intercept))[which]


def _log_proba(X: np.ndarray, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
    """Log probabilities (n_images, n_classes) of inputs (n_images, n_features)."""
    return log_softmax(linear_logits(X, coef, intercept), axis=1)
