"""Score functions that return answers that were paid for before."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..exceptions import BudgetError
from ..journal.journal import Journal
from .answers import Metered, Scored, collected, report_not_sent, scores_of
from .checkpoint import warn_of_new_code
from .contract import ScoreFunction
from .identity import instructions_of, service_identity
from .reader import ScoreReader
from .replay import ContentKeys
from .wrappers import WrapperEstimator, scorer_name

__all__ = ["CachedScorer", "PaidAnswers"]

_IDENTITY = {"kind": "cache of answers"}


class CachedScorer(WrapperEstimator):
    """A score function that keeps its answers in a file and never asks for the same one twice.

    It is a score function itself and takes the place of the one it wraps. An answer is found by the service, the class
    prompts and the exact pixels that are sent. It is on disk before it is used. Images that the cache answers do not
    count as sent, neither in ``n_queries_`` nor in a `SharedBudget` around the cache.

    Parameters
    ----------
    score_fn : callable
        ``score_fn(images, class_prompts) -> scores``, see `BlackVIPClassifier`. The cache declares what it declares.
    path : str or path-like
        The file; it is created if it does not exist. Several services, and several processes on one machine, may share
        a file.

    Notes
    -----
    A service is identified by its name and by the parameters, closed-over variables and bound arguments that
    distinguish it from others of its class or function, without secrets; or by its attribute ``identity``, see
    `blackvip.scorers.contract`. If the code of a function has changed, a warning says so: give another file if it
    answers differently now. If a service answers the same image differently each time, the cache keeps its first
    answer.

    A cache is meant for a service that is called again and again, as in a search over parameters. For a fit that may
    be interrupted, use the `checkpoint` of `BlackVIPClassifier`: it keeps every answer, and raises an error if it
    belongs to another fit.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from blackvip import CachedScorer
    >>> def service(images, class_prompts):
    ...     print("received", len(images))
    ...     return images.mean(axis=(1, 2))
    >>> cached = CachedScorer(service, os.path.join(tempfile.mkdtemp(), "service.cache"))
    >>> images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    >>> scores = cached(images[:3], ["a", "b", "c"])
    received 3
    >>> scores = cached(images, ["a", "b", "c"])
    received 2
    """

    _live_attributes = ("_journal", "_compared")
    _journal: Journal | None = None
    _compared: tuple[Journal, str] | None = None

    def __init__(self, score_fn: ScoreFunction, path: str | os.PathLike[str]):
        self.score_fn = score_fn
        self.path = path

    def __call__(self, images: Any, class_prompts: list[str]) -> np.ndarray:
        scores: np.ndarray = collected(self.answers(images, class_prompts), len(images), len(class_prompts))
        return scores

    def answers(self, images: Any, class_prompts: list[str]) -> Iterator[Scored]:
        """Yield scores as they arrive: first those in the cache, then the others, with equal images sent once.

        Parameters
        ----------
        images : ndarray of shape (n, height, width, 3), uint8, or tensor
            Images in the form that the score function takes.
        class_prompts : list of str
            Prompts that the scores belong to.

        Yields
        ------
        rows : ndarray of int
            Indices into `images`.
        scores : ndarray of shape (len(rows), n_scores), float64
            NaN where the service returned no score.
        """
        journal, reader = self._opened(), ScoreReader.of(self.score_fn)
        service = service_identity(self.score_fn)
        code = self._code_to_keep(journal, service)
        keys = ContentKeys(service, class_prompts).of(images)
        found = journal.find(keys, reader.n_scores(class_prompts))
        known = np.array([row for row, answer in enumerate(found) if answer is not None], int)
        report_not_sent(len(known))
        if len(known):
            yield known, np.stack([answer.scores for answer in found if answer is not None])
        rows_of: dict[bytes, list[int]] = {}
        for row, (key, answer) in enumerate(zip(keys, found)):
            if answer is None:
                rows_of.setdefault(key, []).append(row)
        if not rows_of:
            return
        unknown, alike = list(rows_of), list(rows_of.values())
        report_not_sent(len(images) - len(known) - len(unknown))
        journal.check_usable()
        pieces = Metered(scores_of(self.score_fn, images[np.array([rows[0] for rows in alike])], class_prompts))
        try:
            for answered, piece in pieces:
                scores = reader.check(piece, len(answered), class_prompts)
                journal.add([unknown[index] for index in answered], scores)
                if code is not None and np.isfinite(scores).any():
                    journal.add(*code, n_free=1)
                    code = None
                rows = np.concatenate([alike[index] for index in answered])
                yield rows, scores.repeat([len(alike[index]) for index in answered], axis=0)
        finally:
            pieces.close()

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        if self._journal is not None:
            self._journal.close()

    def _code_to_keep(self, journal: Journal, service: Any) -> tuple[list[bytes], np.ndarray] | None:
        """Return the key and a digest of the score function's code if the file has none; warn if it has another."""
        digest = instructions_of(self.score_fn)
        if digest is None or self._compared == (journal, digest):
            return None
        key = hashlib.sha256(json.dumps(["instructions", service]).encode()).digest()
        own = np.frombuffer(bytes.fromhex(digest), np.uint8).astype(np.float64)
        known = journal.find([key], len(own))[0]
        if known is None:
            return [key], own[None]
        self._compared = journal, digest
        if not np.array_equal(known.scores, own):
            warn_of_new_code(self.score_fn, self.path)
        return None

    def _opened(self) -> Journal:
        """Return the open journal; a copy, or a scorer whose file was deleted, opens a new one."""
        journal = self._journal
        if journal is None or journal.closed or journal.path != Path(self.path).expanduser():
            journal = self._journal = Journal(self.path, _IDENTITY, shared=True)
        return journal

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        return f"CachedScorer({scorer_name(self.score_fn)}, path={os.fspath(self.path)!r})"


class PaidAnswers:
    """Score function that knows the log scores of some images, and calls no service.

    Parameters
    ----------
    images : ndarray of shape (n, height, width, 3), uint8
        The images.
    log_scores : ndarray of shape (n, n_classes)
        Their log scores.
    """

    score_type = "logits"
    # There is no service whose calls could be spread.
    asks_concurrently = True

    def __init__(self, images: np.ndarray, log_scores: np.ndarray):
        self._answers = {image.tobytes(): scores for image, scores in zip(images, log_scores)}

    def __call__(self, images: np.ndarray, class_prompts: Sequence[str]) -> np.ndarray:
        unknown = sum(image.tobytes() not in self._answers for image in images)
        if unknown:
            raise BudgetError(
                f"{unknown} of {len(images)} images were never sent to the service, and a callback may not send any "
                "during a fit. Score the X and y that the hook is given."
            )
        return np.stack([self._answers[image.tobytes()] for image in images])
