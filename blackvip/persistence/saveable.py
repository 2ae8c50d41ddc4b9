"""The mixin of all classes that a file may hold, and scikit-learn's parameter constraints as fields."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import HasMethods, Interval, Options

from ..exceptions import PersistenceError
from ..process.settings import UsualSettings
from .arrays import PLAIN
from .fields import (
    BOOL,
    LABEL,
    NONE,
    Field,
    ListOf,
    NotSaved,
    OneOf,
    Pairs,
    RandomState,
    Reading,
    Writing,
    choice,
    integer,
    number,
    text,
)
from .objects import Object, register

__all__ = ["Saveable"]


class Saveable(UsualSettings):
    """Mixin of classes whose instances can be part of a file of `blackvip.save`.

    A subclass is registered when it is defined, so no other module has to know it. It need not declare anything: what
    its constructor takes is read from ``_parameter_constraints`` where there are any, and its fitted attributes are
    all that end with an underscore, which may be numbers, texts, None, numeric arrays, and lists and dicts of these.

    A class that is to be checked more closely has a table of fields (see `blackvip.persistence.fields`), such as
    ``saved_attributes = {"axes_": Array(("n_axes", "n_numbers")), "scale_": number()}``. The tables of base classes
    are part of it. With a table, any other attribute is an error.

    Parameters
    ----------
    name : str or None, default=None
        Keyword argument of a class definition, as in ``class PCAEncoder(Encoder, name="pca")``: a short name, by
        which the class is found in `named` of its base class.
    saveable : bool, default=True
        Keyword argument of a class definition. False: a base class, which has no instances of its own. Abstract
        classes need not say so.

    Attributes
    ----------
    saved_attributes : dict of str to Field
        The fitted attributes.
    derived_attributes : tuple of str
        Attributes that are not saved, since `_finish_loading` computes them from the others.
    saved_parameters : dict of str to Field
        Parameters of the constructor that need another field than their constraints say.
    not_saved : tuple of str
        Parameters of the constructor that do not belong in a file: code, or a path of this machine. A loaded object
        has None instead, or what `blackvip.load` is given under this name.
    """

    named: ClassVar[dict[str, Any]]
    saved_attributes: ClassVar[dict[str, Field]] = {}
    derived_attributes: ClassVar[tuple[str, ...]] = ()
    saved_parameters: ClassVar[dict[str, Field]] = {}
    not_saved: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, name: str | None = None, saveable: bool = True, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if saveable:
            register(cls)
        if name is not None:
            cls.named[name] = cls

    def _finish_loading(self) -> None:
        """Compute derived attributes, and raise a `PersistenceError` if attributes contradict one another.

        It is called with each fitted object that was read from a file. An override calls that of its base class first.
        """

    @classmethod
    def _parameter_fields(cls) -> dict[str, Field]:
        """Return the field of each parameter of the constructor."""
        return _parameter_fields(cls)  # type: ignore[arg-type]

    @classmethod
    def _attribute_fields(cls) -> dict[str, Field]:
        """Return the field of each fitted attribute that a table lists."""
        derived = cls._derived_attributes()
        return {name: field for name, field in _merged(cls, "saved_attributes").items() if name not in derived}

    @classmethod
    def _derived_attributes(cls) -> tuple[str, ...]:
        """Return the attributes that are computed after loading."""
        return tuple(_merged(cls, "derived_attributes"))

    @classmethod
    def _saves_any_attribute(cls) -> bool:
        """Return whether attributes without a field are saved: no class but abstract base classes has a table."""
        with_table = next((base for base in cls.__mro__ if "saved_attributes" in vars(base)), Saveable)
        return with_table is Saveable or inspect.isabstract(with_table)


def _merged(cls: type, name: str) -> dict[str, Any]:
    """Return a class attribute's items, and behind them those of all base classes that it does not replace."""
    merged: dict[str, Any] = {}
    for base in cls.__mro__:
        items = vars(base).get(name, {})
        merged = {**merged, **(items if isinstance(items, Mapping) else dict.fromkeys(items)), **merged}
    return merged


@functools.cache
def _parameter_fields(cls: Any) -> dict[str, Field]:
    constraints, own = getattr(cls, "_parameter_constraints", {}), _merged(cls, "saved_parameters")
    not_saved = _merged(cls, "not_saved")
    if cls.__init__ is object.__init__:
        return {}
    _, *parameters = inspect.signature(cls.__init__).parameters.values()
    named = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return {
        name: NotSaved(name)
        if name in not_saved
        else own.get(name) or _field_of(constraints.get(name, "no_validation"))
        for name in named
    }


def _field_of(constraints: Any) -> Field:
    """Return the field of a parameter with these constraints of scikit-learn.

    Bounds and options are looser here than there: a loaded parameter is checked against its constraints too.
    """
    if isinstance(constraints, str):  # "no_validation"
        return OneOf(PLAIN, Object(Saveable, fitted="no"))
    fields = [field for constraint in constraints for field in _fields_of_one(constraint)]
    # The last one explains what is wrong with a value, and that of an object has most to say.
    fields.sort(key=lambda field: isinstance(field, Object))
    return OneOf(*fields) if fields else _Unsaveable()


_FIELDS: dict[Any, Field] = {
    None: NONE,
    "boolean": BOOL,
    "verbose": OneOf(BOOL, integer()),
    "random_state": RandomState(),
    "array-like": ListOf(PLAIN),
}
_FIELDS_OF_TYPES: dict[type, Field] = {
    bool: BOOL,
    str: text(),
    list: ListOf(PLAIN),
    tuple: ListOf(PLAIN),
    dict: Pairs(LABEL, PLAIN),
    Mapping: Pairs(LABEL, PLAIN),
    np.ndarray: PLAIN,
    int: integer(),
    Integral: integer(),
    float: number(),
    Real: number(),
}


def _fields_of_one(constraint: Any) -> Iterable[Field]:
    """Return the field of a constraint, or nothing if no file can hold what it allows."""
    if isinstance(constraint, Options) and constraint.type is str:
        return [choice(*sorted(constraint.options))]
    if isinstance(constraint, (Interval, Options)):
        return [integer() if constraint.type in (Integral, int) else number()]
    if isinstance(constraint, HasMethods):
        return [Object(Saveable, fitted="no")]
    if isinstance(constraint, type):
        if issubclass(constraint, Saveable):
            return [Object(constraint, fitted="no")]
        return [_FIELDS_OF_TYPES[constraint]] if constraint in _FIELDS_OF_TYPES else []
    return [_FIELDS[constraint]] if constraint is None or isinstance(constraint, str) and constraint in _FIELDS else []


class _Unsaveable(Field):
    """A parameter that no file can hold."""

    def pack(self, value: Any, file: Writing, where: str) -> Any:
        raise PersistenceError(
            f"{where} is a {type(value).__name__}, which a file cannot hold; a class can list "
            "such parameters in `not_saved`"
        )

    def unpack(self, packed: Any, file: Reading, where: str) -> Any:
        raise PersistenceError(f"{where} is a parameter that a file cannot hold")
