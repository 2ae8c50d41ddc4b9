"""The answers that an estimator was billed for, so that it never pays for a prompted image twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .contract import ScoreFunction
from .replay import ContentKeys, JournalHit
from .shared_answers import SharedAnswers

__all__ = ["AnswerMemory"]

# Bytes of scores that are remembered.
_MOST_BYTES = 64 * 2**20
_KEY_BYTES = 32


class AnswerMemory:
    """Scores of images that were billed by a fit or after it, found by a digest of the pixels.

    When 64 MiB are full, the oldest scores are dropped. Pickles and deep copies start with an empty memory.

    Parameters
    ----------
    recalls : bool, default=True
        Whether images are looked up. False: scores are only stored for later, because a fit of a single prompter sends
        all images that were planned.

    Attributes
    ----------
    n_queries : int
        Images billed by predictions.
    n_asked : int
        Images whose answers were stored: billed, or free from a cache.
    """

    def __init__(self, recalls: bool = True) -> None:
        self.recalls = recalls
        self.n_queries = self.n_asked = 0
        self._lock = threading.Lock()
        self._score_fn: Any = None
        self._scores = SharedAnswers(_MOST_BYTES)
        self._paused = False

    def __reduce__(self) -> Any:
        # A prediction changes nothing that a pickle or a hash of the estimator holds.
        return AnswerMemory, ()

    def of_service(self, score_fn: ScoreFunction) -> AnswerMemory:
        """Return this memory, without the answers of any other score function."""
        with self._lock:
            if self._score_fn is not score_fn:
                self._score_fn = score_fn
                self._scores.clear()
        return self

    def count(self, n_images: int) -> None:
        """Add to the number of billed images."""
        with self._lock:
            self.n_queries += n_images

    @property
    def n_known(self) -> int:
        """Number of answers that can be looked up."""
        return len(self._scores) if self.recalls else 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Store and look up nothing, for the images of training steps, which are never sent again."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def recall(self, images: Any, class_prompts: Sequence[str], n_scores: int) -> JournalHit:
        """Look up images that are about to be sent; known ones are not billed again.

        If another thread has sent an image, this method waits for its answer. Images that are not found count as sent
        by this thread until `keep` or `release` is called.

        Parameters
        ----------
        images : ndarray or tensor of shape (n, ...)
            Images as they would be sent.
        class_prompts : sequence of str
            Prompts that are sent with them.
        n_scores : int
            Number of scores of an image.

        Returns
        -------
        hit : JournalHit
            The known answers, and the keys under which new ones are stored.
        """
        if self._paused:
            return _nothing_known([b""] * len(images), n_scores)
        keys = ContentKeys(None, class_prompts).of(images)
        if not self.recalls:
            return _nothing_known(keys, n_scores)
        found = self._scores.find_or_claim(keys)
        known = np.array([scores is not None for scores in found], dtype=bool)
        scores = np.full((len(keys), n_scores), np.nan)
        for row in np.flatnonzero(known):
            scores[row] = found[row]
        return JournalHit(keys, scores, known, 0)

    def keep(self, keys: Sequence[bytes], scores: np.ndarray, n_free: int, model: str | None = None) -> None:
        """Store the answers to images.

        Parameters
        ----------
        keys : sequence of bytes
            Keys that `recall` has returned.
        scores : ndarray of shape (n_images, n_scores)
            Scores as the service gave them.
        n_free : int
            Number of images that were not billed.
        model : str or None, default=None
            Ignored.
        """
        with self._lock:
            self.n_asked += len(keys)
        if not self._paused:
            self._scores.keep((key[:_KEY_BYTES] for key in keys), scores)

    def release(self, keys: Sequence[bytes]) -> None:
        """Let other threads send the images of these keys that have no answer."""
        self._scores.release(keys)


def _nothing_known(keys: Sequence[bytes], n_scores: int) -> JournalHit:
    """Return no answer to any image, and different keys, so that equal images are sent one by one."""
    different = [key + row.to_bytes(4) for row, key in enumerate(keys)]
    return JournalHit(different, np.full((len(keys), n_scores), np.nan), np.zeros(len(keys), bool), 0)
