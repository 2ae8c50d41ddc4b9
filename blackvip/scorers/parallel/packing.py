"""How the workers of a pool get their score function: shared, one per device, or pickled."""

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
from ..declarations import method_of

__all__ = ["Shared", "PerDevice", "PickledScorer", "Source", "UnknownScorerError"]

# Unpacked score functions that a process keeps while they are idle.
_MOST_KEPT = 4
# A pickled scorer of at most this size travels with every task.
_SMALL_BYTES = 2**16


class Source(Protocol):
    """Base class of objects that lend a score function for the time of a call."""

    #: Whether tasks go to another process, so that what they carry is pickled.
    is_remote: bool

    @property
    def for_every_task(self) -> Source:
        """Return the source in the form that a task carries at first."""

    def borrow(self) -> Any:
        """Return a context manager whose value is the score function."""


class Shared:
    """Source of one score function that the threads of a process share."""

    is_remote = False

    def __init__(self, score_fn: ScoreFunction):
        self.score_fn = score_fn

    @property
    def for_every_task(self) -> Shared:
        """Return the source itself."""
        return self

    @contextmanager
    def borrow(self) -> Iterator[Any]:
        yield self.score_fn


class PerDevice:
    """One copy of a score function for each device; each copy serves one call at a time.

    Parameters
    ----------
    score_fn : estimator
        An estimator with the parameter `device`.
    devices : sequence of str
        Values of `device`.

    Raises
    ------
    TypeError
        If the score function has no parameter `device`.
    """

    is_remote = False

    def __init__(self, score_fn: Any, devices: Sequence[str]):
        if "device" not in (method_of(score_fn, "get_params") or dict)():
            raise TypeError(
                f"devices={list(devices)} was given, but the score function, a {type(score_fn).__name__}, has no "
                "parameter `device`; expected an estimator that has one, such as OpenCLIPScorer."
            )
        self.made_for = score_fn, devices
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for device in devices:
            self._free.put(clone(score_fn).set_params(device=device))

    @property
    def for_every_task(self) -> PerDevice:
        """Return the source itself."""
        return self

    @contextmanager
    def borrow(self) -> Iterator[Any]:
        score_fn = self._free.get()
        try:
            yield score_fn
        finally:
            self._free.put(score_fn)


class UnknownScorerError(KeyError):
    """Error of a worker that receives a pickled scorer without its content and does not have it yet."""


@dataclass(frozen=True)
class PickledScorer:
    """A pickled score function for another process, which unpacks it once and keeps it.

    Parameters
    ----------
    token : str
        A digest of the content, which identifies it.
    content : bytes or None
        The pickled score function. None: the process is expected to have it.
    """

    is_remote = True

    token: str
    content: bytes | None

    @classmethod
    def of(cls, score_fn: Any) -> PickledScorer:
        """Pickle a score function.

        Parameters
        ----------
        score_fn : callable
            The score function.

        Returns
        -------
        packed : PickledScorer
            The pickled score function.

        Raises
        ------
        TypeError
            If it cannot be pickled.
        """
        try:
            content = cloudpickle.dumps(score_fn)
        except Exception as error:  # a user's `__getstate__` may raise anything
            raise TypeError(
                f"The score function, a {type(score_fn).__name__}, cannot be sent to another process: {error!s:.200}. "
                "Create clients, locks and models at the first call, and leave them out of `__getstate__`; or use "
                "threads, with joblib.parallel_config('threading'), or n_jobs=1."
            ) from error
        return cls(hashlib.sha256(content).hexdigest(), content)

    @property
    def for_every_task(self) -> PickledScorer:
        """The pickled scorer in the form that a task carries at first: with its content only if it is small."""
        return (
            self if self.content is not None and len(self.content) <= _SMALL_BYTES else PickledScorer(self.token, None)
        )

    @contextmanager
    def borrow(self) -> Iterator[Any]:
        """Lend the score function; it is unpacked unless this process has an idle one.

        Raises
        ------
        UnknownScorerError
            If the process has none and there is no content to unpack.
        """
        score_fn = _KEPT.take(self)
        try:
            yield score_fn
        finally:
            _KEPT.give_back(self, score_fn)


class _Kept:
    """The idle score functions that this process has unpacked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By token, the last used at the end.
        self._free: OrderedDict[str, list[Any]] = OrderedDict()

    def take(self, packed: PickledScorer) -> Any:
        with self._lock:
            free = self._free.get(packed.token)
            if free:
                return free.pop()
        if packed.content is None:
            raise UnknownScorerError(packed.token)
        return cloudpickle.loads(packed.content)

    def give_back(self, packed: PickledScorer, score_fn: Any) -> None:
        with self._lock:
            self._free.setdefault(packed.token, []).append(score_fn)
            self._free.move_to_end(packed.token)
            while len(self._free) > _MOST_KEPT:
                self._free.popitem(last=False)


_KEPT = _Kept()
