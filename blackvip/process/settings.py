"""Settings of the process that must change no result: NumPy's floating-point errors, torch's default device and type.

All code of this package names the types of the tensors that it makes. NumPy's errors and torch's default device belong
to a thread, so they are set for the time of a call.
"""

from __future__ import annotations

import functools
import inspect
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np
import torch

__all__ = [
    "UsualSettings",
    "callers_device",
    "global_generators_kept",
    "iterated_on_callers_device",
    "loading_settings",
    "usual_settings",
]

T = TypeVar("T")

_METHODS = (
    *("fit", "fit_pixels", "fit_features", "fit_scored", "fit_transform", "partial_fit", "transform"),
    *("inverse_transform", "draw", "encode", "encode_batches", "ask", "tell", "plan", "decision_function", "score"),
    *("predict", "predict_proba", "predict_log_proba", "predict_log_proba_of", "predict_to"),
    *("score_baselines", "compare_prompt"),
)
_CPU = torch.device("cpu")
# The caller's default device; None outside of `usual_settings`.
_callers_device: ContextVar[torch.device | None] = ContextVar("blackvip_callers_device", default=None)
# The default type belongs to the process, not to a thread.
_default_dtype = threading.RLock()


@contextmanager
def usual_settings() -> Iterator[None]:
    """Compute with NumPy's usual error state, and make tensors on the CPU, whatever the caller has set."""
    if _callers_device.get() is not None:
        yield
        return
    device = torch.empty(0).device
    token = _callers_device.set(device)
    try:
        # Another device on top would be a mode too, and modes turn off fast paths that round in another way.
        without_modes = nullcontext() if device == _CPU else torch._C.DisableTorchFunction()
        with np.errstate(all="warn", under="ignore"), without_modes:
            yield
    finally:
        _callers_device.reset(token)


@contextmanager
def callers_device() -> Iterator[None]:
    """Make tensors on the caller's default device, as a score function expects."""
    device = _callers_device.get()
    token = _callers_device.set(None)
    try:
        with nullcontext() if device in (None, _CPU) else torch._C._EnableTorchFunction():
            yield
    finally:
        _callers_device.reset(token)


def iterated_on_callers_device(items: Iterable[T]) -> Iterator[T]:
    """Yield items, each of which is made with `callers_device`."""
    iterator, end = iter(items), object()
    while True:
        with callers_device():
            item: Any = next(iterator, end)
        if item is end:
            return
        yield item


@contextmanager
def loading_settings() -> Iterator[None]:
    """Make a network of another package: its tensors are on the CPU and in single precision unless it says otherwise.

    Other threads see the default type too, so this is for the short time of loading alone.
    """
    with usual_settings(), _default_dtype:
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


@contextmanager
def global_generators_kept() -> Iterator[None]:
    """Leave the random generators of the process as they were, those of Python, NumPy and torch on the CPU."""
    python, numpy_ = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_)


class UsualSettings:
    """Mixin of classes whose public methods compute with `usual_settings`, those of subclasses too."""

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        for name in _METHODS:
            method = vars(cls).get(name)
            if inspect.isfunction(method):
                setattr(cls, name, _with_usual_settings(method))


def _with_usual_settings(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def with_usual_settings(*args: Any, **kwargs: Any) -> Any:
        if _callers_device.get() is not None:
            return method(*args, **kwargs)
        with usual_settings():
            return method(*args, **kwargs)

    return with_usual_settings
