"""Checks of labels, sample weights and class weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite, column_or_1d, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_consistent_length

from .decoding import as_array, is_missing, is_tensor
from .sources import open_images, open_source

__all__ = ["check_labels", "class_indices", "labels_of", "training_weights"]


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
            open_source(opened)
        raise
    return y


def check_labels(y: Any) -> np.ndarray:
    """Convert labels to an array (n,) of texts, integers, booleans or objects that are texts.

    Raises
    ------
    ValueError
        If y is missing, not one-dimensional, has missing values, or mixes types that cannot be ordered.
    """
    if y is None:
        raise ValueError("BlackVIPClassifier requires y to be passed, but the target y is None.")
    if is_tensor(y):
        y = as_array(y)
    y = column_or_1d(y, warn=True)
    if y.dtype.kind in "OUST":
        values = y.tolist()
        missing = [row for row, value in enumerate(values) if is_missing(value)]
        if missing:
            raise ValueError(
                f"y contains NaN: {len(missing)} of {len(values)} labels are missing, the first in row {missing[0]}. "
                "Give every image a label, or leave those images out."
            )
        kinds = sorted({type(value).__name__ for value in values})
        texts = all(isinstance(value, str) for value in values)
        if not texts and y.dtype.kind == "O":
            if len(kinds) > 1 and not all(np.issubdtype(type(value), np.number) for value in values):
                raise ValueError(
                    f"The labels in y are of different types, {', '.join(kinds)}; expected labels of one type. "
                    "Turn them all into text."
                )
            y = np.array(values)
    else:
        assert_all_finite(y, input_name="y")
    check_classification_targets(y)
    return y


def class_indices(y: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Find the index (n,) of each label in the sorted `classes`.

    Raises
    ------
    ValueError
        If y has a label that is not among the classes.
    """
    unknown = np.setdiff1d(y, classes)
    if len(unknown):
        raise ValueError(
            f"y has the labels {unknown.tolist()[:5]}, which are not among the classes {classes.tolist()}; "
            "classes are fixed by the first fit."
        )
    return np.searchsorted(classes, y)


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
    weights: np.ndarray = _check_sample_weight(
        np.ones(len(y)) if sample_weight is None else sample_weight, y, dtype=np.float64, ensure_non_negative=True
    )
    weights = weights * compute_sample_weight(class_weight, y)
    if not weights.any():
        raise ValueError("All weights are zero; expected a sample weight greater than zero for at least two classes.")
    return weights
