"""The identity of a service in files: what its answers on disk are matched to.

A score function says what it is by its attribute ``identity``, or by the parameters that it names in
``identity_params``. Otherwise it is described by its class or function, and by what makes one instance, closure, lambda
or partial of it differ from another: parameters, closed-over variables and bound arguments. What a function or an
object changes when it is called, such as a counter, does not belong to its identity.
"""

from __future__ import annotations

import dataclasses
import dis
import enum
import functools
import hashlib
import inspect
import json
import sys
import sysconfig
import types
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import joblib
import numpy as np
import torch

from ..exceptions import JournalError
from ..journal.identity import describe, is_secret, name_of
from .declarations import declared
from .wrappers import innermost, scorer_name

__all__ = ["instructions_of", "service_identity"]

# Values that change while they are used. What they hold when they are first seen belongs to the identity.
_CHANGING = (list, dict, set, bytearray, deque, np.ndarray, torch.Tensor)
# Modules of types that say nothing about answers: locks, loggers, counters, open files, random generators.
_TOOLS = frozenset({"_thread", "threading", "logging", "itertools", "_io", "queue", "_queue", "_random", "random"})
# Packages whose objects are data, so that equal ones have equal pickles.
_DATA = frozenset(
    {"builtins", "collections", "datetime", "decimal", "fractions", "functools", "operator", "re", "types", "uuid"}
    | {"zoneinfo", "numpy", "scipy", "sklearn", "pandas", "polars", "pyarrow", "PIL", "torch", "torchvision", "xgboost"}
)
_SIMPLE = (type(None), bool, int, float, complex, bytes, np.generic, torch.device, torch.dtype, np.dtype, enum.Enum)
# Numbers of a network's tensor that are digested.
_MOST_DIGESTED = 2**16
_MISSING = object()


def service_identity(score_fn: Any) -> Any:
    """Return the identity of a score function as JSON.

    Parameters
    ----------
    score_fn : callable
        See `blackvip.scorers.contract`. Wrappers that leave scores unchanged are skipped.

    Returns
    -------
    identity : object in JSON
        The same in every process in which the score function is made in the same way. It holds no secrets: values that
        are named like one are left out, and texts that were not declared as parameters are digests.

    Raises
    ------
    JournalError
        If something that the score function keeps cannot be described.
    """
    return _Description(scorer_name(innermost(score_fn))).of_service(innermost(score_fn))


def instructions_of(score_fn: Any) -> str | None:
    """Return a digest of the code of a score function; None if it has no code or declares its identity."""
    service = innermost(score_fn)
    while isinstance(service, functools.partial | types.MethodType):
        service = service.func if isinstance(service, functools.partial) else service.__func__
    if hasattr(type(service), "get_params") or declared(service, "identity") is not None:
        return None
    functions = [service] if isinstance(service, types.FunctionType) else list(_methods(type(service), _CALLED))
    codes = [_code(function.__code__) for function in functions]
    return hashlib.sha256(repr(codes).encode()).hexdigest() if codes else None


class _Description:
    """A description in the making.

    Parameters
    ----------
    service : str
        Name of the score function, for errors.
    """

    def __init__(self, service: str):
        self._service = service
        # Objects that are being described, which may refer to themselves.
        self._open: set[int] = set()

    def of_service(self, service: Any) -> Any:
        if isinstance(service, type) or not callable(service):
            return name_of(service)
        return self._of_object(service, nested=False)

    def _of(self, value: Any, owner: Any, name: str, is_text_open: bool) -> Any:
        """Describe a value that `owner` keeps as `name`."""
        if isinstance(value, str):
            return describe(value, open_names=False) if is_text_open else _digest(value.encode())
        if isinstance(value, _CHANGING):
            return _first_seen(owner, name, value, lambda: self._of_container(value, owner, name, is_text_open))
        if isinstance(value, (tuple, frozenset)):
            return self._of_container(value, owner, name, is_text_open)
        if isinstance(value, _SIMPLE) or hasattr(type(value), "__fspath__"):
            return repr(value) if isinstance(value, complex) else describe(value, open_names=False)
        if isinstance(value, types.ModuleType):
            return value.__name__
        if isinstance(value, type | np.ufunc | np.random.Generator | np.random.RandomState | torch.Generator):
            return name_of(value) if isinstance(value, type) else _class_name(value)
        if type(value).__module__ in _TOOLS:
            return _class_name(value)
        if id(value) in self._open:
            return {"class": _class_name(value)}
        return self._of_object(value, nested=True, owner=owner, name=name)

    def _of_container(self, value: Any, owner: Any, name: str, is_text_open: bool) -> Any:
        if isinstance(value, (bytearray, np.ndarray, torch.Tensor)):
            return describe(value)
        if id(value) in self._open:
            return "itself"
        self._open.add(id(value))
        try:
            if isinstance(value, Mapping):
                items = {key if isinstance(key, str) else repr(key): item for key, item in value.items()}
                return {
                    key: self._of(items[key], owner, f"{name}.{key}", is_text_open)
                    for key in sorted(items)
                    if not is_secret(key)
                }
            parts = [self._of(item, owner, f"{name}[{n}]", is_text_open) for n, item in enumerate(value)]
            return sorted(parts, key=repr) if isinstance(value, (set, frozenset)) else parts
        finally:
            self._open.discard(id(value))

    def _of_object(self, value: Any, nested: bool, owner: Any = None, name: str = "") -> Any:
        """Describe a function, a bound method, a partial, an estimator, a network or another object."""
        if callable(value) and (identity := declared(value, "identity")) is not None:
            return {"identity": identity}
        self._open.add(id(value))
        try:
            if isinstance(value, functools._lru_cache_wrapper):
                value = value.__wrapped__
            if isinstance(value, types.FunctionType):
                return self._of_function(value)
            if isinstance(value, functools.partial):
                return self._of_partial(value)
            if isinstance(value, types.MethodType | types.BuiltinFunctionType | types.MethodWrapperType):
                return self._of_method(value)
            if isinstance(value, torch.nn.Module):
                return {"class": name_of(value), "params": {"weights": _weights(value)}}
            if hasattr(type(value), "get_params"):
                return self._of_estimator(value, nested)
            if (params := _params(value, nested)) is not None:
                is_text_open = declared(value, "identity_params") is not None
                return {"class": name_of(value), "params": self._each(params, value, is_text_open)}
        finally:
            self._open.discard(id(value))
        return {"class": _class_name(value), **self._hashed(value, owner, name)}

    def _each(self, params: Mapping[str, Any], owner: Any, is_text_open: bool = False) -> dict[str, Any]:
        return {
            name: self._of(value, owner, name, is_text_open) for name, value in params.items() if not is_secret(name)
        }

    def _of_function(self, function: types.FunctionType) -> dict[str, Any]:
        code = function.__code__
        own = _own_cells(function)
        params: dict[str, Any] = {}
        for name, cell in zip(code.co_freevars, function.__closure__ or ()):
            # A variable that has no value yet has an empty cell.
            if id(cell) not in own and (value := _content(cell)) is not _MISSING:
                params[name] = value
        defaults = function.__defaults__ or ()
        first = code.co_argcount - len(defaults)
        params |= dict(zip(code.co_varnames[first : code.co_argcount], defaults))
        params |= function.__kwdefaults__ or {}
        description: dict[str, Any] = {"class": name_of(function), "params": self._each(params, function)}
        # A lambda has no name of its own.
        if function.__name__ == "<lambda>":
            description["instructions"] = _digest(repr(_code(code)).encode())
        return description

    def _of_partial(self, value: functools.partial[Any]) -> dict[str, Any]:
        try:
            arguments: dict[str, Any] = dict(inspect.signature(value.func).bind_partial(*value.args).arguments)
        except (TypeError, ValueError):
            arguments = {f"argument {place}": argument for place, argument in enumerate(value.args)}
        bound = self._each({**arguments, **value.keywords}, value)
        inner = self._of_object(value.func, nested=False, owner=value, name="function")
        return {"class": name_of(value), "params": {"partial": inner, **bound}}

    def _of_method(self, value: Any) -> dict[str, Any]:
        instance = getattr(value, "__self__", None)
        if instance is None or isinstance(instance, types.ModuleType):
            return {"class": name_of(value), "params": {}}
        # A class method, which may be that of a subclass.
        if isinstance(instance, type):
            return {"class": name_of(value), "params": {"self": name_of(instance)}}
        owner = self._of_object(instance, nested=False, owner=value, name="self")
        return {"class": name_of(value), "params": {"self": owner}}

    def _of_estimator(self, value: Any, nested: bool) -> dict[str, Any]:
        params = value.get_params(deep=False)
        relevant = declared(value, "identity_params")
        if relevant is not None:
            params = {name: _named(value, name, params) for name in relevant}
        description = {"class": name_of(value), "params": self._each(params, value, is_text_open=True)}
        fitted = {name: found for name, found in vars(value).items() if name.endswith("_") and name[0] != "_"}
        if nested and fitted:
            description["fitted"] = self._hashed(fitted, value, "fitted", value)
        return description

    def _hashed(self, value: Any, owner: Any, name: str, seen: Any = None) -> dict[str, Any]:
        """Return a digest of an object's pickle; `seen` is the object that `_first_seen` knows it by, if not itself."""

        def digest() -> dict[str, Any]:
            try:
                if type(value).__module__.partition(".")[0] not in _DATA:
                    raise TypeError(f"{type(value).__name__} is not known to be data.")
                return {"sha256": str(joblib.hash(value))}
            except Exception as error:  # a user's `__getstate__` may raise anything
                what = f"keeps {name!r:.60}, a {type(value).__name__}" if name else f"is a {type(value).__name__}"
                raise JournalError(
                    f"The score function {self._service} {what}, which cannot be described, so that its answers on "
                    "disk cannot be told from those of another service. Name the service: set the attribute `identity` "
                    "of the score function to a text."
                ) from error

        result: dict[str, Any] = _first_seen(owner, name, value if seen is None else seen, digest)
        return result


# Methods that answer.
_CALLED = ("__call__", "answers")
# Methods that set up an object and do not run when it answers.
_SETTING_UP = ("__init__", "__new__", "__post_init__", "__setstate__", "__setattr__", "set")


def _params(value: Any, nested: bool) -> dict[str, Any] | None:
    """Return what makes an object differ from others of its class; None if that is not known.

    These are the attributes named like the parameters of its ``__init__`` if it has them all, else all attributes but
    those that its methods assign. Of an object of another package that is a part of another one, only the former are
    known.
    """
    cls: Any = type(value)
    relevant = declared(value, "identity_params")
    if relevant is not None:
        return {name: _named(value, name, {}) for name in relevant}
    names = _init_names(cls)
    own = _own_state(cls)
    if names:
        found = {name: _attribute(value, name) for name in names if name not in own}
        if not any(attribute is _MISSING for attribute in found.values()):
            return found
    if nested and _is_installed(cls) and cls.__init__ is not object.__init__:
        return None
    slots = [name for base in cls.__mro__ for name in np.atleast_1d(vars(base).get("__slots__", ())).tolist()]
    attributes = {name: getattr(value, name) for name in slots if not name.startswith("__") and hasattr(value, name)}
    if not hasattr(value, "__dict__") and not attributes:
        return None
    attributes |= getattr(value, "__dict__", {})
    return {name: attribute for name, attribute in attributes.items() if name not in own}


def _named(value: Any, name: str, params: Mapping[str, Any]) -> Any:
    """Return what a score function names in its `identity_params`."""
    if name not in params and not hasattr(value, name):
        raise JournalError(
            f"The score function {_class_name(value)} names {name!r:.60} in its identity_params, but has no such "
            "parameter or attribute."
        )
    return params[name] if name in params else getattr(value, name)


@functools.cache
def _is_installed(cls: Any) -> bool:
    """Return whether a class belongs to Python or to an installed package, and not to the user's own code."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    places = {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
    return cls.__module__ not in ("__main__", "__mp_main__") and (file is None or file.startswith(tuple(places)))


@functools.cache
def _init_names(cls: Any) -> tuple[str, ...] | None:
    """Return the names of the parameters of a class; None if it takes any."""
    if dataclasses.is_dataclass(cls):
        return tuple(field.name for field in dataclasses.fields(cls) if field.init and field.compare)
    if cls.__init__ is object.__init__:
        return ()
    try:
        _, *params = inspect.signature(cls.__init__).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(param.kind in (param.VAR_POSITIONAL, param.VAR_KEYWORD) for param in params):
        return None
    return tuple(param.name for param in params)


@functools.cache
def _own_state(cls: Any) -> frozenset[str]:
    """Return the attributes that the methods of a class assign, apart from those that set it up."""
    return frozenset(name for method in _methods(cls) for name in _assigned(method.__code__, ("STORE_ATTR",)))


def _own_cells(function: types.FunctionType) -> set[int]:
    """Return the ids of the closed-over variables that a function, or a function that it closes over, assigns."""
    closed_over = [_content(cell) for cell in function.__closure__ or ()]
    return {
        id(cell)
        for each in (function, *(item for item in closed_over if isinstance(item, types.FunctionType)))
        for name, cell in zip(each.__code__.co_freevars, each.__closure__ or ())
        if name in set(_assigned(each.__code__, ("STORE_DEREF", "DELETE_DEREF")))
    }


def _methods(cls: type, names: tuple[str, ...] = ()) -> Iterator[types.FunctionType]:
    for base in cls.__mro__:
        for name, method in vars(base).items():
            wanted = name in names if names else not name.startswith(_SETTING_UP)
            if wanted and isinstance(method, types.FunctionType):
                yield method


def _assigned(code: types.CodeType, operations: tuple[str, ...]) -> Iterator[str]:
    """Yield the names that code, and code within it, assigns."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in operations:
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _assigned(constant, operations)


def _code(code: types.CodeType) -> tuple[Any, ...]:
    """Return what code does, without the place where it is written."""
    constants = [_code(item) if isinstance(item, types.CodeType) else _constant(item) for item in code.co_consts]
    return code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars


def _constant(value: Any) -> Any:
    # The order of a set differs between processes.
    return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)


def _attribute(value: Any, name: str) -> Any:
    """Return the attribute in which an object keeps a parameter, perhaps a private one."""
    for stored in (name, f"_{name}", f"_{type(value).__name__.lstrip('_')}__{name}"):
        if inspect.getattr_static(value, stored, _MISSING) is not _MISSING:
            return getattr(value, stored)
    return _MISSING


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING


def _class_name(value: Any) -> str:
    return name_of(value if isinstance(value, type) else type(value))


def _digest(content: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest()}


def _weights(module: torch.nn.Module) -> dict[str, Any]:
    """Return a digest of a network's weights and settings; of large tensors, it takes evenly spaced numbers."""
    digest = hashlib.sha256()
    for name, part in module.named_modules():
        cls: Any = type(part)
        # Calling `eval` is part of using a network.
        own = _own_state(cls) | {"training"}
        settings = {key: repr(value) for key, value in vars(part).items() if key not in own and _is_setting(value)}
        digest.update(json.dumps([name, name_of(part), settings], sort_keys=True).encode())
    for name, tensor in module.state_dict().items():
        if isinstance(tensor, torch.Tensor):
            digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
            flat = tensor.detach().flatten()[:: max(1, tensor.numel() // _MOST_DIGESTED)]
            digest.update(flat.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return {"sha256": digest.hexdigest()}


def _is_setting(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_setting, value))
    return isinstance(value, (bool, int, float, str, enum.Enum, type(None)))


# By the id of an owner: a reference to it, and by the name of what it keeps the value and its description.
_seen: dict[int, tuple[weakref.ref[Any], dict[str, tuple[Any, Any]]]] = {}


def _first_seen(owner: Any, name: str, value: Any, make: Any) -> Any:
    """Return the description of a value as it was when its owner was first described with it."""
    key = id(owner)
    known = _seen.get(key)
    if known is None or known[0]() is not owner:
        try:
            known = _seen[key] = (weakref.ref(owner, lambda _: _seen.pop(key, None)), {})
        except TypeError:
            return make()
    found = known[1].get(name)
    if found is None or found[0] is not value:
        found = known[1][name] = (value, make())
    return found[1]
