"""Answers that threads share: one thread sends an image, and all others wait for its answer."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

__all__ = ["SharedAnswers"]

# Bytes that each entry takes in addition to its numbers.
_ENTRY_BYTES = 250


class SharedAnswers:
    """Arrays of numbers by the keys of images, of which no thread sends one that another thread has sent.

    Parameters
    ----------
    most_bytes : float, default=inf
        Bytes that may be kept. When they are full, the oldest answers are dropped.
    """

    def __init__(self, most_bytes: float = math.inf) -> None:
        self.most_bytes = most_bytes
        self._changed = threading.Condition()
        self._claimed: set[bytes] = set()
        self._answers: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._n_bytes = 0

    def __len__(self) -> int:
        return len(self._answers)

    def find_or_claim(self, keys: Sequence[bytes]) -> list[np.ndarray | None]:
        """Return the answer of each key, or None for those that the caller has to send now.

        If another thread has claimed a key, this method waits until it keeps the answer or releases the key. The caller
        must `keep` or `release` what it has claimed. It waits for others before it claims anything, so no two threads
        wait for each other.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._claimed.isdisjoint(keys))
            found = [self._answers.get(key) for key in keys]
            self._claimed.update(key for key, answer in zip(keys, found) if answer is None)
        return found

    def keep(self, keys: Iterable[bytes], answers: Iterable[np.ndarray]) -> None:
        """Store copies of answers, and hand them to the threads that wait for them."""
        with self._changed:
            for key, answer in zip(keys, answers):
                if key not in self._answers:
                    self._n_bytes += answer.nbytes + _ENTRY_BYTES
                self._answers[key] = answer.copy()
                self._claimed.discard(key)
            while self._n_bytes > self.most_bytes:
                _, forgotten = self._answers.popitem(last=False)
                self._n_bytes -= forgotten.nbytes + _ENTRY_BYTES
            self._changed.notify_all()

    def release(self, keys: Iterable[bytes]) -> None:
        """Let other threads send the images of these keys, which have no answer."""
        with self._changed:
            self._claimed.difference_update(keys)
            self._changed.notify_all()

    def clear(self) -> None:
        """Forget all answers."""
        with self._changed:
            self._answers.clear()
            self._n_bytes = 0
