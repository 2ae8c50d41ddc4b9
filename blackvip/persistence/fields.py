"""Fields: what a value of a saved object may be. The same check stands on the way out and on the way in.

An object in a file is ``{"kind": ..., "params": {...}, "fitted": {...}}``. Its kind is looked up in `KINDS`, which
`schema` fills, and says for each attribute which field it is; a file that has an attribute more or less is refused.
"""

from __future__ import annotations

import re
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.utils._param_validation import validate_parameter_constraints

from ..exceptions import PersistenceError
from .format import expect

__all__ = [
    "BOOL",
    "KINDS",
    "NONE",
    "Array",
    "Field",
    "Generator",
    "Kind",
    "Labels",
    "ListOf",
    "Maybe",
    "Object",
    "OneOf",
    "Pairs",
    "Reading",
    "Record",
    "Scalar",
    "Writing",
    "choice",
    "integer",
    "number",
    "text",
]

_LARGEST = 1e100  # of any number: a product of two is still finite
_WIDEST_LABEL = 1_000  # characters of a label's dtype
_LEFT_OUT = {"_metadata_request", "_skl_callbacks"}  # of any estimator: code, and what refers to code


@dataclass
class Writing:
    """What has been packed so far.

    Attributes
    ----------
    tensors : dict of str to ndarray
    places : dict of int to str
        Where a value that may be shared was packed first, by its id.
    sizes : dict of str to int
        The named dimensions of the arrays of the object that is being packed.
    """

    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    places: dict[int, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


@dataclass
class Reading:
    """What has been unpacked so far.

    Attributes
    ----------
    tensors : dict of str to ndarray
        Those that the file has.
    score_fn : callable or None
        What classifiers are given.
    values : dict of str to object
        Values that may be shared, by the place where they stand.
    sizes : dict of str to int
        The named dimensions of the arrays of the object that is being unpacked.
    """

    tensors: dict[str, np.ndarray]
    score_fn: Any = None
    values: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


class Field(ABC):
    """What a value may be, and how it stands in the JSON document.

    Both methods raise a `PersistenceError` that says at which place (`where`) there is something else.
    """

    @abstractmethod
    def pack(self, value: Any, file: Writing, where: str) -> Any:
        """The value as JSON; its arrays are put among the file's tensors."""

    @abstractmethod
    def unpack(self, packed: Any, file: Reading, where: str) -> Any:
        """The value, from JSON of unknown origin."""


class Scalar(Field):
    """A plain value that JSON has too."""

    def __init__(self, accepts: Callable[[Any], bool], expected: str):
        self.accepts, self.expected = accepts, expected

    def pack(self, value: Any, file: Writing, where: str) -> Any:
        return self._checked(value.item() if isinstance(value, np.generic) else value, where)

    def unpack(self, packed: Any, file: Reading, where: str) -> Any:
        return self._checked(packed, where)

    def _checked(self, value: Any, where: str) -> Any:
        expect(self.accepts(value), f"{where} is {reprlib.repr(value)}; expected {self.expected}")
        return str(value) if isinstance(value, str) else value


def integer(low: int, high: int = 2**63 - 1) -> Scalar:
    """An integer within bounds, both included."""
    return Scalar(lambda value: type(value) is int and low <= value <= high, f"an integer of {low} to {high}")


def number(low: float = -_LARGEST, high: float = _LARGEST) -> Scalar:
    """A finite number within bounds, both included; NaN is not within any. An integer is one that a float holds."""
    return Scalar(
        lambda value: (type(value) is float or (type(value) is int and abs(value) <= 2**53)) and low <= value <= high,
        f"a number of {low} to {high}",
    )


def text(pattern: str = r"(?s:.*)") -> Scalar:
    """A text that a regular expression matches as a whole."""
    return Scalar(
        lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None, f"a text like {pattern}"
    )


def choice(*values: str | None) -> Scalar:
    """One of these."""
    return Scalar(lambda value: (value is None or type(value) is str) and value in values, f"one of {values}")


BOOL = Scalar(lambda value: type(value) is bool, "true or false")
NONE = Scalar(lambda value: value is None, "null")


class OneOf(Field):
    """The first of several fields that takes the value; if none does, the last one says why."""

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


class ListOf(Field):
    """A sequence of values of one field; a tuple stays a tuple."""

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
    """A dict whose keys need not be texts, as a list of pairs."""

    def __init__(self, key: Field, value: Field):
        self.key, self.value = key, value

    def pack(self, value: Any, file: Writing, where: str) -> Any:
        expect(isinstance(value, Mapping), f"{where} is a {type(value).__name__}; expected a dict")
        return {"dict": [[self.key.pack(k, file, where), self.value.pack(v, file, where)] for k, v in value.items()]}

    def unpack(self, packed: Any, file: Reading, where: str) -> Any:
        expect(isinstance(packed, dict) and packed.keys() == {"dict"}, f"{where} is no dict")
        pairs = [(self.key.unpack(k, file, where), self.value.unpack(v, file, where)) for k, v in packed["dict"]]
        expect(len(dict(pairs)) == len(pairs), f"{where} has a key twice")
        return dict(pairs)


class Maybe(Field):
    """An attribute, or a key of a `Record`, that need not be there."""

    def __init__(self, of: Field):
        self.of = of

    def pack(self, value: Any, file: Writing, where: str) -> Any:
        return self.of.pack(value, file, where)

    def unpack(self, packed: Any, file: Reading, where: str) -> Any:
        return self.of.unpack(packed, file, where)


class Record(Field):
    """A dict whose keys are known."""

    def __init__(self, fields: dict[str, Field]):
        self.fields = fields

    def pack(self, value: Any, file: Writing, where: str) -> Any:
        expect(isinstance(value, Mapping), f"{where} is a {type(value).__name__}; expected a dict")
        self._check_keys(value, where)
        return {key: self.fields[key].pack(item, file, _place(where, key)) for key, item in value.items()}

    def unpack(self, packed: Any, file: Reading, where: str) -> dict[str, Any]:
        expect(isinstance(packed, dict), f"{where or 'the document'} is {reprlib.repr(packed)}; expected an object")
        self._check_keys(packed, where)
        return {key: self.fields[key].unpack(item, file, _place(where, key)) for key, item in packed.items()}

    def _check_keys(self, items: Mapping[str, Any], where: str) -> None:
        unknown = sorted(items.keys() - self.fields.keys())
        expect(not unknown, f"{where or 'the document'} has {reprlib.repr(unknown)}, which this release does not know")
        missing = sorted(name for name in self.fields.keys() - items.keys() if not self.may_miss(name))
        expect(not missing, f"{where or 'the document'} has no {', '.join(missing)}")

    def may_miss(self, name: str) -> bool:
        """Whether there may be nothing under this key."""
        return isinstance(self.fields[name], Maybe)


class Shared(Field):
    """A value that may be at several places: it is written at the first, and the others name that one."""

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
            expect(place in file.values, f"{where} is the same as {reprlib.repr(place)}, which there is not")
            value = file.values[place]
        else:
            value = file.values[where] = self.unpack_first(packed, file, where)
        self.check(value, file, where)
        return value

    @abstractmethod
    def check(self, value: Any, file: Writing | Reading, where: str) -> None:
        """Raise an error unless the value may be here."""

    @abstractmethod
    def pack_first(self, value: Any, file: Writing, where: str) -> Any:
        """`pack` where the value is found first."""

    @abstractmethod
    def unpack_first(self, packed: Any, file: Reading, where: str) -> Any:
        """`unpack` where the value is found first."""


class Array(Shared):
    """A tensor of the file, which has the name of the place where it stands.

    Parameters
    ----------
    shape : tuple of int or str
        A dimension that has a name is of the same size in all arrays of its object.
    dtypes : str
        Names of the data types that it may have.
    low, high : float
        Bounds of its numbers.
    nan : bool
        Whether it may have NaN.
    """

    def __init__(
        self,
        shape: tuple[int | str, ...],
        dtypes: str = "float64",
        low: float = -_LARGEST,
        high: float = _LARGEST,
        nan: bool = False,
    ):
        self.shape, self.dtypes, self.low, self.high, self.nan = shape, dtypes.split(), low, high, nan

    def check(self, value: Any, file: Writing | Reading, where: str) -> None:
        expect(type(value) is np.ndarray, f"{where} is a {type(value).__name__}; expected an array")
        expect(value.dtype.name in self.dtypes, f"{where} is {value.dtype}; expected {' or '.join(self.dtypes)}")
        fits = value.ndim == len(self.shape) and all(
            n == (file.sizes.setdefault(name, n) if isinstance(name, str) else name)
            for name, n in zip(self.shape, value.shape)
        )
        known = tuple(file.sizes.get(name, name) if isinstance(name, str) else name for name in self.shape)
        expect(fits, f"{where} has the shape {value.shape}; expected {known}")
        numbers = value[~np.isnan(value)] if self.nan else value
        if numbers.dtype == np.float32:  # in which the bounds themselves would overflow
            numbers = numbers.astype(np.float64)
        inside = bool(((numbers >= self.low) & (numbers <= self.high)).all())
        expect(inside, f"{where} has numbers that are not between {self.low:g} and {self.high:g}")

    def pack_first(self, value: Any, file: Writing, where: str) -> Any:
        file.tensors[where] = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("="))
        return {"tensor": where}

    def unpack_first(self, packed: Any, file: Reading, where: str) -> Any:
        expect(packed == {"tensor": where} and where in file.tensors, f"{where} has no tensor of its own")
        return file.tensors[where]


class Labels(Field):
    """An array of labels, in JSON where they can be read; its data type stays."""

    def __init__(self, kinds: str = "biufUTO"):
        self.kinds = kinds

    def pack(self, value: Any, file: Writing, where: str) -> Any:
        expect(type(value) is np.ndarray and value.ndim == 1, f"{where} is no array of one dimension")
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
            expect(longest <= int(width[1]) <= _WIDEST_LABEL, f"{where} has labels of a width that does not fit")
        dtype: Any = {"object": object, "text": getattr(np.dtypes, "StringDType", lambda: object)()}.get(name, name)
        array = np.array(values, dtype=dtype)
        expect(array.tolist() == values, f"{where} has labels that {name} does not hold")
        return array


#: A class label, which may also be a key of a dict.
LABEL = OneOf(BOOL, integer(-(2**63), 2**64 - 1), number(), text())
_LABEL_TYPES: dict[str, type] = {"b1": bool, "f2": float, "f4": float, "f8": float}
_LABEL_TYPES |= {f"{sign}{n_bytes}": int for sign in "iu" for n_bytes in (1, 2, 4, 8)}


class Generator(Shared):
    """A random number generator, as `numpy.random.default_rng` makes it, with its state."""

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
        expect(state["bit_generator"] == "PCG64" and state["state"]["inc"] % 2 == 1, f"{where} is no state of PCG64")
        generator = np.random.default_rng(0)
        generator.bit_generator.state = state
        return generator


@dataclass
class Kind:
    """A class whose instances can be in a file.

    Attributes
    ----------
    cls : type
        Instances of this class alone, not of its subclasses.
    params : dict of str to Field
        What its constructor takes.
    fitted : dict of str to Field
        What a fitted one has besides.
    derived : tuple of str
        Attributes that are not saved, since `finish` makes them from the others.
    finish : callable or None
        Called with a fitted object that was read: makes what is derived, and raises an error where attributes do not
        fit one another.
    """

    cls: type
    params: dict[str, Field]
    fitted: dict[str, Field] = field(default_factory=dict)
    derived: tuple[str, ...] = ()
    finish: Callable[[Any], None] | None = None

    def is_fitted(self, value: Any) -> bool:
        """Whether an instance has all that a fitted one must have."""
        record = Record(self.fitted)
        return all(name in vars(value) or record.may_miss(name) for name in self.fitted)


KINDS: dict[str, Kind] = {}  #: By their names in a file. `schema` fills it.


class Object(Shared):
    """An instance of one of our classes.

    Parameters
    ----------
    *kinds : str
        Names in `KINDS`.
    fitted : {"yes", "no", "maybe"}
        Whether what it has learned belongs to it. An object among the parameters is saved as it was given, unfitted.
    """

    def __init__(self, *kinds: str, fitted: str = "yes"):
        self.kinds, self.fitted = kinds, fitted

    def check(self, value: Any, file: Writing | Reading, where: str) -> None:
        names = [name for name in self.kinds if type(value) is KINDS[name].cls]
        place = f"its {where} is" if where else "it is"
        expect(
            len(names) == 1,
            f"{place} a {type(value).__name__}, not one of {', '.join(self.kinds)}; joblib.dump saves any object, for "
            "those who trust the file",
        )
        if self.fitted == "yes":
            expect(KINDS[names[0]].is_fitted(value), f"{place} a {names[0]} that is not fitted")

    def pack_first(self, value: Any, file: Writing, where: str) -> Any:
        name = type(value).__name__
        kind, attributes = KINDS[name], dict(vars(value))
        known = {*kind.params, *kind.fitted, *kind.derived, *_LEFT_OUT}
        unknown = sorted(attributes.keys() - known)
        expect(not unknown, f"{where or name} has the attributes {unknown}, for which the format has no place")
        outer, file.sizes = file.sizes, {}
        parts = {"params": kind.params}
        if kind.fitted and self.fitted != "no" and kind.is_fitted(value):
            parts["fitted"] = kind.fitted
        packed: dict[str, Any] = {"kind": name}
        for part, fields in parts.items():
            present = {name: attributes[name] for name in fields if name in attributes}
            packed[part] = Record(fields).pack(present, file, where)
        file.sizes = outer
        return packed

    def unpack_first(self, packed: Any, file: Reading, where: str) -> Any:
        expect(
            isinstance(packed, dict) and {"kind", "params"} <= packed.keys(), f"{where or 'the document'} is no object"
        )
        expect(packed.keys() <= {"kind", "params", "fitted"}, f"{where} has keys that an object has not")
        expect(packed["kind"] in self.kinds, f"{where or 'it'} is a {reprlib.repr(packed['kind'])}")
        kind = KINDS[packed["kind"]]
        expect(self.fitted != "no" or "fitted" not in packed, f"{where} is fitted")
        outer, file.sizes = file.sizes, {}
        params = Record(kind.params).unpack(packed["params"], file, where)
        # A classifier without its score function is no error here, but where it is needed.
        constraints = {**getattr(kind.cls, "_parameter_constraints", {}), "score_fn": "no_validation"}
        validate_parameter_constraints(constraints, params, packed["kind"])
        value = kind.cls(**params)
        if "fitted" in packed:
            value.__dict__.update(Record(kind.fitted).unpack(packed["fitted"], file, where))
        if kind.finish is not None and ("fitted" in packed or not kind.fitted):
            kind.finish(value)
        file.sizes = outer
        return value


def _place(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
