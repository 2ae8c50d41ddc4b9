"""A response cache: what was answered once is not asked for again."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from ..journal.journal import Journal
from .answers import Metered, Scored, report_not_sent, scores_of
from .contract import ScoreFunction, check_scores
from .replay import ContentKeys
from .wrappers import ScorerWrapper, service_identity

__all__ = ["CachedScorer"]

_IDENTITY = {"kind": "cache of answers"}


class CachedScorer(ScorerWrapper, BaseEstimator):
    """A score function that keeps its answers in a file, and asks for nothing twice.

    It is a score function itself and takes the place of the one it wraps. An answer is found by the service, the class
    prompts and the image as it is sent, to the bit. It is on disk before it is used. Images that the cache answers are
    not counted as sent, neither by ``n_queries_`` nor by a `SharedBudget` around it.

    Parameters
    ----------
    score_fn : callable
        ``score_fn(images, class_prompts) -> scores``, see `BlackVIPClassifier`. What it declares as attributes
        is passed on.
    path : str or path-like
        The file, which is made where there is none. Several services, and several processes on one machine, may use
        one file.

    Notes
    -----
    The service is told apart by its name and by the parameters that its ``get_params`` gives, secrets left out, see
    `blackvip.scorers.contract`. A plain function is known by its name alone: when what it does has changed, delete the
    file. A service that answers one image differently each time is remembered by its first answer.

    A cache is for one service that is asked again and again, as in a search over parameters. For a fit that may be
    interrupted, use the `checkpoint` of `BlackVIPClassifier`, which remembers each answer, and says so if it belongs
    to another fit.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from blackvip import CachedScorer
    >>> def service(images, class_prompts):
    ...     print("asked for", len(images))
    ...     return images.mean(axis=(1, 2))
    >>> cached = CachedScorer(service, os.path.join(tempfile.mkdtemp(), "service.cache"))
    >>> images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    >>> scores = cached(images[:3], ["a", "b", "c"])
    asked for 3
    >>> scores = cached(images, ["a", "b", "c"])
    asked for 2
    """

    def __init__(self, score_fn: ScoreFunction, path: str | os.PathLike[str]):
        self.score_fn = score_fn
        self.path = path

    def __call__(self, images: Any, class_prompts: list[str]) -> np.ndarray:
        scores = np.empty((len(images), len(class_prompts)))
        for rows, found in self.answers(images, class_prompts):
            scores[rows] = found
        return scores

    def answers(self, images: Any, class_prompts: list[str]) -> Iterator[Scored]:
        """Answers as they come: first those of the cache, and then the others, of equal images once.

        Parameters
        ----------
        images : ndarray of shape (n, height, width, 3), uint8, or tensor
            As the score function takes them.
        class_prompts : list of str
            One for each class, as the score function is asked.

        Yields
        ------
        rows : ndarray of int
            Indices into `images`.
        scores : ndarray of shape (len(rows), n_classes), float64
            NaN where the service gave none.
        """
        journal, n_classes = self._opened(), len(class_prompts)
        keys = ContentKeys(service_identity(self.score_fn), class_prompts).of(images)
        places = [journal.find(key) for key in keys]
        known = np.array([row for row, place in enumerate(places) if place is not None], int)
        report_not_sent(len(known))
        if len(known):
            yield known, np.stack([journal.scores(place, n_classes) for place in places if place is not None])
        rows_of: dict[bytes, list[int]] = {}
        for row, (key, place) in enumerate(zip(keys, places)):
            if place is None:
                rows_of.setdefault(key, []).append(row)
        if not rows_of:
            return
        unknown, alike = list(rows_of), list(rows_of.values())
        report_not_sent(len(images) - len(known) - len(unknown))
        journal.check_usable()
        pieces = Metered(scores_of(self.score_fn, images[np.array([rows[0] for rows in alike])], class_prompts))
        try:
            for answered, answer in pieces:
                scores = check_scores(answer, len(answered), class_prompts, self.score_type)
                journal.add([unknown[index] for index in answered], scores)
                rows = np.concatenate([alike[index] for index in answered])
                yield rows, scores.repeat([len(alike[index]) for index in answered], axis=0)
        finally:
            pieces.close()

    def close(self) -> None:
        """Close the file, until it is needed again."""
        journal: Journal | None = getattr(self, "_journal", None)
        if journal is not None:
            journal.close()

    def _opened(self) -> Journal:
        """The journal, with what others have added; a process that was forked, or gets a copy, opens it anew."""
        journal: Journal | None = getattr(self, "_journal", None)
        if journal is None or journal.closed or journal.path != Path(self.path).expanduser():
            journal = self._journal = Journal(self.path, _IDENTITY, shared=True)
        journal.refresh()
        return journal

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_journal"}

    def __sklearn_clone__(self) -> CachedScorer:
        return copy.copy(self)

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        name = getattr(self.score_fn, "__name__", type(self.score_fn).__name__)  # its repr might tell a secret
        return f"CachedScorer({name}, path={os.fspath(self.path)!r})"
