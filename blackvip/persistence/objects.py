"""Objects in files: the register of classes that a file may hold, and the field of an object.

An object is stored as ``{"kind": ..., "params": {...}, "fitted": {...}}``. Its kind is looked up among the classes
that have registered themselves; nothing is imported. The class itself says which parameters and attributes it has, and
a file with one attribute more or less is refused.
"""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sklearn.utils._param_validation import validate_parameter_constraints

from .arrays import PLAIN, Shared
from .fields import Field, Reading, Record, Writing
from .format import expect

__all__ = ["AttributeOf", "Object", "kind_of", "register"]

_PACKAGE = __name__.partition(".")[0]
_IGNORED = {"_metadata_request", "_skl_callbacks"}  # attributes of any estimator that hold code or refer to it
_CLASSES: dict[str, Any] = {}  # by their names in a file


def kind_of(cls: type) -> str:
    """Return the name of a class in a file: for a class from outside this package, with its module."""
    inside = f"{cls.__module__}.".startswith(f"{_PACKAGE}.")
    return cls.__name__ if inside else f"{cls.__module__}.{cls.__qualname__}"


def register(cls: type) -> None:
    """Let files hold instances of a class. A class that is defined again replaces the earlier one."""
    kind = kind_of(cls)
    earlier = _CLASSES.setdefault(kind, cls)
    if (earlier.__module__, earlier.__qualname__) != (cls.__module__, cls.__qualname__):
        raise TypeError(f"There is a saveable class {kind} in {earlier.__module__} already; rename one of them.")
    _CLASSES[kind] = cls


class Object(Shared):
    """An instance of a registered class.

    Parameters
    ----------
    base : type
        The class, or a base class of all classes that are allowed.
    fitted : {"yes", "no", "maybe"}
        Whether fitted attributes belong to it. An object among the parameters is saved as it was given, unfitted.
    """

    def __init__(self, base: type, fitted: str = "yes"):
        self.base, self.fitted = base, fitted

    def check(self, value: Any, file: Writing | Reading, where: str) -> None:
        cls, place = type(value), f"its {where} is" if where else "it is"
        expect(
            _CLASSES.get(kind_of(cls)) is cls and issubclass(cls, self.base),
            f"{place} a {cls.__name__}, not one of {self._allowed()}; joblib.dump saves any object, for those who "
            "trust the file",
        )
        if self.fitted == "yes":
            expect(_is_fitted(value), f"{place} a {cls.__name__} that is not fitted")

    def pack_first(self, value: Any, file: Writing, where: str) -> Any:
        cls, attributes = type(value), dict(vars(value))
        parameters, fitted = cls._parameter_fields(), _attribute_fields(cls, attributes)
        unknown = sorted(attributes.keys() - {*parameters, *fitted, *cls._derived_attributes(), *_IGNORED})
        expect(
            not unknown,
            f"{where or cls.__name__} has the attributes {unknown}, which {cls.__name__}.saved_attributes does not "
            "list",
        )
        parts = {"params": parameters}
        if self.fitted != "no" and fitted and _is_fitted(value):
            parts["fitted"] = fitted
        packed: dict[str, Any] = {"kind": kind_of(cls)}
        with _inside(value, file):
            for part, fields in parts.items():
                present = {name: attributes[name] for name in fields if name in attributes}
                packed[part] = Record(fields).pack(present, file, where)
        return packed

    def unpack_first(self, packed: Any, file: Reading, where: str) -> Any:
        place = where or "it"
        expect(
            isinstance(packed, dict) and {"kind", "params"} <= packed.keys(),
            f"{where or 'the document'} is not an object",
        )
        expect(packed.keys() <= {"kind", "params", "fitted"}, f"{place} has keys that an object does not have")
        kind = packed["kind"]
        cls = self._class_named(kind, place)
        expect(self.fitted != "no" or "fitted" not in packed, f"{place} is fitted")
        with _inside(None, file):
            params = Record(cls._parameter_fields()).unpack(packed["params"], file, where)
            # An estimator without its score function is no error here, but where it is needed.
            constraints = dict.fromkeys(cls.not_saved, "no_validation")
            validate_parameter_constraints({**getattr(cls, "_parameter_constraints", {}), **constraints}, params, kind)
            value = cls(**params)
            if "fitted" in packed:
                file.owner = value
                fields = _attribute_fields(cls, packed["fitted"])
                value.__dict__.update(Record(fields).unpack(packed["fitted"], file, where))
        if _is_fitted(value):
            value._finish_loading()
        return value

    def _class_named(self, kind: Any, place: str) -> Any:
        """Return the class of a kind, which must be registered and allowed here."""
        cls = _CLASSES.get(kind) if isinstance(kind, str) else None
        expect(
            cls is not None,
            f"{place} is a {reprlib.repr(kind)}, a class that is not known here. If it is not one of blackvip, import "
            "the module that defines it first",
        )
        fits = issubclass(cls, self.base) and not inspect.isabstract(cls)  # type: ignore[arg-type]
        expect(fits, f"{place} is a {reprlib.repr(kind)}; expected one of {self._allowed()}")
        return cls

    def _allowed(self) -> str:
        """List the classes that are allowed here."""
        found = (kind for kind, cls in _CLASSES.items() if issubclass(cls, self.base) and not inspect.isabstract(cls))
        return ", ".join(sorted(found))


class AttributeOf(Field):
    """An attribute of a part, which the object around the part keeps for it.

    Parameters
    ----------
    part : str
        The parameter of the object that holds the part.
    name : str
        The attribute, as in the `saved_attributes` of the part's class.
    """

    def __init__(self, part: str, name: str):
        self.part, self.name = part, name

    def pack(self, value: Any, file: Writing, where: str) -> Any:
        part = getattr(file.owner, self.part)
        with _inside(part, file):
            return type(part)._attribute_fields()[self.name].pack(value, file, where)

    def unpack(self, packed: Any, file: Reading, where: str) -> Any:
        part = getattr(file.owner, self.part)
        with _inside(part, file):
            return type(part)._attribute_fields()[self.name].unpack(packed, file, where)


@contextmanager
def _inside(owner: Any, file: Writing | Reading) -> Iterator[None]:
    """Make an object the current one of a file: named dimensions of arrays are its own."""
    outer = file.owner, file.sizes
    file.owner, file.sizes = owner, {}
    try:
        yield
    finally:
        file.owner, file.sizes = outer


def _attribute_fields(cls: Any, attributes: dict[str, Any]) -> dict[str, Field]:
    """Return the fields of an object's fitted attributes, which depend on the object if its class has no table."""
    table = cls._attribute_fields()
    if not cls._saves_any_attribute():
        return table
    known = {*table, *cls._parameter_fields(), *cls._derived_attributes()}
    others = [name for name in attributes if name.endswith("_") and not name.startswith("_") and name not in known]
    # A file must not replace a method or a property.
    return {**table, **{name: PLAIN for name in others if not hasattr(getattr(cls, name, None), "__get__")}}


def _is_fitted(value: Any) -> bool:
    """Return whether an object has all attributes that a fitted one must have."""
    return vars(value).keys() >= Record(type(value)._attribute_fields()).required
