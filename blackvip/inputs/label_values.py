"""Labels in any container, as plain Python values or arrays, before NumPy converts them."""

from __future__ import annotations

import datetime
import os
import unicodedata
from collections.abc import Mapping, Sequence, Set
from enum import Enum
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.exceptions import DataConversionWarning
from sklearn.utils import column_or_1d

from ..exceptions import warn_caller
from .decoding import as_array, is_missing, is_tensor

__all__ = ["column_names", "is_valid_text", "label_array", "label_key", "names_of", "plain_label", "shown"]

_EXPECTED = "expected a label per image, all texts, all integers or all booleans"
_TIMES = (datetime.date, datetime.time, datetime.timedelta, np.datetime64, np.timedelta64)
_PLAIN = (bool, int, float, str)
_MOST_SHOWN = 10


def label_array(y: Any) -> np.ndarray:
    """Convert labels to a one-dimensional array of texts, integers, floats or booleans.

    Parameters
    ----------
    y : array-like of shape (n,)
        Labels in any container.

    Returns
    -------
    labels : ndarray of shape (n,)
        Texts are of dtype object if y is an array or column of objects, and of a fixed width otherwise.

    Raises
    ------
    ValueError
        If labels are missing, of several types, or neither texts nor numbers.
    """
    y = _column(y)
    values = _values(y)
    if isinstance(values, np.ndarray):
        return values
    if any(_is_nested(value) for value in values):
        if not all(_is_nested(value) and len(value) == 1 for value in values):
            raise ValueError("y should be a 1d array of labels, but it holds sequences; expected one label per image.")
        _warn_of_column()
        return label_array([value[0] for value in values])
    labels = [plain_label(value) for value in values]
    missing = [row for row, label in enumerate(labels) if is_missing(label)]
    if missing:
        raise ValueError(
            f"y contains NaN: {len(missing)} of {len(labels)} labels are missing, the first in row {missing[0]}. "
            "Give every image a label, or leave those images out."
        )
    types = {type(label) for label in labels}
    for kind in sorted(types - set(_PLAIN), key=lambda kind: kind.__name__):
        raise ValueError(_refusal(next(label for label in labels if type(label) is kind)))
    if types == {int, float}:
        if all(float(label).is_integer() for label in labels):
            labels, types = [int(label) for label in labels], {int}
    elif len(types) > 1:
        raise ValueError(
            f"The labels in y are of different types, {', '.join(sorted(kind.__name__ for kind in types))}; expected "
            "labels of one type. Turn them all into text."
        )
    if types == {str}:
        is_column = hasattr(y, "dtype") and getattr(y.dtype, "kind", "O") == "O"
        # Arrays of a fixed width drop trailing zero characters.
        exact = not is_column and not any(label.endswith("\0") for label in labels)
        return np.array(labels, dtype=None if exact else object)
    return np.array(labels, dtype=_integer_type(labels) if types == {int} else None)


def plain_label(value: Any) -> Any:
    """Convert a label to a bool, int, float or str if possible; a member of an Enum counts as its value."""
    while isinstance(value, Enum):
        value = value.value
    if value is np.ma.masked:
        return None
    if hasattr(value, "as_py"):
        value = value.as_py()
    if is_tensor(value) or isinstance(value, np.ndarray):
        value = value.item() if value.ndim == 0 else value
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Integral) and not isinstance(value, np.timedelta64):
        return int(value)
    return float(value) if isinstance(value, (float, np.floating)) else value


def label_key(label: Any) -> tuple[str, Any]:
    """Return a key that is equal for equal labels of the same type: True is not 1, and texts are in Unicode NFC."""
    label = plain_label(label)
    if isinstance(label, str):
        return "text", unicodedata.normalize("NFC", label)
    return ("boolean" if isinstance(label, bool) else "number"), label


def is_valid_text(text: str) -> bool:
    """Return whether a text can be encoded; a text with an unpaired surrogate cannot."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def shown(labels: list[Any]) -> str:
    """List labels for a message; long lists and long texts are cut."""
    texts = [f"{label!r:.60}" for label in labels[:_MOST_SHOWN]]
    rest = f", ...] ({len(labels)} in all)" if len(labels) > _MOST_SHOWN else "]"
    return f"[{', '.join(texts)}{rest}"


def column_names(y: Any) -> list[str] | None:
    """Return the class names of a column of labels of Hugging Face; None for anything else."""
    source, column = getattr(y, "source", None), getattr(y, "column_name", None)
    features = getattr(source, "features", None)
    if not isinstance(features, Mapping) or column not in features:
        return None
    return names_of(features[column])


def names_of(feature: Any) -> list[str] | None:
    """Return the class names of a `ClassLabel` of Hugging Face; None for another feature."""
    names = getattr(feature, "names", None)
    return list(names) if isinstance(names, list) else None


def _integer_type(labels: list[int]) -> Any:
    """Return NumPy's type for integers that keeps them exact; without it, NumPy converts large ones to floats."""
    low, high = min(labels), max(labels)
    if low >= -(2**63) and high < 2**63:
        return np.int64
    if low >= 0 and high < 2**64:
        return np.uint64
    raise ValueError("y has integers of more than 64 bits, which NumPy does not hold exactly. Turn them into text.")


def _column(y: Any) -> Any:
    """Return the only column of a table or of a two-dimensional array."""
    if len(getattr(y, "shape", ())) != 2 or y.shape[1] != 1 or not hasattr(y, "__array__"):
        return y
    _warn_of_column()
    if hasattr(y, "iloc"):
        return y.iloc[:, 0]
    if hasattr(y, "column"):
        return y.column(0)
    return y.get_columns()[0] if hasattr(y, "get_columns") else y.reshape(-1)


def _warn_of_column() -> None:
    warn_caller(
        "A column-vector y was passed when a 1d array was expected. Please change the shape of y to (n_samples,), for "
        "example using ravel().",
        DataConversionWarning,
    )


def _values(y: Any) -> np.ndarray | list[Any]:
    """Return labels as an array if NumPy holds them without a conversion, else as a list."""
    if isinstance(y, (str, bytes, Mapping, Set)):
        raise ValueError(f"y is a {type(y).__name__}; {_EXPECTED}, in the order of X.")
    names = column_names(y)
    if names is not None:
        # Hugging Face marks missing labels by -1.
        return [None if label == -1 else label for label in y[:]]
    if is_tensor(y):
        return column_or_1d(as_array(y), warn=True)
    for method in ("to_pylist", "to_list"):
        # NumPy holds these numbers and dates exactly.
        if hasattr(y, method) and not (isinstance(getattr(y, "dtype", None), np.dtype) and y.dtype.kind in "biufmM"):
            return list(getattr(y, method)())
    if isinstance(y, Sequence):
        return list(y)
    if hasattr(y, "isna") and hasattr(y, "tolist") and not isinstance(y.dtype, np.dtype):
        return list(y.tolist())
    array = y if isinstance(y, np.ma.MaskedArray) else np.asarray(y)
    if array.dtype.kind in "mMVc":
        raise ValueError(_refusal(array.dtype))
    if array.ndim == 0 and array.dtype.kind == "O":
        remedy = " Turn it into a list." if hasattr(y, "__iter__") else ""
        raise ValueError(f"y is a {type(y).__name__}; {_EXPECTED}.{remedy}")
    if array.ndim == 1 and (array.dtype.kind in "OST" or np.ma.is_masked(array)):
        return list(array.tolist())
    array = column_or_1d(np.asarray(array), warn=True)
    # Files hold no longer floats.
    return array.astype(np.float64) if array.dtype.kind == "f" and array.dtype.itemsize > 8 else array


def _is_nested(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or (getattr(value, "ndim", None) or 0) > 0


def _refusal(label: Any) -> str:
    """Say why a label, or labels of a dtype of NumPy, are refused, and what to do."""
    name = str(label) if isinstance(label, np.dtype) else type(label).__name__
    if isinstance(label, (bytes, bytearray)):
        return f"The labels in y are {name}; {_EXPECTED}. Decode them: [label.decode() for label in y]."
    if isinstance(label, os.PathLike):
        return (
            f"The labels in y are paths ({name}); {_EXPECTED}. If each class has a folder of its own, pass "
            "[path.parent.name for path in y]."
        )
    if isinstance(label, _TIMES) or getattr(label, "kind", "") in ("m", "M") or hasattr(label, "start_time"):
        return f"The labels in y are dates or times ({name}); {_EXPECTED}. Turn them into text, or into years."
    if isinstance(label, complex) or getattr(label, "kind", "") == "c":
        return f"Complex data not supported: the labels in y are {name}; {_EXPECTED}."
    return f"The labels in y are of type {name}; {_EXPECTED}. Turn them into text or integers."
