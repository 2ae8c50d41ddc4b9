"""Conversion of what a score function returned to numbers: arrays, tensors, columns of tables and nested lists."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import torch

__all__ = ["NotNumbersError", "as_number", "as_numbers", "has_all", "shown"]

# Types that NumPy converts without a surprise.
_PLAIN = frozenset({float, int, bool, np.float64, np.float32, np.float16, np.int64, np.int32, np.bool_})
# Characters of a name or value that an error shows.
_SHOWN = 60


class NotNumbersError(TypeError):
    """Error for a value that is not an array of numbers; the message says what it contains."""


def shown(value: Any) -> str:
    """Return the repr of a name or a value, shortened."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]} ..."


def has_all(value: Any, *names: str) -> bool:
    """Return whether a value's class has all these attributes; an object that answers to every name does not."""
    return all(hasattr(type(value), name) for name in names)


def as_number(value: Any) -> float:
    """Return a number, or an array of a single one, as a float; see `as_numbers`."""
    array = as_numbers(value)
    if array.size != 1:
        raise NotNumbersError(f"a score is an array of shape {array.shape}")
    return float(array.reshape(()))


def as_numbers(value: Any) -> np.ndarray:
    """Return numbers as a new float64 array.

    Parameters
    ----------
    value : object
        A number, an array, a tensor on any device, a column of a table, a sparse matrix, or nested lists of these.

    Returns
    -------
    array : ndarray of float64
        NaN for None, pandas' NA and masked numbers.

    Raises
    ------
    NotNumbersError
        If it contains anything else, such as text, dates or complex numbers, or its rows differ in length.
    """
    if isinstance(value, np.ma.MaskedArray):
        return np.where(np.ma.getmaskarray(value), np.nan, as_numbers(value.data))
    if isinstance(value, torch.Tensor):
        return _of_tensor(value)
    if isinstance(value, (list, tuple)):
        return _of_list(value)
    if isinstance(value, np.ndarray):
        return _of_array(value)
    # pyarrow's columns, and sparse matrices.
    for method in ("to_pylist", "toarray", "to_numpy"):
        if has_all(value, method):
            return as_numbers(getattr(value, method)())
    if has_all(value, "__dlpack__") and not has_all(value, "__array__"):
        return _of_tensor(torch.utils.dlpack.from_dlpack(value))
    try:
        array = np.asarray(value)
    except Exception as error:  # another package's `__array__` may raise anything
        raise NotNumbersError(f"it cannot be read: {error!s:.60}") from error
    if array.dtype == object and array.ndim == 0:
        return np.array(_of_object(value))
    return _of_array(array)


def _of_array(array: np.ndarray) -> np.ndarray:
    kind = array.dtype.kind
    # ml_dtypes' bfloat16 and 8-bit floats are of the kind "V".
    if kind in "biuf" or (kind == "V" and array.dtype.names is None and array.dtype.type is not np.void):
        with np.errstate(all="ignore"):
            return array.astype(np.float64)
    if kind == "O":
        return np.array([as_number(item) for item in array.ravel().tolist()], np.float64).reshape(array.shape)
    if kind in "SUT":
        found = f"text, such as {shown(array.ravel().tolist()[0])}" if array.size else "text"
    else:
        found = {"c": "complex numbers", "M": "dates", "m": "durations"}.get(kind, f"values of type {array.dtype}")
    raise NotNumbersError(f"it contains {found}")


def _of_object(value: Any) -> float:
    if value is None or type(value).__name__ == "NAType":
        return np.nan
    if isinstance(value, (Real, Decimal)) and not isinstance(value, np.timedelta64):
        try:
            return float(value)
        except OverflowError:
            return np.inf if str(value)[0] != "-" else float(-np.finfo(np.float64).max)
        except ValueError:  # a signalling NaN of Decimal
            return np.nan
    raise NotNumbersError(f"it contains a {type(value).__name__}")


def _of_list(items: Sequence[Any]) -> np.ndarray:
    if all(type(item) in _PLAIN for item in items):
        try:
            return np.array(items, np.float64)
        except OverflowError:
            return np.array([_of_object(item) for item in items])
    parts = [as_numbers(item) for item in items]
    shapes = {part.shape for part, item in zip(parts, items) if item is not None and item is not np.ma.masked} or {()}
    if len(shapes) > 1:
        lengths = " and ".join(str(shape) for shape in sorted(shapes)[:2])
        raise NotNumbersError(f"its rows have the shapes {lengths}")
    shape = shapes.pop()
    return np.stack([part if part.shape == shape else np.full(shape, np.nan) for part in parts])


def _of_tensor(tensor: torch.Tensor) -> np.ndarray:
    if tensor.is_complex():
        raise NotNumbersError("it contains complex numbers")
    try:
        tensor = tensor.detach().cpu()
        tensor = tensor.dequantize() if tensor.is_quantized else tensor
        tensor = tensor if tensor.layout == torch.strided else tensor.to_dense()
        return np.array(tensor.resolve_neg().double().numpy())
    except (RuntimeError, TypeError, NotImplementedError) as error:  # a tensor without storage
        raise NotNumbersError(f"it is a tensor that cannot be read: {error!s:.60}") from error
