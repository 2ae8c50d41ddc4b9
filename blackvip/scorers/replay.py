"""The journal of a fit as a wrapper around its score function, so that no answer is paid for twice."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..exceptions import JournalError, ModelChangedWarning, warn_caller
from ..journal.journal import Journal
from .answers import Metered, Scored, collected, report_not_sent, report_paid_before, scores_of
from .contract import ScoreFunction
from .declarations import declared, method_of
from .reader import ScoreReader
from .wrappers import ScorerWrapper

__all__ = ["ContentKeys", "JournalHit", "JournaledScorer", "Replay"]


class ContentKeys:
    """Keys of answers: digests of the service, the class prompts and the pixels that are sent.

    Parameters
    ----------
    service : object
        JSON that `service_identity` returned.
    class_prompts : iterable of str
        Prompts that are sent with the images.
    """

    def __init__(self, service: Any, class_prompts: Iterable[str]):
        self._base = hashlib.sha256(json.dumps([service, list(class_prompts)]).encode())

    def of(self, images: Any) -> list[bytes]:
        """Return a key of 32 bytes for each image.

        Parameters
        ----------
        images : ndarray or tensor of shape (n, ...)
            Images in the form in which they are sent.

        Returns
        -------
        keys : list of bytes
            Equal images of equal type and shape have equal keys.
        """
        pixels = images if isinstance(images, np.ndarray) else images.detach().cpu().numpy()
        base = self._base.copy()
        base.update(f"{pixels.dtype.str} {pixels.shape[1:]}".encode())
        keys = []
        for image in pixels:
            digest = base.copy()
            digest.update(np.ascontiguousarray(image).data)
            keys.append(digest.digest())
        return keys


class JournalHit(NamedTuple):
    """The known answers to some images.

    Attributes
    ----------
    keys : list of bytes
        Keys under which the answers of these images are kept.
    scores : ndarray of shape (n_images, n_scores)
        NaN for images without an answer.
    known : ndarray of shape (n_images,), bool
        Whether the journal has an answer.
    n_billed : int
        Number of known answers that were billed.
    """

    keys: list[bytes]
    scores: np.ndarray
    known: np.ndarray
    n_billed: int


class Recalls(Protocol):
    """A store of answers, such as the journal of a fit or the memory of an estimator."""

    @property
    def n_known(self) -> int: ...

    def recall(self, images: Any, class_prompts: Sequence[str], n_scores: int) -> JournalHit: ...

    def keep(self, keys: Sequence[bytes], scores: np.ndarray, n_free: int, model: str | None = None) -> None: ...

    def release(self, keys: Sequence[bytes]) -> None: ...


class Replay:
    """Journal of a fit, read in the order of the fit: the k-th request for an image gets its k-th answer.

    A fit requests the same images each time it runs. The order in which answers arrived therefore does not matter, and
    a service that answers the same image differently each time is replayed faithfully.

    Parameters
    ----------
    journal : Journal
        The open journal.
    service : object
        JSON that `service_identity` returned.
    seed : int
        Seed of the fit.

    Attributes
    ----------
    off_path : bool
        Set this to True when the requests that follow would not be made by an uninterrupted fit.
    n_known : int
        Images that were billed and need not be billed again.
    """

    def __init__(self, journal: Journal, service: Any, seed: int):
        self.journal = journal
        self.service = service
        self.seed = seed
        self.off_path = False
        self.n_known = journal.n_answers - journal.n_free
        # Answers on the fit's path that it has not requested yet.
        self._n_left = journal.n_answers - journal.n_off_path
        self._n_requests: Counter[bytes] = Counter()
        # The model that answered last, if it is known, and whether none has answered in this process.
        self._model = next(iter(reversed(self._models)), None)
        self._is_first = True

    def recall(self, images: Any, class_prompts: Sequence[str], n_scores: int) -> JournalHit:
        """Look up images that are about to be sent.

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

        Raises
        ------
        JournalError
            If some images would have to be sent although the journal has answers that the fit did not request. The
            fit then makes other images than before, and would pay for all of them again.
        """
        keys = [self._next_key(content) for content in ContentKeys(self.service, class_prompts).of(images)]
        scores = np.full((len(keys), n_scores), np.nan)
        known = np.zeros(len(keys), bool)
        n_billed = 0
        for row, answer in enumerate(self.journal.find(keys, n_scores)):
            if answer is not None:
                scores[row], known[row] = answer.scores, True
                n_billed += answer.billed
                self._n_left -= not answer.off_path
        if not known.all():
            self._check_path()
            self.journal.check_usable()
        return JournalHit(keys, scores, known, n_billed)

    def keep(self, keys: Sequence[bytes], scores: np.ndarray, n_free: int, model: str | None = None) -> None:
        """Write new answers; they are on disk when this returns.

        Parameters
        ----------
        keys : sequence of bytes
            Keys that `recall` has returned.
        scores : ndarray of shape (n_images, n_scores)
            Scores as the service gave them.
        n_free : int
            Number of images that were not billed.
        model : str or None, default=None
            Name of the model that answered, if it is known.

        Raises
        ------
        JournalError
            If they cannot be written.
        """
        self.journal.add(keys, scores, n_free, self.off_path)
        if model is not None:
            self._note(model)

    def release(self, keys: Sequence[bytes]) -> None:
        """Do nothing: a fit sends its images in one thread."""

    def _note(self, model: str) -> None:
        """Add the name of a model to those that answered, and warn if another one answered before this process."""
        is_first, self._is_first = self._is_first, False
        if model == self._model:
            return
        # The score function itself warns of a change between two answers.
        if is_first and self._model is not None:
            warn_caller(
                f"The model {model!r} answers, but the answers so far in {os.fspath(self.journal.path)!r} came from "
                f"{self._model!r}; expected one model for the whole fit. The fit continues with the scores of both. "
                "Give another checkpoint to begin again, or let the service answer with the earlier model.",
                ModelChangedWarning,
            )
        models = [name for name in self._models if name != model]
        self.journal.set_fact("models", [*models, model])
        self._model = model

    @property
    def _models(self) -> list[str]:
        """Names of the models that answered, the last one at the end."""
        return [str(name) for name in self.journal.facts.get("models", [])]

    def _next_key(self, content: bytes) -> bytes:
        number = self._n_requests[content]
        self._n_requests[content] += 1
        return hashlib.sha256(content + number.to_bytes(8, "little")).digest()

    def _check_path(self) -> None:
        if self._n_left > 0 and not self.off_path:
            raise JournalError(
                f"The journal {os.fspath(self.journal.path)!r} has answers for {self._n_left} images that this fit "
                "does not request. Its prompts are computed differently from those that were paid for, as after an "
                "update of torch or NumPy, on another machine, or with another number of threads. Nothing more was "
                "sent. Continue where the journal was made, or give another checkpoint to pay again."
            )


def _repeats(hit: JournalHit) -> dict[int, list[int]]:
    """Find rows of images without an answer that repeat an earlier row; return them by that row."""
    first_of: dict[bytes, int] = {}
    repeats: dict[int, list[int]] = {}
    for row in np.flatnonzero(~hit.known).tolist():
        first = first_of.setdefault(hit.keys[row], row)
        if first != row:
            repeats.setdefault(first, []).append(row)
    return repeats


class JournaledScorer(ScorerWrapper):
    """Score function that answers from a journal or a memory first, and stores every new answer there.

    Images that an earlier process of the fit paid for count as sent, so that a resumed fit reports its total cost.

    Parameters
    ----------
    score_fn : callable
        ``score_fn(images, class_prompts) -> scores``, see `blackvip.scorers.contract`.
    replay : Replay or AnswerMemory
        The store of answers.
    reader : ScoreReader
        Checks answers before they are written. Share it with the ledger, which recognises their format.
    images_per_call : int or None, default=None
        The most images in one call. None: what `score_fn` declares.
    """

    def __init__(
        self, score_fn: ScoreFunction, replay: Recalls, reader: ScoreReader, images_per_call: int | None = None
    ):
        self.score_fn = score_fn
        self._replay = replay
        self._reader = reader
        self._images_per_call = images_per_call
        self._lease: Any = None
        self._n_leased = 0

    @property
    def images_per_call(self) -> int | None:
        """The most images in one call."""
        return self._images_per_call or super().images_per_call

    @property
    def streams(self) -> bool:
        """Whether the score function inside makes its own calls."""
        streams: bool = declared(self.score_fn, "streams", method_of(self.score_fn, "answers") is not None)
        return streams

    @contextmanager
    def lease(self, n_images: int) -> Iterator[JournaledScorer]:
        """Reserve the images that the journal does not have, if the score function inside shares a budget."""
        lease = method_of(self.score_fn, "lease")
        if lease is None:
            yield self
            return
        twin = copy.copy(self)
        twin._n_leased = max(0, n_images - self._replay.n_known)
        with lease(twin._n_leased) as twin._lease:
            yield twin

    def __call__(self, images: Any, class_prompts: list[str]) -> np.ndarray:
        n_scores = self._reader.n_scores(class_prompts)
        scores: np.ndarray = collected(self.answers(images, class_prompts), len(images), n_scores)
        return scores

    def answers(self, images: Any, class_prompts: list[str]) -> Iterator[Scored]:
        """Yield known answers first, then the others as they arrive; see `blackvip.scorers.contract`."""
        n_left, keys = len(images), []
        try:
            hit = self._replay.recall(images, class_prompts, self._reader.n_scores(class_prompts))
            keys = hit.keys
            known = np.flatnonzero(hit.known)
            n_left -= len(known)
            report_not_sent(len(known) - hit.n_billed)
            report_paid_before(hit.n_billed)
            if len(known):
                yield known, hit.scores[known]
            # Equal images with one key are sent once. In the journal of a fit, no two requests share a key.
            repeats_of = _repeats(hit)
            to_send = ~hit.known
            to_send[[row for rows in repeats_of.values() for row in rows]] = False
            n_repeats = n_left - int(to_send.sum())
            n_left -= n_repeats
            report_not_sent(n_repeats)
            # Calls have the same boundaries whatever is known, so that a local model gets the same batches.
            at_most = None if self.streams else self.images_per_call
            size = self._images_per_call or at_most or len(images)
            for first in range(0, len(images), size):
                rows = first + np.flatnonzero(to_send[first : first + size])
                if not len(rows):
                    continue
                n_left -= len(rows)
                for answered, scores in self._sent(images, rows, hit, class_prompts):
                    yield answered, scores
                    for row, row_scores in zip(answered.tolist(), scores):
                        if row in repeats_of:
                            again = np.array(repeats_of[row])
                            yield again, np.tile(row_scores, (len(again), 1))
        finally:
            report_not_sent(n_left)
            self._replay.release(keys)

    def _sent(self, images: Any, rows: np.ndarray, hit: JournalHit, class_prompts: list[str]) -> Iterator[Scored]:
        """Send ``images[rows]``, write what arrives, and yield it."""
        part = images if len(rows) == len(images) else images[rows]
        # What goes beyond the lease reserves its own images.
        leased = self._lease is not None and len(rows) <= self._n_leased
        pieces = Metered(
            scores_of(self._lease if leased else self.score_fn, part, class_prompts, self._images_per_call)
        )
        n_free = 0
        self._n_leased -= len(rows) * leased
        try:
            for answered, answer in pieces:
                n_free, n_free_before = pieces.n_not_sent, n_free
                scores = self._reader.check(answer, len(answered), class_prompts)
                keys = [hit.keys[row] for row in rows[answered]]
                self._replay.keep(keys, scores, n_free - n_free_before, declared(self.score_fn, "model_"))
                yield rows[answered], scores
        finally:
            pieces.close()
            self._n_leased += pieces.n_not_sent * leased
