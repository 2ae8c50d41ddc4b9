"""Vectors of images that were paid for, kept for other class prompts."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator

from ..answers import Metered, Scored, collected, report_not_sent, scores_of
from ..identity import service_identity
from ..replay import ContentKeys
from ..shared_answers import SharedAnswers
from ..wrappers import ForwardsAttributes, LeavesOutLive
from .scorer import HTTPScorer

__all__ = ["EmbeddingCache"]

_MAKING = threading.Lock()


class EmbeddingCache(LeavesOutLive, ForwardsAttributes, BaseEstimator):
    """Cache of image vectors: a score function with which other class prompts for known images cost nothing.

    Scores are those of `Embeddings`. An image is sent when it comes for the first time, and each list of class prompts
    is embedded once. If several threads have the same new image at the same time, one sends it and the others wait for
    its vector. Images whose vectors are known do not count as sent, neither in ``n_queries_`` nor in a `SharedBudget`
    around the cache.

    Parameters
    ----------
    score_fn : HTTPScorer
        A service whose adapter is `ImageVectors`.

    Attributes
    ----------
    n_images_ : int
        Number of images whose vectors are known.

    Notes
    -----
    Vectors are found by the service, with its adapter's parameters, and the exact pixels that are sent. They stay in
    memory, four bytes per dimension. Clones share them; pickles and deep copies leave them out, since they
    reveal much about the images. To resume a fit after a crash, set its `checkpoint`; to share scores with other
    processes, use a `CachedScorer`.

    Examples
    --------
    >>> from blackvip.scorers.http import EmbeddingCache, HTTPScorer, ImageVectors
    >>> cached = EmbeddingCache(HTTPScorer("http://localhost:8000/v1", ImageVectors("my-clip", "vllm")))
    >>> cached.n_images_
    0
    """

    asks_concurrently = True
    _live_attributes = ("_vectors",)
    _parameter_constraints = {"score_fn": [HTTPScorer]}  # noqa: RUF012

    def __init__(self, score_fn: HTTPScorer):
        self.score_fn = score_fn

    @property
    def vector_size(self) -> int | None:
        """Size of the vectors at the end of the scores, as the adapter declares."""
        return self.score_fn.vector_size

    def __call__(self, images: np.ndarray, class_prompts: list[str]) -> np.ndarray:
        """Return the scores (n_images, n_scores) of all images, NaN for those that the service refuses."""
        scores: np.ndarray = collected(self.answers(images, class_prompts), len(images), len(class_prompts))
        return scores

    def answers(self, images: np.ndarray, class_prompts: list[str]) -> Iterator[Scored]:
        """Yield scores as they arrive: first those of known vectors, then the others, with equal images sent once.

        It first waits for the vectors of images that other threads have sent. If such a thread fails, this one sends
        what is missing.

        Parameters
        ----------
        images : ndarray of shape (n, height, width, 3), uint8
        class_prompts : list of str

        Yields
        ------
        rows : ndarray of int
            Indices into `images`.
        scores : ndarray of shape (len(rows), n_scores), float64
            See `Embeddings.similarities`.

        Raises
        ------
        TypeError
            If the adapter returns no vectors.
        """
        self._validate_params()
        if not hasattr(self.score_fn.adapter, "similarities") or not self.score_fn.adapter.fixed_labels:
            raise TypeError(
                f"The adapter is {type(self.score_fn.adapter).__name__}, which returns no vectors; expected "
                "ImageVectors, with the parameters of Embeddings."
            )
        vectors = self._kept()
        adapter: Any = self.score_fn.prepared(class_prompts)
        keys = ContentKeys(service_identity(self.score_fn), []).of(images)
        found = vectors.find_or_claim(keys)
        rows_of: dict[bytes, list[int]] = {}
        for row in [row for row, vector in enumerate(found) if vector is None]:
            rows_of.setdefault(keys[row], []).append(row)
        try:
            known = np.array([row for row, vector in enumerate(found) if vector is not None], int)
            report_not_sent(len(known))
            if len(known):
                yield known, adapter.similarities(np.stack([vector for vector in found if vector is not None]))
            if rows_of:
                yield from self._sent(images, class_prompts, rows_of, adapter, vectors)
        finally:
            vectors.release(rows_of)

    def _sent(
        self, images: np.ndarray, class_prompts: list[str], rows_of: dict[bytes, list[int]], adapter: Any, vectors: Any
    ) -> Iterator[Scored]:
        """Send images, given by the rows of each key, and yield the scores of all of their rows as they arrive."""
        unknown, alike = list(rows_of), list(rows_of.values())
        report_not_sent(sum(map(len, alike)) - len(unknown))
        pieces = Metered(scores_of(self.score_fn, images[[rows[0] for rows in alike]], class_prompts))
        try:
            for answered, piece in pieces:
                scores = np.full((len(answered), len(class_prompts) + (self.vector_size or 0)), np.nan)
                # Of refused images, there are empty dicts.
                if isinstance(piece, np.ndarray):
                    vectors.keep([unknown[index] for index in answered], piece.astype(np.float32))
                    scores = adapter.similarities(piece)
                rows = np.concatenate([alike[index] for index in answered])
                yield rows, scores.repeat([len(alike[index]) for index in answered], axis=0)
        finally:
            pieces.close()

    @property
    def n_images_(self) -> int:
        """Number of images whose vectors are known."""
        return len(self._kept())

    def clear(self) -> None:
        """Forget all vectors."""
        self._kept().clear()

    def _kept(self) -> SharedAnswers:
        """Return the vectors (n_dimensions,), float32, by the images' keys."""
        with _MAKING:
            if not hasattr(self, "_vectors"):
                self._vectors = SharedAnswers()
            return self._vectors

    def __copy__(self) -> Self:
        twin = type(self)(self.score_fn)
        twin._vectors = self._kept()
        return twin

    def __sklearn_clone__(self) -> Self:
        return copy.copy(self)
