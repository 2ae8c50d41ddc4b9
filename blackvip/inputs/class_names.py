"""Names of classes, from the labels or from the data set of the images."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np

from .label_values import column_names, names_of, plain_label

__all__ = ["class_names"]


def class_names(X: Any, y: Any) -> dict[Any, str]:
    """Find names for labels that are numbers or booleans.

    They come from a column of labels of Hugging Face, from the members of an Enum, or from a data set X of Hugging Face
    or torchvision whose labels are y.

    Parameters
    ----------
    X : images, in any form that `BlackVIPClassifier` takes
        The images, or the data set that holds them.
    y : array-like of shape (n_images,)
        Labels as the user passed them; `check_labels` accepts them.

    Returns
    -------
    names : dict from label to str
        Names of the labels; empty if none are known.
    """
    names = column_names(y)
    if names is not None:
        return dict(enumerate(names))
    is_list = isinstance(y, (list, tuple)) or getattr(getattr(y, "dtype", None), "kind", "") == "O"
    members = [label for label in y if isinstance(label, Enum)] if is_list else []
    if members:
        named = [member for member in set(members) if isinstance(plain_label(member), (bool, int, float))]
        return {plain_label(member): member.name.replace("_", " ").lower() for member in named}
    return _data_set_names(X, y)


def _data_set_names(X: Any, y: Any) -> dict[Any, str]:
    """Return the class names of a data set if its labels are y."""
    rows: Any = slice(None)
    X = getattr(X, "source", X)
    features = getattr(X, "features", None)
    if isinstance(features, Mapping):
        for column, feature in features.items():
            names = names_of(feature)
            if names is not None and _same(X[column][:], y):
                return dict(enumerate(names))
        return {}
    # A subset of torch.
    if hasattr(X, "indices") and hasattr(X, "dataset"):
        X, rows = X.dataset, np.asarray(X.indices)
    names, targets = getattr(X, "classes", None), getattr(X, "targets", None)
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names) or targets is None:
        return {}
    return dict(enumerate(names)) if _same(np.asarray(targets)[rows], y) else {}


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(np.array_equal(np.asarray(one), np.asarray(other)))
    except (TypeError, ValueError):
        return False
