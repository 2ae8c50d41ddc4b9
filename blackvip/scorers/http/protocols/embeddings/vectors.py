"""Vectors and numbers in answers, found by their path and strictly checked."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from .....exceptions import ServiceError
from ...json_bodies import shortened

__all__ = ["at_path", "in_order", "read_vectors", "scale_factor", "unit_vectors"]


def at_path(answer: Any, path: str) -> Any:
    """Return what is at a path, names of fields with dots between them; None if there is nothing."""
    for name in filter(None, path.split(".")):
        answer = answer.get(name) if isinstance(answer, Mapping) else None
    return answer


def in_order(answer: Any, path: str, n_expected: int, what: str) -> list[Any]:
    """Return the items of an answer, in the order of the request.

    Parameters
    ----------
    answer : object
    path : str
        Names of fields with dots between them, and ``*`` for the list of all items. Without it, there is one item.
    n_expected : int
    what : str
        Name of the items, in the plural, for errors.

    Returns
    -------
    items : list
        Ordered by their `index`, if they have one.

    Raises
    ------
    ServiceError
        If there are more or fewer, or if an index is wrong.
    """
    before, star, after = path.partition("*")
    found = at_path(answer, before)
    items = found if star else [found]
    if found is None or not isinstance(items, list):
        raise ServiceError(
            f"The service's answer has no {what} at {path!r}: {shortened(answer)}; expected {n_expected}. Does the "
            "model take images and texts, and is the form that of the service?"
        )
    if len(items) != n_expected:
        raise ServiceError(f"The service answered with {len(items)} {what}; expected {n_expected}, as requested.")
    places = [item.get("index") if isinstance(item, Mapping) else None for item in items]
    if any(place is not None for place in places):
        if set(map(repr, places)) != set(map(repr, range(n_expected))):
            raise ServiceError(f"The service's {what} have the places {shortened(places, 80)}; expected each once.")
        items = [items[places.index(place)] for place in range(n_expected)]
    return [at_path(item, after) for item in items]


def read_vectors(answer: Any, path: str, n_expected: int, dimension: int | None) -> np.ndarray:
    """Read the vectors of an answer.

    Parameters
    ----------
    answer : object
    path : str
        As of `in_order`. Vectors are lists of numbers, or 32-bit floats in base64, little-endian.
    n_expected : int
    dimension : int or None
        Expected number of dimensions. None: any, and the same for all.

    Returns
    -------
    vectors : ndarray of shape (n_expected, dimension), float32
        Finite, and none of them is zero.

    Raises
    ------
    ServiceError
        If the vectors are not so.
    """
    vectors = [_vector(value) for value in in_order(answer, path, n_expected, "vectors")]
    for vector in vectors:
        if dimension is not None and len(vector) != dimension:
            raise ServiceError(
                f"The service answered with a vector of {len(vector)} dimensions; expected {dimension}, as in "
                "`dimensions` or as the vectors of other texts and images. Is one model behind all answers?"
            )
        dimension = len(vector)
    return np.stack(vectors)


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (n, d) of length 1, in double precision."""
    wide = vectors.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def scale_factor(scale: Any) -> float:
    """Return the factor of cosines for a parameter `scale`.

    Raises
    ------
    ValueError
        If it is neither a positive number nor "fit".
    """
    if isinstance(scale, str) and scale == "fit":
        return 1.0
    if isinstance(scale, bool) or not isinstance(scale, Real) or not 0 < float(scale) < np.inf:
        raise ValueError(f"scale={scale!r} was given; expected a positive number, or 'fit'.")
    return float(scale)


def _vector(value: Any) -> np.ndarray:
    """Return a checked vector (d,), float32, which is what models compute and services return."""
    if isinstance(value, str):
        try:
            vector = np.frombuffer(base64.b64decode(value, validate=True), "<f4").astype(np.float32)
        except (ValueError, binascii.Error):
            raise ServiceError(
                f"The service's vector {shortened(value, 40)!r} is not 32-bit floats in base64; expected these, or a "
                "list of numbers."
            ) from None
    elif _is_numbers(value):
        with np.errstate(over="ignore"):
            vector = np.array(value, np.float64).astype(np.float32)
    else:
        raise ServiceError(f"The service's vector is {shortened(value, 80)}; expected a list of numbers.")
    if not len(vector) or not np.isfinite(vector).all() or not vector.any():
        raise ServiceError(
            f"The service's vector of {len(vector)} numbers begins {vector[:3].tolist()}; expected finite numbers that "
            "are not all 0."
        )
    return vector


def _is_numbers(value: Any) -> bool:
    return isinstance(value, Sequence) and all(type(number) in (int, float) for number in value)
