"""The answers that predictions were billed for, so that one estimator never pays for a prompted image twice."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from .contract import ScoreFunction
from .replay import ContentKeys, JournalHit

__all__ = ["AnswerMemory"]

# Bytes of scores that are remembered, and what each entry takes in addition.
_MOST_BYTES, _ENTRY_BYTES = 64 * 2**20, 250


class AnswerMemory:
    """The scores of prompted images that were billed after a fit, found by a digest of the pixels.

    The oldest ones are forgotten when 64 MiB are full. Pickles and deep copies start with an empty memory.

    Attributes
    ----------
    n_queries : int
        Images billed by predictions.
    """

    def __init__(self) -> None:
        self.n_queries = 0
        self._lock = threading.Condition()
        self._on_the_way: set[bytes] = set()
        self._score_fn: Any = None
        self._scores: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._n_bytes = 0

    def __reduce__(self) -> Any:
        # A prediction changes nothing that a pickle or a hash of the estimator holds.
        return AnswerMemory, ()

    def of_service(self, score_fn: ScoreFunction) -> AnswerMemory:
        """Return this memory; it forgets the answers of any other score function."""
        with self._lock:
            if self._score_fn is not score_fn:
                self._score_fn, self._n_bytes = score_fn, 0
                self._scores.clear()
        return self

    def count(self, n_images: int) -> None:
        """Count billed images."""
        with self._lock:
            self.n_queries += n_images

    @property
    def n_known(self) -> int:
        """Number of answers that are remembered."""
        return len(self._scores)

    def recall(self, images: Any, class_prompts: Sequence[str]) -> JournalHit:
        """Look up images (n, ...) that are about to be sent; known ones are not billed again.

        It waits for images that another thread has sent. Those that it does not find count as sent by this thread until
        `keep` or `release` is called.
        """
        keys = ContentKeys(None, class_prompts).of(images)
        with self._lock:
            self._lock.wait_for(lambda: self._on_the_way.isdisjoint(keys))
            found = [self._scores.get(key) for key in keys]
            self._on_the_way.update(key for key, scores in zip(keys, found) if scores is None)
        known = np.array([scores is not None for scores in found], dtype=bool)
        scores = np.full((len(keys), len(class_prompts)), np.nan)
        for row in np.flatnonzero(known):
            scores[row] = found[row]
        return JournalHit(keys, scores, known, 0)

    def keep(self, keys: Sequence[bytes], scores: np.ndarray, n_free: int) -> None:
        """Remember scores (n_images, n_prompts)."""
        with self._lock:
            for key, row in zip(keys, scores):
                if key not in self._scores:
                    self._n_bytes += row.nbytes + _ENTRY_BYTES
                self._scores[key] = row.copy()
                self._on_the_way.discard(key)
            while self._n_bytes > _MOST_BYTES:
                _, forgotten = self._scores.popitem(last=False)
                self._n_bytes -= forgotten.nbytes + _ENTRY_BYTES
            self._lock.notify_all()

    def release(self, keys: Sequence[bytes]) -> None:
        """Let other threads send the images of these keys that have no answer."""
        with self._lock:
            self._on_the_way.difference_update(keys)
            self._lock.notify_all()
