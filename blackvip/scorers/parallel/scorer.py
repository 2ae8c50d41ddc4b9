"""Scoring spread over threads, processes or machines by joblib's backends.

The images are cut into parts, each of which goes to a worker. The scores of a part come back when it is done, in
any order, and the calling process counts them and writes them to the journal. An error, or the loss of a worker, loses
only the parts that the workers have.
"""

from __future__ import annotations

import pickle
import threading
import traceback
import weakref
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from math import ceil
from typing import Any, NamedTuple

import numpy as np

from ..answers import IMAGES_PER_CALL, Metered, Scored, collected, report_not_sent, rows_of, scores_of
from ..contract import ScoreFunction
from ..declarations import declared, method_of
from ..wrappers import ScorerWrapper, WrapperEstimator, scorer_name
from .packing import PerDevice, PickledScorer, Shared, Source, UnknownScorerError
from .pools import JoblibPool, Pool, in_worker, in_worker_process, pool_of_context

__all__ = ["ParallelScorer", "spread"]


class ParallelScorer(WrapperEstimator):
    """A score function that runs in several threads or processes, also on other machines.

    `BlackVIPClassifier` makes one if its `n_jobs` or joblib's ``parallel_config`` selects several workers.
    Make your own for several GPUs, or to spread a score function that already makes concurrent requests. Wrap it
    directly around the service, and `LabelMappedScorer`, `CachedScorer` and `SharedBudget` around it.

    Parameters
    ----------
    score_fn : callable
        ``score_fn(images, class_prompts) -> scores``, see `BlackVIPClassifier`. The scorer declares what it declares.
        Each process gets it pickled, once, and keeps it; threads share it.
    n_jobs : int or None, default=None
        Number of workers, as in scikit-learn: None means 1 unless ``joblib.parallel_config`` sets another number, -1
        means one for each core. Cluster backends use all their workers. Ignored if `devices` is given.
    images_per_part : int or None, default=None
        Images in one part, which is one call of a plain function. A number makes the calls independent of the number
        of workers. None: an even share of the images, at most what the score function takes in a call.
    devices : sequence of str or None, default=None
        For several GPUs in one machine: one copy of `score_fn` and one thread for each device, with the copy's
        parameter `device` set to it. Each copy serves one call at a time.

    Notes
    -----
    Inside a worker of a parallel search, it runs in that worker alone.

    Scores do not depend on the number of workers if each score depends on its own image alone. A local model may round
    differently in batches of another size; set `images_per_part` to avoid this.

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

    _live_attributes = ("_kept", "_copies")
    _kept: _Workers | None = None
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
        """The most images in one call: `images_per_part`, else what the score function declares."""
        return self.images_per_part or super().images_per_call

    @property
    def tensor_device(self) -> str:
        """The CPU, since prompted images go to several workers with devices of their own."""
        return "cpu"

    def __call__(self, images: Any, class_prompts: list[str]) -> Any:
        """Return the scores of all images in the form that the score function returns."""
        return collected(self.answers(images, class_prompts), len(images), len(class_prompts))

    def answers(self, images: Any, class_prompts: list[str]) -> Iterator[Scored]:
        """Yield scores as they arrive, see `blackvip.scorers.contract`.

        After an error, no new part starts. Parts under way are still completed and yielded, and then the error is
        raised.

        Parameters
        ----------
        images : ndarray of shape (n, height, width, 3), uint8, or tensor
            Images in the form that the score function takes.
        class_prompts : list of str
            Prompts that the scores belong to.

        Yields
        ------
        rows : ndarray of int
            Indices into `images`; each comes once.
        scores : object
            Return value of the score function for ``images[rows]``.

        Raises
        ------
        TypeError
            If the score function counts or keeps answers, or cannot be sent to another process.
        """
        pool, source = self._kept or self._workers()
        if pool is None:
            yield from self._score_here(images, list(class_prompts), source)
            return
        try:
            yield from self._score_in_pool(pool, images, list(class_prompts), source)
        finally:
            if self._kept is None:
                pool.close()

    def for_one_run(self, images_per_part: int | None = None) -> ParallelScorer:
        """Return a copy that keeps its workers from one call to the next, until it is deleted.

        Parameters
        ----------
        images_per_part : int or None, default=None
            The copy's `images_per_part`. None: unchanged.

        Returns
        -------
        scorer : ParallelScorer
            The copy.

        Raises
        ------
        TypeError
            If the score function cannot run in the workers; nothing is sent then.
        """
        twin = ParallelScorer(**self.get_params(deep=False))
        if images_per_part is not None:
            twin.images_per_part = images_per_part
        if self.devices is not None:
            twin._copies = self._device_copies()
        twin._kept = twin._workers()
        if twin._kept.pool is not None:
            weakref.finalize(twin, twin._kept.pool.close).atexit = False
        return twin

    def _workers(self) -> _Workers:
        """Return the workers, by joblib's current context, and where they get their score function."""
        if isinstance(self.score_fn, ScorerWrapper):
            name = type(self.score_fn).__name__
            raise TypeError(
                f"ParallelScorer wraps a {name}, which must count or keep answers in one process; expected the "
                f"service itself. Wrap the {name} around the ParallelScorer instead."
            )
        if self.devices is not None:
            return _Workers(JoblibPool(len(self.devices), threads=True), self._device_copies())
        if in_worker():
            return _Workers(None, PickledScorer.of(self.score_fn) if in_worker_process() else Shared(self.score_fn))
        pool = pool_of_context(self.n_jobs)
        shared = pool is None or pool.shares_memory
        return _Workers(pool, Shared(self.score_fn) if shared else PickledScorer.of(self.score_fn))

    def _device_copies(self) -> PerDevice:
        with _MAKING:
            if self._copies is None or self._copies.made_for != (self.score_fn, self.devices):
                self._copies = PerDevice(self.score_fn, self.devices or ())
            return self._copies

    def _score_here(self, images: Any, class_prompts: list[str], source: Source) -> Iterator[Scored]:
        """Score one part after another in this thread."""
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

    def _score_in_pool(self, pool: Pool, images: Any, class_prompts: list[str], source: Source) -> Iterator[Scored]:
        """Score parts in the pool's workers, and yield them in the order in which they are done."""
        most = super().images_per_call or IMAGES_PER_CALL
        size = self.images_per_part or _even_share(len(images), pool.n_workers(), most)
        waiting = dict(enumerate(_parts(len(images), size)))
        # Number of images of each part that a worker has or had.
        n_begun: dict[int, int] = {}
        error: Exception | None = None

        def tasks(source: Source) -> Generator[_Task]:
            for number, part in list(waiting.items()):
                if error is not None:
                    return
                n_begun[number] = part.stop - part.start
                yield _Task(number, source, _for_workers(images[part], source), class_prompts)

        carried = source.for_every_task
        try:
            while waiting and error is None:
                with closing(tasks(carried)) as begun, closing(pool.results(_score_part, begun)) as results:
                    for result in results:
                        if result.lacks_scorer:
                            # The next round sends it again, with the scorer.
                            del n_begun[result.number]
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
                # The error's traceback holds this frame.
                error = None

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        return f"ParallelScorer({scorer_name(self.score_fn)}, n_jobs={self.n_jobs!r})"


class _Workers(NamedTuple):
    """A pool, None for this thread alone, and where its workers get their score function."""

    pool: Pool | None
    source: Source


def spread(score_fn: Any, n_jobs: int | None, images_per_call: int | None) -> Any:
    """Spread the service inside a score function over the workers that `n_jobs` or joblib's context selects.

    Parameters
    ----------
    score_fn : callable
        Wrappers that count, keep or map answers stay in this process; the service inside them is spread.
    n_jobs, images_per_call : int or None
        As for `BlackVIPClassifier`.

    Returns
    -------
    score_fn : callable
        The same object if nothing is to be spread: there is one worker, or it makes concurrent requests of its own.

    Raises
    ------
    TypeError
        If it cannot be sent to another process.
    """
    if isinstance(score_fn, ParallelScorer):
        return score_fn.for_one_run(images_per_call)
    if method_of(score_fn, "with_scorer") is not None:
        inner = spread(score_fn.score_fn, n_jobs, images_per_call)
        return score_fn if inner is score_fn.score_fn else score_fn.with_scorer(inner)
    if declared(score_fn, "asks_concurrently", False):
        return score_fn
    parallel = ParallelScorer(score_fn, n_jobs, images_per_part=images_per_call)
    if not in_worker():
        return score_fn if pool_of_context(n_jobs) is None else parallel.for_one_run()
    if not in_worker_process():
        return score_fn
    try:
        # This process may have the scorer already, from an earlier fit.
        return parallel.for_one_run()
    except TypeError:
        return score_fn


class _Task(NamedTuple):
    """A part of the images, to be scored by a worker."""

    number: int
    source: Source
    images: Any
    class_prompts: list[str]


class _Result(NamedTuple):
    """The scores of a part, and the error that ended it, if any."""

    number: int
    pieces: list[Scored]
    n_not_sent: int = 0
    error: Exception | None = None
    lacks_scorer: bool = False


def _score_part(task: _Task) -> _Result:
    """Score a part, in a worker."""
    pieces: list[Scored] = []
    error: Exception | None = None
    try:
        with task.source.borrow() as score_fn:
            answers = Metered(scores_of(score_fn, task.images, task.class_prompts, len(task.images)))
            try:
                for rows, scores in answers:
                    # A copy, since the score function may reuse the array, or have it on a device of its machine.
                    pieces.append((rows, rows_of(scores, len(rows))))
            except Exception as raised:
                error = _portable(raised) if task.source.is_remote else raised
            finally:
                answers.close()
            return _Result(task.number, pieces, answers.n_not_sent, error)
    except UnknownScorerError:
        return _Result(task.number, [], lacks_scorer=True)


def _portable(error: Exception) -> Exception:
    """Return an error that can be pickled, with a note about where it was raised."""
    lines = traceback.format_exception(error)
    try:
        portable: Exception = pickle.loads(pickle.dumps(error))
    except Exception:
        portable = RuntimeError(f"{type(error).__name__}: {error}")
    portable.add_note(f"It was raised in a worker:\n{''.join(lines)}")
    return portable


def _even_share(n_images: int, n_workers: int, most: int) -> int:
    """Return the size of a part, at most `most`, such that all workers get equally many parts."""
    n_parts = n_workers * ceil(n_images / (n_workers * most))
    return ceil(n_images / max(1, n_parts))


def _parts(n_images: int, size: int) -> Iterator[slice]:
    return (slice(first, min(first + size, n_images)) for first in range(0, n_images, max(1, size)))


def _for_workers(images: Any, source: Source) -> Any:
    """Return images in a form that can be sent to workers with this source."""
    if source.is_remote and hasattr(images, "detach"):
        # pickle would write the whole tensor of a slice.
        return images.detach().cpu().clone()
    return images


_MAKING = threading.Lock()
