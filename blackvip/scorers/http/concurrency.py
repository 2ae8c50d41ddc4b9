"""Requests side by side: threads that ask for pieces of a set of images, and the places they take turns for."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .client import Client
from .retrying import CancelledError

__all__ = ["Gate", "gather"]

Deliver = Callable[[Any], None]
Begin = Callable[[], None]

_DONE = "done"  # a piece, all of whose answers stand before this
_LOOK = 0.2  # seconds after which a waiting thread looks whether all is over


class Gate:
    """So many places for requests, each with a connection that it keeps.

    Parameters
    ----------
    make_client : callable
        Called without arguments when a place is first taken. One pool of connections for all places would be searched
        through for each request.
    n_places : int
    per_second : float or None
        The most requests that begin in a second, evenly spaced. None: any number.
    """

    def __init__(self, make_client: Callable[[], Client], n_places: int, per_second: float | None):
        self._make_client = make_client
        self._free: queue.LifoQueue[Client | None] = queue.LifoQueue()  # the last used has the freshest connection
        for _ in range(n_places):
            self._free.put(None)
        self._clients: list[Client] = []
        self._interval = 0.0 if per_second is None else 1 / per_second
        self._lock = threading.Lock()
        self._next = 0.0

    @contextmanager
    def place(self, cancelled: threading.Event) -> Iterator[Client]:
        """A place for one request, when its turn comes or it need not be sent any more."""
        client = self._free.get()
        try:
            if client is None:
                client = self._make_client()
                self._clients.append(client)
            if self._interval:
                with self._lock:
                    begin = max(self._next, time.monotonic())
                    self._next = begin + self._interval
                cancelled.wait(begin - time.monotonic())
            yield client
        finally:
            self._free.put(client)

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            client.close()


def gather(
    ask: Callable[[Any, threading.Event, Deliver, Begin], None], pieces: Sequence[Any], n_threads: int, n_open: int
) -> Generator[list[Any]]:
    """What is delivered for all pieces, in lists of what has come since the last.

    A list is done with when the next one is asked for: who keeps answers has them on disk by then. No more than
    `n_open` pieces are ever begun and not done with, so that no more are lost with the process.

    After an error, or Ctrl-C, no other piece is begun; what is under way is still delivered, and then the error is
    raised. A second Ctrl-C is raised at once. When the iterator is closed, nothing is waited for.

    Parameters
    ----------
    ask : callable
        ``ask(piece, cancelled, deliver, begin)``: calls ``begin`` once, which waits for its turn, before it sends
        anything, and ``deliver`` with each answer. `cancelled` is an Event.
    pieces : sequence
    n_threads : int
    n_open : int
    """
    waiting = deque(pieces)
    delivered: queue.SimpleQueue[Any] = queue.SimpleQueue()
    cancelled = threading.Event()
    turns = threading.Semaphore(n_open)

    def begin() -> None:
        while not (cancelled.is_set() or turns.acquire(timeout=_LOOK)):
            pass

    def work() -> None:
        try:
            while not cancelled.is_set():
                try:
                    piece = waiting.popleft()
                except IndexError:
                    break
                ask(piece, cancelled, lambda answer: delivered.put((answer, None)), begin)
                delivered.put(_DONE)
        except CancelledError:
            pass
        except BaseException as error:
            cancelled.set()
            delivered.put((None, error))
        finally:
            delivered.put(None)

    n_working = 0
    first_error: BaseException | None = None
    try:
        for _ in range(min(n_threads, len(pieces))):
            threading.Thread(target=work, name="blackvip-http", daemon=True).start()
            n_working += 1
        while n_working:
            try:
                events = _available(delivered)
            except KeyboardInterrupt as interrupt:
                if isinstance(first_error, KeyboardInterrupt):
                    raise
                first_error = interrupt
                cancelled.set()
                continue
            n_working -= events.count(None)
            n_done = events.count(_DONE)
            told = [event for event in events if event not in (None, _DONE)]
            first_error = first_error or next((error for _, error in told if error is not None), None)
            answers = [answer for answer, error in told if error is None]
            if answers:
                yield answers
            for _ in range(n_done):
                turns.release()
        if first_error is not None:
            raise first_error
    finally:
        cancelled.set()
        first_error = None  # its traceback holds this frame


def _available(events: queue.SimpleQueue[Any]) -> list[Any]:
    """Waits for one event, and takes all that are there."""
    while True:
        try:
            taken = [events.get(timeout=1.0)]  # Windows does not interrupt a wait without an end
            break
        except queue.Empty:
            continue
    while True:
        try:
            taken.append(events.get_nowait())
        except queue.Empty:
            return taken
