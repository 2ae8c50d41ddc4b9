"""How many requests are under way, and how many begin in a second."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .client import Client

__all__ = ["Gate"]


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
