"""Fields: what a plain value in a file may be. Each field checks values the same way when it writes and when it reads.

Arrays, generators and objects, which several places of a file may share, are in `arrays` and `objects`.
"""

from __future__ import annotations

import re
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..exceptions import PersistenceError
from .format import expect

__all__ = [
    "BOOL",
    "LABEL",
    "LARGEST",
    "NONE",
    "Field",
    "ListOf",
    "Maybe",
    "NotSaved",
    "OneOf",
    "Pairs",
    "RandomState",
    "Reading",
    "Record",
    "Scalar",
    "Writing",
    "choice",
    "integer",
    "number",
    "text",
]

LARGEST = 1e100  #: Largest magnitude of any number, chosen such that a product of two of them is finite.


@dataclass
class Writing:
    """State of a file that is being written.

    Attributes
    ----------
    tensors : dict of str to ndarray
        The arrays written so far, by place.
    places : dict of int to str
        Where each value that may be shared was written first, by its id.
    sizes : dict of str to int
        Named dimensions of the arrays of the current object.
    owner : object
        The current object.
    """

    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    places: dict[int, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    owner: Any = None


@dataclass
class Reading:
    """State of a file that is being read.

    Attributes
    ----------
    tensors : dict of str to ndarray
        The arrays of the file, by place.
    given : dict of str to object
        Values for parameters that a file never holds, such as ``score_fn``.
    values : dict of str to object
        Values read so far that may be shared, by place.
    sizes : dict of str to int
        Named dimensions of the arrays of the current object.
    owner : object
        The current object. It has its parameters, but no fitted attributes yet.
    """

    tensors: dict[str, np.ndarray]
    given: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    owner: Any = None


class Field(ABC):
    """Base class of fields, which describe the values allowed at a place and how they are stored as JSON.

    Both methods raise a `PersistenceError` that names the place (`where`) if a value is not allowed.
    """

    @abstractmethod
    def pack(self, value: Any, file: Writing, where: str) -> Any:
        """Convert a value to JSON, and add its arrays to the file's tensors.

        Parameters
        ----------
        value : object
            The value.
        file : Writing
            State of the file that is being written.
        where : str
            Place of the value, for errors, such as "head_.weights_".

        Returns
        -------
        packed : object in JSON
            The value, or a reference to a tensor.

        Raises
        ------
        PersistenceError
            If the value is not allowed here.
        """

    @abstractmethod
    def unpack(self, packed: Any, file: Reading, where: str) -> Any:
        """Convert JSON of unknown origin to a value.

        Parameters
        ----------
        packed : object in JSON
            What `pack` has returned, or anything else.
        file : Reading
            State of the file that is being read.
        where : str
            Place of the value, for errors.

        Returns
        -------
        value : object
            The checked value.

        Raises
        ------
        PersistenceError
            If the value is not allowed here.
        """


class Scalar(Field):
    """A plain value that JSON knows too."""

    def __init__(self, accepts: Callable[[Any], bool], expected: str):
        self.accepts, self.expected = accepts, expected

    def pack(self, value: Any, file: Writing, where: str) -> Any:
        return self._checked(value.item() if isinstance(value, np.generic) else value, where)

    def unpack(self, packed: Any, file: Reading, where: str) -> Any:
        return self._checked(packed, where)

    def _checked(self, value: Any, where: str) -> Any:
        expect(self.accepts(value), f"{where} is {reprlib.repr(value)}; expected {self.expected}")
        return str(value) if isinstance(value, str) else value


def integer(low: int = -(2**63), high: int = 2**63 - 1) -> Scalar:
    """Return a field for integers.

    Parameters
    ----------
    low, high : int, default=-2**63, 2**63 - 1
        Bounds, both included.

    Returns
    -------
    field : Scalar
        The field.
    """
    return Scalar(lambda value: type(value) is int and low <= value <= high, f"an integer of {low} to {high}")


def number(low: float = -LARGEST, high: float = LARGEST) -> Scalar:
    """Return a field for finite numbers; integers must fit a float exactly.

    Parameters
    ----------
    low, high : float, default=-1e100, 1e100
        Bounds, both included.

    Returns
    -------
    field : Scalar
        The field.
    """
    return Scalar(
        lambda value: (type(value) is float or (type(value) is int and abs(value) <= 2**53)) and low <= value <= high,
        f"a number of {low} to {high}",
    )


def text(pattern: str = r"(?s:.*)") -> Scalar:
    """Return a field for texts that a regular expression matches as a whole."""
    return Scalar(
        lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None, f"a text like {pattern}"
    )


def choice(*values: str | None) -> Scalar:
    """Return a field for one of several texts, or None where it is among them."""
    return Scalar(lambda value: (value is None or type(value) is str) and value in values, f"one of {values}")


BOOL = Scalar(lambda value: type(value) is bool, "true or false")
NONE = Scalar(lambda value: value is None, "null")


class OneOf(Field):
    """Field that allows what any of several fields allows; if none does, the last one raises the error."""

    def __init__(self, *fields: Field):
        self.fields = fields

    def pack(self, value: Any, file: Writing, where: str) -> Any:
        return self._first(lambda field: field.pack(value, file, where))

    def unpack(self, packed: Any, file: Reading, where: str) -> Any:
        return self._first(lambda field: field.unpack(packed, file, where))

    def _first(self, act: Callable[[Field], Any]) -> Any:
        for alternative in self.fields[:-1]:
            try:
                return act(alternative)
            except PersistenceError:
                pass
        return act(self.fields[-1])


#: A class label, which may also be a key of a dict.
LABEL = OneOf(BOOL, integer(-(2**63), 2**64 - 1), number(), text())


class ListOf(Field):
    """A sequence whose items share one field. A tuple stays a tuple."""

    def __init__(self, of: Field):
        self.of = of

    def pack(self, value: Any, file: Writing, where: str) -> Any:
        value = value.tolist() if hasattr(value, "tolist") else value
        expect(isinstance(value, (list, tuple)), f"{where} is a {type(value).__name__}; expected a list")
        packed = [self.of.pack(item, file, f"{where}.{index}") for index, item in enumerate(value)]
        return {"tuple": packed} if isinstance(value, tuple) else packed

    def unpack(self, packed: Any, file: Reading, where: str) -> Any:
        if isinstance(packed, dict) and packed.keys() == {"tuple"}:
            return tuple(self.unpack(list(packed["tuple"]), file, where))
        expect(isinstance(packed, list), f"{where} is {reprlib.repr(packed)}; expected a list")
        return [self.of.unpack(item, file, f"{where}.{index}") for index, item in enumerate(packed)]


class Pairs(Field):
    """Dict whose keys may be other things than texts, stored as a list of pairs."""

    def __init__(self, key: Field, value: Field):
        self.key, self.value = key, value

    def pack(self, value: Any, file: Writing, where: str) -> Any:
        expect(isinstance(value, Mapping), f"{where} is a {type(value).__name__}; expected a dict")
        return {
            "dict": [
                [self.key.pack(k, file, where), self.value.pack(v, file, f"{where}.{index}")]
                for index, (k, v) in enumerate(value.items())
            ]
        }

    def unpack(self, packed: Any, file: Reading, where: str) -> Any:
        expect(isinstance(packed, dict) and packed.keys() == {"dict"}, f"{where} is not a dict")
        pairs = [
            (self.key.unpack(k, file, where), self.value.unpack(v, file, f"{where}.{index}"))
            for index, (k, v) in enumerate(packed["dict"])
        ]
        expect(len(dict(pairs)) == len(pairs), f"{where} has the same key twice")
        return dict(pairs)


class Maybe(Field):
    """An attribute, or a key of a `Record`, that may be missing."""

    def __init__(self, of: Field):
        self.of = of

    def pack(self, value: Any, file: Writing, where: str) -> Any:
        return self.of.pack(value, file, where)

    def unpack(self, packed: Any, file: Reading, where: str) -> Any:
        return self.of.unpack(packed, file, where)


class Record(Field):
    """A dict whose keys are texts.

    Parameters
    ----------
    fields : dict of str to Field
        The field of each key.
    others : Field or None, default=None
        The field of all other keys. None: there are no others.
    """

    def __init__(self, fields: dict[str, Field], others: Field | None = None):
        self.fields, self.others = fields, others

    def pack(self, value: Any, file: Writing, where: str) -> Any:
        expect(isinstance(value, Mapping), f"{where} is a {type(value).__name__}; expected a dict")
        self._check_keys(value, where)
        return {key: self._field(key).pack(item, file, _place(where, key)) for key, item in value.items()}

    def unpack(self, packed: Any, file: Reading, where: str) -> dict[str, Any]:
        expect(isinstance(packed, dict), f"{where or 'the document'} is {reprlib.repr(packed)}; expected an object")
        self._check_keys(packed, where)
        return {key: self._field(key).unpack(item, file, _place(where, key)) for key, item in packed.items()}

    def _field(self, key: str) -> Field:
        return self.fields.get(key) or self.others or NONE

    def _check_keys(self, items: Mapping[str, Any], where: str) -> None:
        unknown = sorted(items.keys() - self.fields.keys() if self.others is None else ())
        expect(not unknown, f"{where or 'the document'} has {reprlib.repr(unknown)}, which this release does not know")
        missing = sorted(self.required - items.keys())
        expect(not missing, f"{where or 'the document'} has no {', '.join(missing)}")

    @property
    def required(self) -> set[str]:
        """The keys that must not be missing."""
        return {name for name, field in self.fields.items() if not isinstance(field, Maybe)}


class NotSaved(Field):
    """Value that is not stored: code, a path of this machine, or something that ends with the process.

    Parameters
    ----------
    name : str or None, default=None
        Name under which `blackvip.load` may be given the value; it is None without one.
    """

    def __init__(self, name: str | None = None):
        self.name = name

    def pack(self, value: Any, file: Writing, where: str) -> None:
        return None

    def unpack(self, packed: Any, file: Reading, where: str) -> Any:
        NONE.unpack(packed, file, where)
        return None if self.name is None else file.given.get(self.name)


class RandomState(Field):
    """A ``random_state``: an integer is saved, and a generator becomes None.

    The generator that a fit uses is saved as a fitted attribute, so the state of the one that was given says nothing.
    """

    def pack(self, value: Any, file: Writing, where: str) -> Any:
        return int(value) if isinstance(value, (int, np.integer)) else None

    def unpack(self, packed: Any, file: Reading, where: str) -> Any:
        return OneOf(NONE, integer(0, 2**32 - 1)).unpack(packed, file, where)


def _place(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
