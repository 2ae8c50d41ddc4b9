"""Heads: the base class, and the head that learns nothing."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils._param_validation import HasMethods

from ..persistence.arrays import Array
from ..persistence.format import expect
from ..persistence.saveable import Saveable
from .folds import Fold, usual_folds
from .scored import LabelledScores

__all__ = ["FLOOR", "Auto", "Head", "IsClassifier", "ServiceHead", "head_class", "log_loss"]

#: Probabilities below it are raised to it before the logarithm is taken.
FLOOR = 1e-12


class Auto(NamedTuple):
    """The conditions under which ``head="auto"`` chooses a kind of head.

    Attributes
    ----------
    rank : int
        Heads are tried in this order, the preferred one first. A later one replaces the best so far if that one is
        worse, see `HeadResult.is_worse`.
    """

    rank: int


class Head(Saveable, ClassifierMixin, BaseEstimator, ABC):
    """Base class of heads: classifiers on the service's log scores, on local features, or on both.

    A subclass defines `fit` and `predict_log_proba` on a matrix X, and sets `needs_scores` and `needs_features`, which
    say what the columns of X are: log scores on the left, features on the right. ``class MyHead(Head, name="mine")``
    also makes it available as ``BlackVIPClassifier(head="mine")``, and ``auto=Auto(rank)`` makes it a candidate of
    ``head="auto"``.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels; class indices, in a fitted `BlackVIPClassifier`.
    """

    classes_: np.ndarray
    n_features_in_: int

    named: ClassVar[dict[str, type[Head]]] = {}  #: Heads that have a short name, as in ``head="fused"``.
    candidates: ClassVar[list[type[Head]]] = []  #: Heads among which ``head="auto"`` chooses, the preferred one first.
    auto: ClassVar[Auto | None] = None

    needs_scores: bool = True  #: Whether it uses the service's log scores.
    needs_features: bool = False  #: Whether it uses the features of the local encoder.
    learns: ClassVar[bool] = True  #: Whether it may predict other classes than the service.
    min_classes: ClassVar[int] = 1  #: Classes that must have images.
    min_images: ClassVar[int] = 1  #: Images that each of these classes must have.
    n_deviations: int = 0  #: Score columns that it takes beyond those of the classes, see `with_deviations`.
    vector_size: int = 0  #: Size of the service's vector, the last score columns, if it takes them.
    fallback: ClassVar[type[Head] | None] = None  #: Used where there are too few images. None: `ServiceHead`.

    saved_attributes = {"classes_": Array(("n_classes",), "int64", low=0)}

    def __init_subclass__(cls, auto: Auto | None = None, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        cls.auto = auto
        if auto is not None:
            Head.candidates.append(cls)
            Head.candidates.sort(key=lambda candidate: candidate.auto or auto)

    @abstractmethod
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Head:
        """Learn from labelled images, and set `classes_`.

        Parameters
        ----------
        X : array-like of shape (n_images, n_inputs)
            Score columns, local features, or both, as the head takes them.
        y : array-like of shape (n_images,)
            Labels of the images.
        sample_weight : array-like of shape (n_images,) or None, default=None
            Positive weights of the images. None: 1 for each.

        Returns
        -------
        self : Head
            The fitted head.
        """

    @abstractmethod
    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Predict log probabilities.

        Parameters
        ----------
        X : array-like of shape (n_images, n_inputs)
            Inputs as in `fit`.

        Returns
        -------
        log_proba : ndarray of shape (n_images, n_classes)
            Columns are in the order of `classes_`.
        """

    def predict_proba(self, X: Any) -> np.ndarray:
        """Compute class probabilities.

        Parameters
        ----------
        X : array-like of shape (n_images, n_features_in_)
            The inputs of the head, in the same columns as in `fit`.

        Returns
        -------
        proba : ndarray of shape (n_images, n_classes)
            Probabilities, in the order of `classes_`.
        """
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """Predict labels.

        Parameters
        ----------
        X : array-like of shape (n_images, n_features_in_)
            The inputs of the head, in the same columns as in `fit`.

        Returns
        -------
        y : ndarray of shape (n_images,)
            The most probable class of each image.
        """
        best = self.predict_log_proba(X).argmax(axis=1)
        return self.classes_[best]

    def fit_held_out(self, X: Any, y: Any, sample_weight: Any = None) -> np.ndarray:
        """Fit, and compute cross-validated log probabilities of the training images.

        Parameters
        ----------
        X : ndarray of shape (n_images, n_features_in_)
            The inputs of the head.
        y : ndarray of shape (n_images,)
            Labels.
        sample_weight : ndarray of shape (n_images,) or None, default=None
            Weights of the images.

        Returns
        -------
        log_proba : ndarray of shape (n_images, n_classes)
            Each row comes from a head that was not fitted to that image, unless a class has only one. In the order of
            `classes_`.
        """
        weights = np.ones(len(y)) if sample_weight is None else sample_weight
        self.fit(X, y, sample_weight=weights)
        folds = self._folds(y)
        if not folds:
            return self.predict_log_proba(X)
        held_out = np.empty((len(y), len(self.classes_)))
        for train, test in folds:
            twin = clone(self).fit(X[train], y[train], sample_weight=weights[train])
            held_out[test] = twin.predict_log_proba(X[test])
        return held_out

    @staticmethod
    def _folds(y: np.ndarray) -> list[Fold]:
        """Return the training and test rows of each fold, see `usual_folds`."""
        return usual_folds(y)

    def _finish_loading(self) -> None:
        super()._finish_loading()
        sorted_ = len(self.classes_) > 0 and bool((np.diff(self.classes_) > 0).all())
        expect(sorted_, "a head's classes_ are not sorted")

    def check_layout(self, n_classes: int, n_scores: int, block_sizes: tuple[int, ...]) -> None:
        """Check that a head that was loaded has the right inputs and classes.

        Parameters
        ----------
        n_classes : int
            Number of classes; the head may have seen fewer.
        n_scores : int
            Number of log scores that it takes.
        block_sizes : tuple of int
            Number of features in each block of the local encoder.

        Raises
        ------
        PersistenceError
            If it takes other inputs, or has a class that does not exist.
        """
        last, n_features = self.classes_[-1], sum(block_sizes) if self.needs_features else 0
        expected = n_scores + self.vector_size + n_features
        expect(last < n_classes, f"a head knows the class {last}, but there are {n_classes}")
        n_inputs = getattr(self, "n_features_in_", expected)
        expect(n_inputs == expected, f"a head takes {n_inputs} inputs; expected {expected}")

    # What the rest of the package calls

    @property
    def title(self) -> str:
        """Name of the head in reports: that of its class, in words."""
        return re.sub("(?<=[a-z])(?=[A-Z])", " ", type(self).__name__).lower()

    @classmethod
    def can_fit(cls, counts: np.ndarray) -> bool:
        """Tell whether there are enough images; `counts` has their number for each class."""
        present = counts[counts > 0]
        return len(present) >= cls.min_classes and present.min() >= cls.min_images

    def with_layout(self, n_scores: int, block_sizes: tuple[int, ...], vector_size: int = 0) -> Head:
        """Make an unfitted copy for inputs of a given layout.

        Parameters
        ----------
        n_scores : int
            Number of log scores per image.
        block_sizes : tuple of int
            Number of features in each block of the local encoder.
        vector_size : int, default=0
            Size of the service's vector.

        Returns
        -------
        head : Head
            The copy.
        """
        return clone(self)

    def check_fits(self, n_scores: int, y: np.ndarray, weights: np.ndarray) -> None:  # noqa: B027
        """Check before anything is sent that the head can be fitted to images with these labels.

        By default nothing is checked, since a head for which there are too few images is replaced by its `fallback`.

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
            If it cannot be fitted to them.
        """

    def with_deviations(self, prompt_classes: tuple[int, ...]) -> list[Head]:
        """Make unfitted copies that also use the scores of the single prompts, where classes have several.

        Parameters
        ----------
        prompt_classes : tuple of int
            Class index of each prompt whose deviation is a score column, see `PromptGroups.columns`.

        Returns
        -------
        heads : list of Head
            The copies, the simplest first; empty if the head uses the log scores of the classes alone.
        """
        return []

    def columns_of(self, columns: np.ndarray, n_classes: int) -> np.ndarray:
        """Select the score columns that the head takes.

        Parameters
        ----------
        columns : ndarray of shape (n_images, n_columns)
            Log scores of the classes, the deviations of their prompts, and the service's vector.
        n_classes : int
            Number of classes.

        Returns
        -------
        columns : ndarray of shape (n_images, n_classes + n_deviations + vector_size)
            Without the deviations and the vector, unless it takes them.
        """
        scores = columns[:, : n_classes + self.n_deviations]
        return np.hstack([scores, columns[:, -self.vector_size :]]) if self.vector_size else scores

    def inputs(self, columns: np.ndarray, features: np.ndarray | None) -> np.ndarray:
        """Make X from score columns and features, as far as the head needs them.

        Parameters
        ----------
        columns : ndarray of shape (n_images, n_columns)
            Score columns that it takes, see `columns_of`.
        features : ndarray of shape (n_images, n_features) or None
            Features of the local encoder. None only for a head that needs none.

        Returns
        -------
        X : ndarray of shape (n_images, n_features_in_)
            The inputs of `fit` and `predict_log_proba`.
        """
        if not self.needs_features:
            return columns
        assert features is not None
        return np.hstack([columns, features]) if self.needs_scores else features

    def fit_scored(self, data: LabelledScores) -> np.ndarray:
        """Fit to scored images, and cross-validate on them.

        Parameters
        ----------
        data : LabelledScores
            The training images with their scores.

        Returns
        -------
        held_out : ndarray of shape (n_images, n_classes)
            Log probabilities of all classes, each row from a head that was not fitted to that image.
        """
        columns = self.columns_of(data.columns, data.n_classes)
        held_out = self.fit_held_out(self.inputs(columns, data.features), data.y, data.weights)
        return self._of_all_classes(held_out, data.n_classes)

    def predict_log_proba_of(self, columns: np.ndarray, features: np.ndarray | None, n_classes: int) -> np.ndarray:
        """Predict log probabilities of all classes, also of those that the head has not seen.

        Parameters
        ----------
        columns : ndarray of shape (n_images, n_classes or more)
            Log scores of the classes; then the deviations of their prompts, and the service's vector, which only some
            heads take.
        features : ndarray of shape (n_images, n_features) or None
            Features of the local encoder.
        n_classes : int
            Number of classes.

        Returns
        -------
        log_proba : ndarray of shape (n_images, n_classes)
            A class that the head has not seen gets the lowest probability.
        """
        inputs = self.inputs(self.columns_of(columns, n_classes), features)
        return self._of_all_classes(self.predict_log_proba(inputs), n_classes)

    def _of_all_classes(self, log_proba: np.ndarray, n_classes: int) -> np.ndarray:
        """Insert columns for the class indices that were not in the training images, with the lowest probability."""
        full = np.full((len(log_proba), n_classes), np.log(FLOOR))
        full[:, self.classes_] = log_proba
        return full


class ServiceHead(Head):
    """Softmax of the service's scores, as in the paper; it learns nothing."""

    learns = False

    @property
    def title(self) -> str:
        """Name in reports."""
        return "no head"

    @property
    def n_features_in_(self) -> int:  # type: ignore[override]
        """Number of columns of X."""
        return len(self.classes_)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> ServiceHead:
        """Learn nothing; the classes are the numbers of the columns of X."""
        self.classes_ = np.arange(X.shape[1])
        return self

    def fit_held_out(self, X: Any, y: Any, sample_weight: Any = None) -> np.ndarray:
        """Compute log probabilities (n_images, n_classes); there is nothing to cross-validate."""
        return self.fit(X, y).predict_log_proba(X)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Compute log probabilities (n_images, n_classes) from log scores of this shape."""
        return log_softmax(X, axis=1)


def head_class(name: str | None) -> type[Head]:
    """Look up a head by its short name; None is `ServiceHead`."""
    if name is None:
        return ServiceHead
    if name not in Head.named:
        names = ", ".join(map(repr, ("auto", *sorted(Head.named))))
        raise ValueError(f"head={name!r}; expected {names}, None or a classifier with predict_proba.")
    return Head.named[name]


class IsClassifier(HasMethods):
    """Constraint of a parameter: an instance with `fit` and `predict_proba`, and not a class."""

    def __init__(self) -> None:
        super().__init__(["fit", "predict_proba"])

    def is_satisfied_by(self, val: Any) -> bool:
        return not isinstance(val, type) and super().is_satisfied_by(val)

    def __str__(self) -> str:
        return "an instance of a class with 'fit' and 'predict_proba'"


def log_loss(log_proba: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute the negative log probability of each image's true class, in nats.

    Parameters
    ----------
    log_proba : ndarray of shape (n_images, n_classes)
        Log probabilities.
    y : ndarray of shape (n_images,)
        Class indices.

    Returns
    -------
    losses : ndarray of shape (n_images,)
        Losses in nats, at least 0.
    """
    return -log_proba[np.arange(len(y)), y]
