"""Checks of labels, sample weights and class weights."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from sklearn.utils import assert_all_finite, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_consistent_length

from .label_values import label_array, label_key, shown
from .sources import open_images, open_source, refuse_single

__all__ = ["check_labels", "check_same_type", "class_indices", "labels_of", "training_weights"]

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
    """Convert labels to an array (n,) of texts, integers, floats without a fraction, or booleans.

    Members of an Enum count as their values, and nullable integers stay integers.

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


def check_same_type(y: np.ndarray, classes: np.ndarray, name: str = "y") -> None:
    """Raise a ValueError if labels and classes, both checked before, are of different types, so that none is equal.

    Parameters
    ----------
    y : ndarray of shape (n,)
    classes : ndarray of shape (n_classes,)
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
    """Find the index (n,) of each label in `classes`.

    Parameters
    ----------
    y : ndarray of shape (n,)
        Labels, see `check_labels`.
    classes : ndarray of shape (n_classes,)
        Class labels.
    unknown : {"raise", "ignore"}, default="raise"
        What is done with a label that is not among the classes; "ignore" gives it the index -1.

    Raises
    ------
    ValueError
        If y has labels of another type than the classes, or one that is not among them.
    """
    check_same_type(y, classes)
    places = {label_key(label): index for index, label in enumerate(classes.tolist())}
    labels, inverse = np.unique(y, return_inverse=True)
    found = np.array([places.get(label_key(label), -1) for label in labels.tolist()], dtype=np.intp)
    if unknown == "raise" and (found < 0).any():
        raise ValueError(
            f"y has the labels {shown(labels[found < 0].tolist())}, which are not among the classes "
            f"{shown(classes.tolist())}; classes are fixed by the first fit."
        )
    return found[inverse.reshape(-1)]


def training_weights(sample_weight: Any, class_weight: Any, y: np.ndarray) -> np.ndarray:
    """Compute the weights (n,) of the training images: sample weight times class weight, not negative.

    Parameters
    ----------
    sample_weight : array-like of shape (n,), number or None
    class_weight : dict, "balanced" or None
    y : ndarray of shape (n,)
        Labels.

    Raises
    ------
    ValueError
        If a weight is negative or not finite, if all are zero, or if there is not one per image.
    """
    if np.ma.is_masked(sample_weight):
        raise ValueError("sample_weight has masked values; expected a weight for each image, zero to leave one out.")
    weights: np.ndarray = _check_sample_weight(
        np.ones(len(y)) if sample_weight is None else sample_weight, y, dtype=np.float64, ensure_non_negative=True
    )
    weights = weights * compute_sample_weight(class_weight, y)
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(f"class_weight={class_weight!r:.100} has a weight that is negative or not finite.")
    if not weights.any():
        raise ValueError("All weights are zero; expected a sample weight greater than zero for at least two classes.")
    return weights
