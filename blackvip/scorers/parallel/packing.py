"""Where the workers of a pool get their score function from, each of which is used by one call at a time."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import cloudpickle
from sklearn.base import clone

from ..contract import ScoreFunction

__all__ = ["Shared", "PerDevice", "PickledScorer", "Source", "UnknownScorerError"]

_MOST_KEPT = 4  # score functions that a process keeps while nobody uses them, each as often as it was used at a time
_SMALL_BYTES = 2**16  # of a parcel that every task carries


class Source(Protocol):
    """Hands out a score function for the time of a call."""

    def borrow(self) -> Any:
        """A context manager whose value is the score function."""


class Shared:
    """The score function itself, as threads of one process share it."""

    def __init__(self, score_fn: ScoreFunction):
        self.score_fn = score_fn

    @contextmanager
    def borrow(self) -> Iterator[Any]:
        yield self.score_fn


class PerDevice:
    """One copy of a score function for each device, each of which is used by one call at a time.

    Parameters
    ----------
    score_fn : estimator
        With a parameter `device`.
    devices : sequence of str
        As the score function takes them.
    """

    def __init__(self, score_fn: Any, devices: Sequence[str]):
        if "device" not in getattr(score_fn, "get_params", dict)():
            raise TypeError(
                f"devices={list(devices)} was given, but the score function, a {type(score_fn).__name__}, has no "
                "parameter `device`; expected an estimator that has one, such as OpenCLIPScorer."
            )
        self.made_for = score_fn, devices
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for device in devices:
            self._free.put(clone(score_fn).set_params(device=device))

    @contextmanager
    def borrow(self) -> Iterator[Any]:
        score_fn = self._free.get()
        try:
            yield score_fn
        finally:
            self._free.put(score_fn)


class UnknownScorerError(KeyError):
    """A parcel came without its content, and this process does not have it."""


@dataclass(frozen=True)
class PickledScorer:
    """A score function on its way to another process, which unpacks it once and keeps it.

    Parameters
    ----------
    token : str
        A digest of the content, by which a process knows what it has.
    content : bytes or None
        The pickled score function. None: the process is expected to have it.
    """

    token: str
    content: bytes | None

    @classmethod
    def of(cls, score_fn: Any) -> PickledScorer:
        """Pack a score function.

        Raises
        ------
        TypeError
            If it cannot be pickled.
        """
        try:
            content = cloudpickle.dumps(score_fn)
        except Exception as error:  # whatever a stranger's `__getstate__` raises
            raise TypeError(
                f"The score function, a {type(score_fn).__name__}, cannot be sent to another process: {error!s:.200}. "
                "Make open clients, locks and loaded models at the first call, and leave them out of `__getstate__`; "
                "or ask from threads, with joblib.parallel_config('threading'), or with n_jobs=1."
            ) from error
        return cls(hashlib.sha256(content).hexdigest(), content)

    @property
    def for_every_task(self) -> PickledScorer:
        """What a task carries at first: the content too only where it is small."""
        return (
            self if self.content is not None and len(self.content) <= _SMALL_BYTES else PickledScorer(self.token, None)
        )

    @contextmanager
    def borrow(self) -> Iterator[Any]:
        """The score function, unpacked unless this process has one of this token that nobody uses.

        Raises
        ------
        UnknownScorerError
            If it has none, and there is no content to unpack.
        """
        score_fn = _KEPT.take(self)
        try:
            yield score_fn
        finally:
            _KEPT.give_back(self, score_fn)


class _Kept:
    """The score functions that this process has unpacked and that are not in use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: OrderedDict[str, list[Any]] = OrderedDict()  # by token, the one that was used last behind

    def take(self, parcel: PickledScorer) -> Any:
        with self._lock:
            free = self._free.get(parcel.token)
            if free:
                return free.pop()
        if parcel.content is None:
            raise UnknownScorerError(parcel.token)
        return cloudpickle.loads(parcel.content)

    def give_back(self, parcel: PickledScorer, score_fn: Any) -> None:
        with self._lock:
            self._free.setdefault(parcel.token, []).append(score_fn)
            self._free.move_to_end(parcel.token)
            while len(self._free) > _MOST_KEPT:
                self._free.popitem(last=False)


_KEPT = _Kept()
