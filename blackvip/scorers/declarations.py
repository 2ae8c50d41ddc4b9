"""Reads what a score function declares: its attributes, checked like parameters, and the methods of its class.

An object that answers to every name, such as a mock or a proxy for a remote service, declares nothing by that.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

from .raw_numbers import shown

__all__ = ["check_rate", "declared", "method_of"]

_MISSING = object()


def method_of(score_fn: Any, name: str) -> Any:
    """Return a method of a score function, or None unless its class defines the method."""
    if not callable(getattr(type(score_fn), name, None)):
        return None
    method = getattr(score_fn, name, None)
    return method if callable(method) else None


def declared(score_fn: Any, name: str, default: Any = None) -> Any:
    """Return what a score function declares as an attribute.

    Parameters
    ----------
    score_fn : callable
        See `blackvip.scorers.contract`.
    name : str
        One of the attributes that are described there.
    default : object, default=None
        Value that is returned if it declares nothing.

    Returns
    -------
    value : object
        The checked value.

    Raises
    ------
    ValueError
        If the value is not valid. The message has the attribute's name.
    """
    found = inspect.getattr_static(score_fn, name, _MISSING)
    if found is _MISSING:
        # A wrapper's `__getattr__` may pass a value on, or answer to every name.
        try:
            value = getattr(score_fn, name, _MISSING)
        except Exception:  # a remote call may fail in any way
            return default
        if not isinstance(value, (bool, np.bool_, Real, str, torch.device)):
            return default
    else:
        value = getattr(score_fn, name)
    if value is None:
        return default
    check, expected = _CHECKS[name]
    try:
        return check(value)
    except (TypeError, ValueError, RuntimeError, AssertionError):
        raise ValueError(
            f"The {name} that the score function declares is {shown(value)}; expected {expected}."
        ) from None


def check_rate(rate: Any, name: str) -> float | None:
    """Return a price or a time per image as a float, or None.

    Parameters
    ----------
    rate : object
        The value that was given.
    name : str
        Its name, for the error.

    Returns
    -------
    rate : float or None
        A finite number of at least 0; None if `rate` is None.

    Raises
    ------
    ValueError
        If it is anything else.
    """
    try:
        return None if rate is None else _rate(rate)
    except ValueError:
        raise ValueError(f"{name} is {rate!r}; expected a finite number of at least 0, or None.") from None


def _rate(value: Any) -> float:
    is_number = isinstance(value, (Real, Decimal)) and not isinstance(value, (bool, np.bool_))
    if not is_number or not 0 <= float(value) < np.inf:
        raise ValueError
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral) or value < 1:
        raise ValueError
    return int(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError
    return bool(value)


def _score_type(value: Any) -> str:
    # `ScoreReader` knows the types.
    if not isinstance(value, str):
        raise ValueError
    return str.__str__(value)


def _device(value: Any) -> str:
    if not isinstance(value, (str, torch.device)):
        raise ValueError
    device = torch.device(value)
    # Prompts are drawn there, so it must be a device of this machine.
    torch.empty(0, device=device)
    return str(device)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    return value


def _name_or_none(value: Any) -> str | None:
    # An object's own model may have the same name.
    return value if isinstance(value, str) and value.strip() else None


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not all(isinstance(name, str) for name in value):
        raise ValueError
    return tuple(value)


_CHECKS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "images_per_call": (_count, "a whole number of at least 1, or None"),
    "max_class_prompts": (_count, "a whole number of at least 1, or None"),
    "vector_size": (_count, "a whole number of at least 1, or None"),
    "score_type": (_score_type, "'logits' or 'probabilities'"),
    "price_per_image": (_rate, "a finite number of at least 0, or None"),
    "model_": (_name_or_none, "the name of a model"),
    "takes_any_size": (_flag, "True or False"),
    "takes_tensors": (_flag, "True or False"),
    "tensor_device": (_device, "a torch device of this machine, such as 'cuda:0'"),
    "streams": (_flag, "True or False"),
    "asks_concurrently": (_flag, "True or False"),
    "maps_labels": (_flag, "True or False"),
    "one_prompt_per_class": (_flag, "True or False"),
    "learns": (_flag, "True or False"),
    "identity": (_name, "a text that names the service"),
    "identity_params": (_names, "a sequence of names"),
}
