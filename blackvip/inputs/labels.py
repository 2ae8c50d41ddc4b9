"""Checks of labels, sample weights and class weights."""

from __future__ import annotations

from collections.abc import Mapping, Set
from decimal import Decimal
from numbers import Real
from typing import Any, Literal

import numpy as np
from sklearn.utils import assert_all_finite, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_consistent_length

from ..persistence.fields import LABEL, OneOf, Pairs, Writing, choice, number
from .decoding import as_array, is_tensor
from .label_values import is_valid_text, label_array, label_key, plain_label, shown
from .sources import open_images, open_source, refuse_single

__all__ = [
    "CLASS_WEIGHT",
    "check_classes",
    "check_labels",
    "check_same_type",
    "class_indices",
    "labels_of",
    "training_weights",
]

# Largest weights between this and its inverse are not scaled. Weights below this share of the largest count as zero.
_LEAST_WEIGHT = 1e-30
_TYPES = {"b": "booleans", **dict.fromkeys("iuf", "numbers")}


def labels_of(X: Any, y: Any) -> np.ndarray:
    """Check labels, one per image of X; no image is read.

    Parameters
    ----------
    X : images, in any form, or OpenedImages
        The images.
    y : array-like of shape (n_images,)
        Their labels.

    Returns
    -------
    y : ndarray of shape (n_images,)
        Result of `check_labels`.

    Raises
    ------
    ValueError
        If y does not hold labels, or not one per image. If X is not a set of images, it is an `ImageError`.
    """
    y = check_labels(y)
    opened = open_images(X)
    try:
        check_consistent_length(opened.X, y)
    except (TypeError, ValueError):
        # If X is not a set of images, its own error explains why it has no usable length.
        if not opened.is_table:
            refuse_single(opened.X, n_labels=len(y))
            open_source(opened)
        raise
    return y


def check_labels(y: Any) -> np.ndarray:
    """Convert labels to an array of texts, integers, floats without a fraction, or booleans.

    Members of an Enum count as their values, and nullable integers stay integers.

    Parameters
    ----------
    y : array-like of shape (n,)
        The labels.

    Returns
    -------
    y : ndarray of shape (n,)
        The converted labels.

    Raises
    ------
    ValueError
        If y is missing, not one-dimensional, has missing values, or holds anything but texts, numbers or booleans of
        one type.
    """
    if y is None:
        raise ValueError("BlackVIPClassifier requires y to be passed, but the target y is None.")
    y = label_array(y)
    if y.dtype.kind == "f":
        assert_all_finite(y, input_name="y")
    check_classification_targets(y)
    return y


class _Weights(Pairs):
    """A dict of class weights."""

    def pack(self, value: Any, file: Writing, where: str) -> Any:
        if isinstance(value, Mapping):
            weights = {plain_label(key): weight for key, weight in value.items()}
            value = {key: float(each) if isinstance(each, Decimal) else each for key, each in weights.items()}
        return super().pack(value, file, where)


#: Field of the parameter `class_weight` in a file.
CLASS_WEIGHT = OneOf(choice("balanced", None), _Weights(LABEL, number()))


def check_classes(classes: Any) -> np.ndarray:
    """Convert class labels to a sorted array of distinct labels.

    Parameters
    ----------
    classes : array-like or set of labels
        Class labels; each may come several times.

    Returns
    -------
    classes : ndarray of shape (n_classes,)
        The sorted labels.

    Raises
    ------
    ValueError
        If they are not labels, see `check_labels`, if one is not valid text, or if two are the same text in different
        Unicode forms.
    """
    if isinstance(classes, Set):
        classes = list(classes)
    try:
        found = np.unique(check_labels(classes))
    except ValueError as error:
        raise ValueError(f"classes={classes!r:.100} is not a list of class labels. {error}") from error
    by_key: dict[Any, Any] = {}
    for label in found.tolist():
        if isinstance(label, str) and not is_valid_text(label):
            raise ValueError(
                f"The label {label!a:.60} is not valid text, such as a file name in an unknown encoding; expected text "
                "that UTF-8 can encode. Rename the class."
            )
        other = by_key.setdefault(label_key(label), label)
        if other != label:
            raise ValueError(
                f"The labels {other!a:.60} and {label!a:.60} are the same text in two Unicode forms; expected one form "
                "for each class. Normalise them: unicodedata.normalize('NFC', label)."
            )
    return found


def check_same_type(y: np.ndarray, classes: np.ndarray, name: str = "y") -> None:
    """Raise a `ValueError` if labels and classes have different types, so that no label can equal a class.

    Parameters
    ----------
    y : ndarray of shape (n,)
        Labels, see `check_labels`.
    classes : ndarray of shape (n_classes,)
        Class labels, see `check_classes`.
    name : str, default="y"
        Name of the labels in the error.
    """
    own, expected = (_TYPES.get(labels.dtype.kind, "texts") for labels in (y, classes))
    if len(y) and len(classes) and own != expected:
        raise ValueError(
            f"The labels in {name} are {own}, such as {y.tolist()[0]!r:.60}, but the classes are {expected}, such as "
            f"{classes.tolist()[0]!r:.60}; expected labels of the same type."
        )


def class_indices(y: np.ndarray, classes: np.ndarray, unknown: Literal["raise", "ignore"] = "raise") -> np.ndarray:
    """Find the index of each label in `classes`.

    Parameters
    ----------
    y : ndarray of shape (n,)
        Labels, see `check_labels`.
    classes : ndarray of shape (n_classes,)
        Class labels.
    unknown : {"raise", "ignore"}, default="raise"
        Treatment of a label that is not among the classes; "ignore" gives it the index -1.

    Returns
    -------
    indices : ndarray of shape (n,)
        Class indices, integers.

    Raises
    ------
    ValueError
        If the labels have another type than the classes or, with "raise", if one is not among them.
    """
    check_same_type(y, classes)
    places = {label_key(label): index for index, label in enumerate(classes.tolist())}
    labels, inverse = np.unique(y, return_inverse=True)
    found = np.array([places.get(label_key(label), -1) for label in labels.tolist()], dtype=np.intp)
    if unknown == "raise" and (found < 0).any():
        raise ValueError(
            f"y has the labels {shown(labels[found < 0].tolist())}, which are not among the classes "
            f"{shown(classes.tolist())}; classes are fixed by the first fit. Leave these images out, or fit again with "
            "all classes."
        )
    return found[inverse.reshape(-1)]


def training_weights(sample_weight: Any, class_weight: Any, y: np.ndarray) -> np.ndarray:
    """Compute the weights of the training images: sample weight times class weight.

    Parameters
    ----------
    sample_weight : array-like of shape (n,), number or None
        Weights of the images, at least 0. None: 1 for each.
    class_weight : dict, "balanced" or None
        Weights of the classes, as in scikit-learn.
    y : ndarray of shape (n,)
        Labels, see `check_labels`.

    Returns
    -------
    weights : ndarray of shape (n,), float64
        Weights of the images, at least 0. Huge and tiny weights are scaled to a maximum of 1, and those below 1e-30 of
        the largest are 0.

    Raises
    ------
    ValueError
        If a weight is negative or not finite, if all are zero, or if there is not one per image.
    """
    weights: np.ndarray = _check_sample_weight(
        np.ones(len(y)) if sample_weight is None else _weight_values(sample_weight),
        y,
        dtype=np.float64,
        ensure_non_negative=True,
    )
    weights = weights * compute_sample_weight(_for_labels(class_weight, y), y)
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(
            f"class_weight={class_weight!r:.100} has a weight that is negative or not finite; expected "
            "numbers of at least 0."
        )
    if not weights.any():
        raise ValueError("All weights are zero; expected a sample weight greater than zero for at least two classes.")
    # Sums of huge weights overflow, also in single precision, and products of tiny ones vanish.
    largest = weights.max()
    weights = np.where(weights < _LEAST_WEIGHT * largest, 0.0, weights)
    return weights if _LEAST_WEIGHT < largest < 1 / _LEAST_WEIGHT else weights / largest


def _weight_values(sample_weight: Any) -> Any:
    """Return sample weights in a form that NumPy converts to floats exactly."""
    expected = "expected a number of at least 0 for each image, 0 to leave it out"
    if is_tensor(sample_weight):
        sample_weight = as_array(sample_weight)
    is_list = isinstance(sample_weight, (list, tuple))
    if np.ma.is_masked(sample_weight) or (is_list and any(weight is np.ma.masked for weight in sample_weight)):
        raise ValueError(f"sample_weight has masked values; {expected}.")
    try:
        kind = np.asarray(sample_weight).dtype.kind
        if kind in "biuf":
            return sample_weight
        # Dates and complex numbers would become numbers too.
        if kind in "OSUT":
            return np.asarray(sample_weight, dtype=np.float64)
    except (TypeError, ValueError):
        pass
    raise ValueError(
        f"sample_weight is a {type(sample_weight).__name__} that does not hold plain numbers, "
        f"{sample_weight!r:.60}; {expected}."
    )


def _for_labels(class_weight: Any, y: np.ndarray) -> Any:
    """Return class weights with the labels of y as keys; given keys may be members of an Enum, or in NFD."""
    if not isinstance(class_weight, Mapping):
        return class_weight
    for key, weight in class_weight.items():
        if not isinstance(weight, (Real, Decimal, np.bool_)):
            raise ValueError(
                f"class_weight has {weight!r:.60} for class {plain_label(key)!r:.60}; expected a number of at least 0."
            )
    labels = {label_key(label): label for label in np.unique(y).tolist()}
    return {labels.get(label_key(key), plain_label(key)): float(weight) for key, weight in class_weight.items()}
