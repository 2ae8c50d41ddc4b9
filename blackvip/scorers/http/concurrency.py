"""Concurrent requests: threads that work on pieces of a set of images, and the slots that they share."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from .client import Client
from .retrying import CancelledError

__all__ = ["Gate", "gather"]

Deliver = Callable[[Any], None]
Begin = Callable[[], None]

# Marks the end of a piece in the queue, after all of its answers.
_DONE = "done"
# Seconds between a waiting thread's checks for cancellation.
_POLL = 0.2


class Gate:
    """A fixed number of slots for requests, each with a connection of its own.

    Parameters
    ----------
    make_client : callable
        Called without arguments when a slot is first used. A common pool of connections would be searched for each
        request.
    n_slots : int
    per_second : float or None
        Maximal number of requests that start in a second, evenly spaced. None: no limit.
    """

    def __init__(self, make_client: Callable[[], Client], n_slots: int, per_second: float | None):
        self._make_client = make_client
        # Last in, first out: the last one used has the freshest connection.
        self._free: queue.LifoQueue[Client | None] = queue.LifoQueue()
        for _ in range(n_slots):
            self._free.put(None)
        self._clients: list[Client] = []
        self._interval = 0.0 if per_second is None else 1 / per_second
        self._lock = threading.Lock()
        self._next = 0.0

    @contextmanager
    def slot(self, cancelled: threading.Event) -> Iterator[Client]:
        """Wait for a slot for one request, until its turn comes or the request is cancelled."""
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
    request: Callable[[Any, threading.Event, Deliver, Begin], None], pieces: Sequence[Any], n_threads: int, n_open: int
) -> Generator[list[Any]]:
    """Yield the answers to all pieces, in lists of those that arrived since the last list.

    A list counts as processed when the caller takes the next one; a caller that keeps answers has written them to
    disk by then. At most `n_open` pieces are started and not yet processed, so no more are lost with the process.

    After an error or Ctrl-C, no other piece starts; pieces under way are still delivered, and then the error is raised.
    A second Ctrl-C is raised at once. Closing the iterator does not wait.

    Parameters
    ----------
    request : callable
        ``request(piece, cancelled, deliver, begin)`` calls ``begin`` once before it sends anything, which waits for
        its turn, and ``deliver`` with each answer. `cancelled` is an Event.
    pieces : sequence
    n_threads : int
    n_open : int
        Maximal number of pieces that are started and not yet processed.
    """
    waiting = deque(pieces)
    # An interrupt between the end of a queue's `get` and the use of what it returned would lose that. So what threads
    # deliver is in a deque, and the queue only wakes the reader.
    delivered: deque[Any] = deque()
    arrived: queue.SimpleQueue[None] = queue.SimpleQueue()
    cancelled = threading.Event()
    turns = threading.Semaphore(n_open)

    def begin() -> None:
        while not (cancelled.is_set() or turns.acquire(timeout=_POLL)):
            pass

    def put(event: Any) -> None:
        delivered.append(event)
        arrived.put(None)

    def work() -> None:
        try:
            while not cancelled.is_set():
                try:
                    piece = waiting.popleft()
                except IndexError:
                    break
                request(piece, cancelled, lambda answer: put((answer, None)), begin)
                put(_DONE)
        except CancelledError:
            pass
        except BaseException as error:
            cancelled.set()
            put((None, error))
        finally:
            put(None)

    n_working = 0
    first_error: BaseException | None = None
    try:
        for _ in range(min(n_threads, len(pieces))):
            threading.Thread(target=work, name="blackvip-http", daemon=True).start()
            n_working += 1
        while n_working:
            try:
                _wait(delivered, arrived)
            except KeyboardInterrupt as interrupt:
                if isinstance(first_error, KeyboardInterrupt):
                    raise
                first_error = interrupt
                cancelled.set()
                continue
            events = [delivered.popleft() for _ in range(len(delivered))]
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
        # The error's traceback holds this frame.
        first_error = None


def _wait(delivered: deque[Any], arrived: queue.SimpleQueue[None]) -> None:
    """Wait until something is delivered; an interrupt takes nothing away."""
    while not delivered:
        with suppress(queue.Empty):
            # Windows does not interrupt a wait without a timeout.
            arrived.get(timeout=1.0)
