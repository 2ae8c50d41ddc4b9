"""Scoring that is spread over threads, processes or machines, by the backends of joblib.

What is asked for is cut into parts, each of which goes to a worker. The answers of a part come back as soon as it is
done, in any order, and are counted, and kept in a journal, in the process that asked. So an error, or the end of a
worker, loses only what was with the workers.
"""

from __future__ import annotations

import copy
import pickle
import threading
import traceback
import weakref
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator

from ..answers import IMAGES_PER_CALL, Metered, Scored, report_not_sent, scores_of
from ..contract import ScoreFunction
from ..wrappers import ScorerWrapper
from .packing import PerDevice, PickledScorer, Shared, Source, UnknownScorerError
from .pools import JoblibPool, Pool, in_worker, in_worker_process, pool_of_context

__all__ = ["ParallelScorer", "spread"]


class ParallelScorer(ScorerWrapper, BaseEstimator):
    """A score function that is asked in several threads or processes, also on other machines.

    `BlackVIPClassifier` makes one by itself, where its `n_jobs`, or joblib's ``parallel_config``, says so. One of your
    own is for several GPUs, and for a score function that asks concurrently by itself and is to be spread all the same.
    It goes directly around the service, and `LabelMappedScorer`, `CachedScorer` and `SharedBudget` around it.

    Parameters
    ----------
    score_fn : callable
        ``score_fn(images, class_prompts) -> scores``, see `BlackVIPClassifier`. What it declares as attributes is
        passed on. Processes get it pickled, once each, and keep it; threads share it.
    n_jobs : int or None, default=None
        Workers, as in scikit-learn: None is 1 unless a ``joblib.parallel_config`` says otherwise, -1 is one for each
        core. Backends that are clusters use all their workers. Not used with `devices`.
    images_per_part : int or None, default=None
        The images of a part, which are one call of a plain function. With a number, calls are the same whatever the
        number of workers. None: an even share of what is asked for, no more than the score function takes in a call.
    devices : sequence of str or None, default=None
        For several GPUs in one machine: a copy of `score_fn` for each, with its parameter `device` set to it, and as
        many threads. No copy is called twice at a time.

    Notes
    -----
    In a worker of a search that is spread, it asks from that worker alone.

    Scores do not depend on the number of workers where a score depends on its image alone. A local model may round
    otherwise in a batch of another size; set `images_per_part` for that.

    Examples
    --------
    >>> import numpy as np
    >>> from blackvip.scorers import ParallelScorer
    >>> def service(images, class_prompts):
    ...     return images.mean(axis=(1, 2))
    >>> images = np.random.default_rng(0).integers(0, 256, (100, 8, 8, 3), np.uint8)
    >>> scores = ParallelScorer(service, n_jobs=2)(images, ["a", "b", "c"])  # two processes
    >>> np.array_equal(scores, service(images, ["a", "b", "c"]))
    True
    """

    _kept: _Asking | None = None
    _copies: PerDevice | None = None

    def __init__(
        self,
        score_fn: ScoreFunction,
        n_jobs: int | None = None,
        *,
        images_per_part: int | None = None,
        devices: Sequence[str] | None = None,
    ):
        self.score_fn = score_fn
        self.n_jobs = n_jobs
        self.images_per_part = images_per_part
        self.devices = devices

    @property
    def images_per_call(self) -> int | None:
        """The most images in one call: `images_per_part`, or what the score function declares."""
        return self.images_per_part or super().images_per_call

    @property
    def tensor_device(self) -> str:
        """The CPU: what is drawn goes to several workers, each with a device of its own."""
        return "cpu"

    def __call__(self, images: Any, class_prompts: list[str]) -> Any:
        """The scores of all images, as the score function returns them."""
        rows: list[Any] = [None] * len(images)
        is_array = True
        for places, scores in self.answers(images, class_prompts):
            is_array = not isinstance(scores, list)
            for place, row in zip(places.tolist(), scores):
                rows[place] = row
        if not rows:
            return np.empty((0, len(class_prompts)))
        return np.stack(rows) if is_array else rows

    def answers(self, images: Any, class_prompts: list[str]) -> Iterator[Scored]:
        """Answers as they come, see `blackvip.scorers.contract`.

        After an error no other part is begun; what is under way is still waited for and given, and then the error is
        raised.

        Parameters
        ----------
        images : ndarray of shape (n, height, width, 3), uint8, or tensor
            As the score function takes them.
        class_prompts : list of str
            One for each class.

        Yields
        ------
        rows : ndarray of int
            Indices into `images`; each comes once.
        scores : object
            As the score function returns them for ``images[rows]``.

        Raises
        ------
        TypeError
            If the score function counts or keeps what it answers, or cannot be sent to another process.
        """
        pool, source = self._kept or self._asking()
        if pool is None:
            yield from self._answers_here(images, list(class_prompts), source)
            return
        try:
            yield from self._answers_of(pool, images, list(class_prompts), source)
        finally:
            if self._kept is None:
                pool.close()

    def for_one_run(self, images_per_part: int | None = None) -> ParallelScorer:
        """A copy that keeps its workers from one call to the next, until it is deleted.

        Parameters
        ----------
        images_per_part : int or None, default=None
            None: as it is.

        Returns
        -------
        scorer : ParallelScorer

        Raises
        ------
        TypeError
            If the score function cannot be asked by others; nothing is sent then.
        """
        twin = ParallelScorer(**self.get_params(deep=False))
        if images_per_part is not None:
            twin.images_per_part = images_per_part
        if self.devices is not None:
            twin._copies = self._device_copies()
        twin._kept = twin._asking()
        if twin._kept.pool is not None:
            weakref.finalize(twin, twin._kept.pool.close).atexit = False
        return twin

    def _asking(self) -> _Asking:
        """Who is asked, and where they have the score function from, by joblib's context of now."""
        if isinstance(self.score_fn, ScorerWrapper):
            name = type(self.score_fn).__name__
            raise TypeError(
                f"ParallelScorer is around a {name}, which has to count or keep answers in one process; expected the "
                f"service itself. Put the {name} around the ParallelScorer."
            )
        if self.devices is not None:
            return _Asking(JoblibPool(len(self.devices), threads=True), self._device_copies())
        if in_worker():
            return _Asking(None, PickledScorer.of(self.score_fn) if in_worker_process() else Shared(self.score_fn))
        pool = pool_of_context(self.n_jobs)
        shared = pool is None or pool.shares_memory
        return _Asking(pool, Shared(self.score_fn) if shared else PickledScorer.of(self.score_fn))

    def _device_copies(self) -> PerDevice:
        with _MAKING:
            if self._copies is None or self._copies.made_for != (self.score_fn, self.devices):
                self._copies = PerDevice(self.score_fn, self.devices or ())
            return self._copies

    def _answers_here(self, images: Any, class_prompts: list[str], source: Source) -> Iterator[Scored]:
        """Answers of parts that are asked for one after another in this thread."""
        n_left = len(images)
        try:
            for part in _parts(len(images), self.images_per_part or len(images)):
                n_left -= part.stop - part.start
                with (
                    source.borrow() as score_fn,
                    closing(scores_of(score_fn, images[part], class_prompts, self.images_per_part)) as answers,
                ):
                    for rows, scores in answers:
                        yield part.start + np.asarray(rows), scores
        finally:
            report_not_sent(n_left)

    def _answers_of(self, pool: Pool, images: Any, class_prompts: list[str], source: Source) -> Iterator[Scored]:
        """Answers of parts that workers are asked for, in the order in which they are done."""
        most = super().images_per_call or IMAGES_PER_CALL
        size = self.images_per_part or _even_share(len(images), pool.n_workers(), most)
        waiting = dict(enumerate(_parts(len(images), size)))
        n_begun: dict[int, int] = {}  # images of each part that a worker has or had
        error: Exception | None = None

        def tasks(source: Source) -> Generator[_Task]:
            for number, part in list(waiting.items()):
                if error is not None:
                    return
                n_begun[number] = part.stop - part.start
                yield _Task(number, source, _for_others(images[part], source), class_prompts)

        carried = source.for_every_task if isinstance(source, PickledScorer) else source
        try:
            while waiting and error is None:
                with closing(tasks(carried)) as asked, closing(pool.results(_answer, asked)) as results:
                    for result in results:
                        if result.lacks_parcel:
                            del n_begun[result.number]  # it is asked again, with what it lacks
                            continue
                        part = waiting.pop(result.number)
                        report_not_sent(result.n_not_sent)
                        error = error or result.error
                        for rows, scores in result.pieces:
                            yield part.start + np.asarray(rows), scores
                carried = source
        finally:
            report_not_sent(len(images) - sum(n_begun.values()))
        if error is not None:
            try:
                raise error
            finally:
                error = None  # its traceback holds this frame

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name not in ("_kept", "_copies")}

    def __sklearn_clone__(self) -> ParallelScorer:
        return copy.copy(self)

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        name = getattr(self.score_fn, "__name__", type(self.score_fn).__name__)  # its repr might tell a secret
        return f"ParallelScorer({name}, n_jobs={self.n_jobs!r})"


class _Asking(NamedTuple):
    """Workers, None for this thread alone, and where they have their score function from."""

    pool: Pool | None
    source: Source


def spread(score_fn: Any, n_jobs: int | None, images_per_call: int | None) -> Any:
    """A score function whose service is asked in parallel, where joblib's context, or `n_jobs`, says so.

    Parameters
    ----------
    score_fn : callable
        What counts, keeps or maps answers stays in this process, and the service behind it is spread.
    n_jobs, images_per_call : int or None
        As of `BlackVIPClassifier`.

    Returns
    -------
    score_fn : callable
        The same object where nothing is to be spread: there is one worker, or it asks concurrently by itself.

    Raises
    ------
    TypeError
        If it cannot be sent to another process.
    """
    if isinstance(score_fn, ParallelScorer):
        return score_fn.for_one_run(images_per_call)
    if hasattr(score_fn, "with_scorer"):
        inner = spread(score_fn.score_fn, n_jobs, images_per_call)
        return score_fn if inner is score_fn.score_fn else score_fn.with_scorer(inner)
    if getattr(score_fn, "asks_concurrently", False):
        return score_fn
    parallel = ParallelScorer(score_fn, n_jobs, images_per_part=images_per_call)
    if not in_worker():
        return score_fn if pool_of_context(n_jobs) is None else parallel.for_one_run()
    if not in_worker_process():
        return score_fn
    try:
        return parallel.for_one_run()  # this process may have it already, from an earlier fit
    except TypeError:
        return score_fn


class _Task(NamedTuple):
    """A part of the images that are asked for."""

    number: int
    source: Source
    images: Any
    class_prompts: list[str]


class _Answer(NamedTuple):
    """What a worker makes of a part: answers, and the error that ended them."""

    number: int
    pieces: list[Scored]
    n_not_sent: int = 0
    error: Exception | None = None
    lacks_parcel: bool = False


def _answer(task: _Task) -> _Answer:
    """What a worker does."""
    pieces: list[Scored] = []
    error: Exception | None = None
    goes_far = isinstance(task.source, PickledScorer)
    try:
        with task.source.borrow() as score_fn:
            answers = Metered(scores_of(score_fn, task.images, task.class_prompts, len(task.images)))
            try:
                for rows, scores in answers:
                    if goes_far and hasattr(scores, "detach"):  # a tensor, which may be on a device of that machine
                        scores = scores.detach().cpu().numpy()
                    pieces.append((rows, scores))
            except Exception as raised:
                error = _portable(raised) if goes_far else raised
            finally:
                answers.close()
            return _Answer(task.number, pieces, answers.n_not_sent, error)
    except UnknownScorerError:
        return _Answer(task.number, [], lacks_parcel=True)


def _portable(error: Exception) -> Exception:
    """An error as another process can get it, with a note of where it was raised."""
    lines = traceback.format_exception(error)
    try:
        portable: Exception = pickle.loads(pickle.dumps(error))
    except Exception:
        portable = RuntimeError(f"{type(error).__name__}: {error}")
    portable.add_note(f"It was raised in a worker:\n{''.join(lines)}")
    return portable


def _even_share(n_images: int, n_workers: int, most: int) -> int:
    """Images in a part such that all workers have as many parts, of at most so many images each."""
    n_parts = n_workers * ceil(n_images / (n_workers * most))
    return ceil(n_images / max(1, n_parts))


def _parts(n_images: int, size: int) -> Iterator[slice]:
    return (slice(first, min(first + size, n_images)) for first in range(0, n_images, max(1, size)))


def _for_others(images: Any, source: Source) -> Any:
    """Images as they can be sent to workers that have their score function from `source`."""
    if isinstance(source, PickledScorer) and hasattr(images, "detach"):
        return images.detach().cpu().clone()  # of a slice, pickle would write the whole tensor
    return images


_MAKING = threading.Lock()
