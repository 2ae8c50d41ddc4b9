"""Threads that ask for pieces of a set of images, and hand on what is answered as it comes."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any

from .retrying import CancelledError

__all__ = ["gather"]

Deliver = Callable[[Any], None]


def gather(
    ask: Callable[[Any, threading.Event, Deliver], None], pieces: Sequence[Any], n_threads: int
) -> Generator[list[Any]]:
    """What is delivered for all pieces, in lists of what has come since the last.

    After an error, or Ctrl-C, no other piece is begun; what is under way is still delivered, and then the error is
    raised. A second Ctrl-C is raised at once. When the iterator is closed, nothing is waited for.

    Parameters
    ----------
    ask : callable
        ``ask(piece, cancelled, deliver)``: calls ``deliver`` with each answer. `cancelled` is an Event.
    pieces : sequence
    n_threads : int
    """
    waiting = deque(pieces)
    delivered: queue.SimpleQueue[Any] = queue.SimpleQueue()
    cancelled = threading.Event()

    def work() -> None:
        try:
            while not cancelled.is_set():
                try:
                    piece = waiting.popleft()
                except IndexError:
                    break
                ask(piece, cancelled, lambda answer: delivered.put((answer, None)))
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
            n_working -= sum(event is None for event in events)
            errors = [event[1] for event in events if event is not None and event[1] is not None]
            first_error = first_error or next(iter(errors), None)
            answers = [event[0] for event in events if event is not None and event[1] is None]
            if answers:
                yield answers
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
