"""Fields of values that several places may share: arrays and random number generators. Labels are here too."""

from __future__ import annotations

import re
import reprlib
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from .fields import (
    BOOL,
    LABEL,
    LARGEST,
    NONE,
    Field,
    ListOf,
    OneOf,
    Pairs,
    Reading,
    Record,
    Writing,
    choice,
    integer,
    number,
    text,
)
from .format import DTYPES, expect

__all__ = ["PLAIN", "Array", "Generator", "Labels", "Shared"]

_WIDEST_LABEL = 1_000  # characters of a label's data type


class Shared(Field):
    """A value that may be at several places. The first place holds it, and the others refer to that place."""

    def pack(self, value: Any, file: Writing, where: str) -> Any:
        self.check(value, file, where)
        if id(value) in file.places:
            return {"same": file.places[id(value)]}
        packed = self.pack_first(value, file, where)
        file.places[id(value)] = where
        return packed

    def unpack(self, packed: Any, file: Reading, where: str) -> Any:
        if isinstance(packed, dict) and packed.keys() == {"same"}:
            place = str(packed["same"])
            expect(place in file.values, f"{where} is the same as {reprlib.repr(place)}, which does not exist")
            value = file.values[place]
        else:
            value = file.values[where] = self.unpack_first(packed, file, where)
        self.check(value, file, where)
        return value

    @abstractmethod
    def check(self, value: Any, file: Writing | Reading, where: str) -> None:
        """Raise a `PersistenceError` if the value is not allowed here."""

    @abstractmethod
    def pack_first(self, value: Any, file: Writing, where: str) -> Any:
        """Pack a value at its first place."""

    @abstractmethod
    def unpack_first(self, packed: Any, file: Reading, where: str) -> Any:
        """Unpack a value at its first place."""


class Array(Shared):
    """An array, stored as a tensor of the file that is named after its place.

    Parameters
    ----------
    shape : tuple of int or str, or None
        A named dimension has the same size in all arrays of an object. None allows any shape.
    dtypes : str
        Names of the data types that are allowed.
    low, high : float
        Bounds of the numbers, both included.
    nan : bool
        Whether NaN is allowed.
    """

    def __init__(
        self,
        shape: tuple[int | str, ...] | None,
        dtypes: str = "float64",
        low: float = -LARGEST,
        high: float = LARGEST,
        nan: bool = False,
    ):
        self.shape, self.dtypes, self.low, self.high, self.nan = shape, dtypes.split(), low, high, nan

    def check(self, value: Any, file: Writing | Reading, where: str) -> None:
        expect(type(value) is np.ndarray, f"{where} is a {type(value).__name__}; expected an array")
        expect(value.dtype.name in self.dtypes, f"{where} is {value.dtype}; expected {' or '.join(self.dtypes)}")
        if self.shape is not None:
            fits = value.ndim == len(self.shape) and all(
                n == (file.sizes.setdefault(name, n) if isinstance(name, str) else name)
                for name, n in zip(self.shape, value.shape)
            )
            known = tuple(file.sizes.get(name, name) if isinstance(name, str) else name for name in self.shape)
            expect(fits, f"{where} has the shape {value.shape}; expected {known}")
        numbers = value[~np.isnan(value)] if self.nan else value
        if numbers.dtype == np.float32:
            # The bounds would overflow in single precision.
            numbers = numbers.astype(np.float64)
        inside = bool(((numbers >= self.low) & (numbers <= self.high)).all())
        expect(inside, f"{where} has numbers that are not between {self.low:g} and {self.high:g}")

    def pack_first(self, value: Any, file: Writing, where: str) -> Any:
        file.tensors[where] = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("="))
        return {"tensor": where}

    def unpack_first(self, packed: Any, file: Reading, where: str) -> Any:
        expect(packed == {"tensor": where} and where in file.tensors, f"{where} has no tensor of its own")
        return file.tensors[where]


class Generator(Shared):
    """A random number generator of `numpy.random.default_rng`, with its state."""

    _state = Record(
        {
            "bit_generator": choice("PCG64"),
            "state": Record({"state": integer(0, 2**128 - 1), "inc": integer(0, 2**128 - 1)}),
            "has_uint32": integer(0, 1),
            "uinteger": integer(0, 2**32 - 1),
        }
    )

    def check(self, value: Any, file: Writing | Reading, where: str) -> None:
        expect(type(value) is np.random.Generator, f"{where} is a {type(value).__name__}; expected a Generator")

    def pack_first(self, value: Any, file: Writing, where: str) -> Any:
        return self._state.pack(value.bit_generator.state, file, where)

    def unpack_first(self, packed: Any, file: Reading, where: str) -> Any:
        state = self._state.unpack(packed, file, where)
        expect(state["bit_generator"] == "PCG64" and state["state"]["inc"] % 2 == 1, f"{where} is not a state of PCG64")
        generator = np.random.default_rng(0)
        generator.bit_generator.state = state
        return generator


class Labels(Field):
    """A one-dimensional array of labels, stored as JSON. Its data type is kept."""

    def __init__(self, kinds: str = "biufUTO"):
        self.kinds = kinds

    def pack(self, value: Any, file: Writing, where: str) -> Any:
        expect(type(value) is np.ndarray and value.ndim == 1, f"{where} is not an array of one dimension")
        kind = value.dtype.kind
        expect(
            kind in self.kinds, f"{where} is an array of {value.dtype}; expected texts, integers, booleans or floats"
        )
        name = {"O": "object", "T": "text"}.get(kind, value.dtype.str.lstrip("<>=|"))
        return {"dtype": name, "values": [LABEL.pack(label, file, where) for label in value.tolist()]}

    def unpack(self, packed: Any, file: Reading, where: str) -> np.ndarray:
        packed = Record({"dtype": text(), "values": ListOf(LABEL)}).unpack(packed, file, where)
        name, values = packed["dtype"], list(packed["values"])
        width = re.fullmatch(r"U(\d{1,4})", name)
        texts = width is not None or name in ("object", "text")
        expect(texts or name in _LABEL_TYPES, f"{where} is an array of {reprlib.repr(name)}")
        plain = str if texts else _LABEL_TYPES[name]
        expect(all(type(value) is plain for value in values), f"{where} has labels of another type than {name}")
        if width is not None:
            longest = max(map(len, values), default=0)
            expect(
                longest <= int(width[1]) <= _WIDEST_LABEL, f"{where} has labels of a width that does not fit its type"
            )
        dtype: Any = {"object": object, "text": getattr(np.dtypes, "StringDType", lambda: object)()}.get(name, name)
        array = np.array(values, dtype=dtype)
        expect(array.tolist() == values, f"{where} has labels that {name} does not hold")
        return array


_LABEL_TYPES: dict[str, type] = {"b1": bool, "f2": float, "f4": float, "f8": float}
_LABEL_TYPES |= {f"{sign}{n_bytes}": int for sign in "iu" for n_bytes in (1, 2, 4, 8)}


class _Plain(Field):
    """Any value without code: a number, text, boolean or None, a numeric array, and lists and dicts of these."""

    _scalar = OneOf(NONE, BOOL, integer(), number(), text())
    _array = Array(None, " ".join(dtype.name for dtype in DTYPES.values()), nan=True)

    def pack(self, value: Any, file: Writing, where: str) -> Any:
        if isinstance(value, np.ndarray):
            return self._array.pack(value, file, where)
        if isinstance(value, (list, tuple)):
            return ListOf(self).pack(value, file, where)
        if isinstance(value, Mapping):
            return Pairs(LABEL, self).pack(value, file, where)
        expect(
            value is None or isinstance(value, (bool, int, float, str, np.generic)),
            f"{where} is a {type(value).__name__}; expected numbers, texts, arrays of numbers, or lists of these",
        )
        return self._scalar.pack(value, file, where)

    def unpack(self, packed: Any, file: Reading, where: str) -> Any:
        keys = packed.keys() if isinstance(packed, dict) else {"tuple"} if isinstance(packed, list) else set()
        if keys in ({"tensor"}, {"same"}):
            return self._array.unpack(packed, file, where)
        if keys == {"tuple"}:
            return ListOf(self).unpack(packed, file, where)
        if keys == {"dict"}:
            return Pairs(LABEL, self).unpack(packed, file, where)
        return self._scalar.unpack(packed, file, where)


PLAIN = _Plain()
