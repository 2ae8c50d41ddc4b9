"""Workers that joblib's context offers: threads, processes, or a cluster's; and whether this runs in one of them."""

from __future__ import annotations

import itertools
import multiprocessing
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from typing import Any

import joblib
from joblib.parallel import get_active_backend

__all__ = ["DaskPool", "JoblibPool", "Pool", "in_worker", "in_worker_process", "pool_of_context"]


class JoblibPool:
    """The workers of a backend of joblib, which are kept until it is closed.

    Parameters
    ----------
    n_jobs : int or None
        As of `joblib.Parallel`.
    threads : bool
        Whether they are threads, whatever the context says.

    Attributes
    ----------
    shares_memory : bool
        Whether what they get is not copied.
    """

    def __init__(self, n_jobs: int | None, threads: bool = False):
        with joblib.parallel_config("threading") if threads else nullcontext():
            backend = get_active_backend()[0]
            self.shares_memory: bool = getattr(backend, "supports_sharedmem", False)
            self._streams = backend.supports_return_generator
            self._parallel = joblib.Parallel(
                n_jobs,
                return_as="generator_unordered" if self._streams else "list",
                batch_size=1,
                pre_dispatch="all",
                max_nbytes=None,  # else large images would come as files that cannot be written to
            )
            self._n_workers = joblib.effective_n_jobs(n_jobs)
        self._entered = False

    def n_workers(self) -> int:
        """How many there are now."""
        return self._n_workers

    def results(self, function: Callable[[Any], Any], tasks: Iterator[Any]) -> Generator[Any]:
        """What a function returns for each task, as soon as it is done.

        They are begun by rounds, of a task for each worker: joblib would begin another before it is known here that
        one has failed.
        """
        if not self._entered:
            self._parallel.__enter__()
            self._entered = True
        while some := [joblib.delayed(function)(task) for task in itertools.islice(tasks, self._n_workers)]:
            results = self._parallel(some)
            try:
                yield from results
            finally:
                if self._streams:
                    with warnings.catch_warnings():  # of results that nobody uses: an error in their use says why
                        warnings.simplefilter("ignore")
                        results.close()

    def close(self) -> None:
        """End the workers, or give them back."""
        if self._entered:
            self._entered = False
            self._parallel.__exit__(None, None, None)


class DaskPool:
    """The workers of a dask cluster, which is asked directly.

    joblib's own way to it is for computations that cost nothing to repeat: when a worker ends, it lets the cluster
    compute again what has been answered already, and it waits forever for a task that the cluster gives up.

    Parameters
    ----------
    backend : joblib.parallel.ParallelBackendBase
        joblib's, for dask: it has the client.
    n_jobs : int or None
        The most tasks at a time; None, or less than 0: one for each thread of the cluster.
    """

    shares_memory = False

    def __init__(self, backend: Any, n_jobs: int | None):
        self._backend = backend
        self._client = backend.client
        self._most = n_jobs if n_jobs is not None and n_jobs > 0 else None

    def n_workers(self) -> int:
        """How many threads the cluster has now; it is waited for if it has none."""
        n_threads: int = self._backend.effective_n_jobs(-1)
        return n_threads if self._most is None else min(self._most, n_threads)

    def results(self, function: Callable[[Any], Any], tasks: Iterator[Any]) -> Generator[Any]:
        """What a function returns for each task, as soon as it is done; no more are begun than there are workers."""
        from distributed import as_completed

        def begun(n: int) -> list[Any]:
            with warnings.catch_warnings():  # of large images in a task: what is scattered ends with one worker
                warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
                return [self._client.submit(function, task, pure=False) for task in itertools.islice(tasks, n)]

        running = as_completed(begun(self.n_workers()), loop=self._client.loop)
        try:
            for future in running:
                result = future.result()
                future.release()  # or the cluster would compute it again if its worker ended
                yield result
                running.update(begun(1))
        finally:
            self._client.cancel(list(running.futures))

    def close(self) -> None:
        """Nothing: the cluster stays its owner's."""


Pool = JoblibPool | DaskPool


def pool_of_context(n_jobs: int | None) -> Pool | None:
    """The workers that `n_jobs` and joblib's ``parallel_config`` ask for; None for a single one in this process."""
    if n_jobs == 1:
        return None
    backend, n_of_context = get_active_backend()
    if hasattr(backend, "client"):
        return DaskPool(backend, n_of_context if n_jobs is None else n_jobs)
    return JoblibPool(n_jobs) if joblib.effective_n_jobs(n_jobs) > 1 else None


def in_worker() -> bool:
    """Whether this runs in a worker, as in a search that is spread."""
    if get_active_backend()[0].nesting_level:
        return True
    distributed = sys.modules.get("distributed")  # joblib counts no levels there
    if distributed is None:
        return False
    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True


def in_worker_process() -> bool:
    """Whether this runs in a worker that is a process of its own, and no thread of one that has many."""
    is_process = multiprocessing.parent_process() is not None or threading.current_thread() is threading.main_thread()
    return is_process and in_worker()
