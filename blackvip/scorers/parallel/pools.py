"""Pools of workers from joblib's context: threads, processes or a cluster; and whether this code runs in a worker."""

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
    """The workers of a joblib backend, kept until the pool is closed.

    Parameters
    ----------
    n_jobs : int or None
        Number of workers, as for `joblib.Parallel`.
    threads : bool, default=False
        Whether to use threads whatever the context says.

    Attributes
    ----------
    shares_memory : bool
        Whether workers get the caller's objects and not copies.
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
                # Otherwise large images would arrive as read-only memory maps.
                max_nbytes=None,
            )
            self._n_workers = joblib.effective_n_jobs(n_jobs)
        self._entered = False

    def n_workers(self) -> int:
        """Return the current number of workers."""
        return self._n_workers

    def results(self, function: Callable[[Any], Any], tasks: Iterator[Any]) -> Generator[Any]:
        """Yield the result of a function for each task when it is done.

        Tasks start in rounds of one per worker. Otherwise joblib would start another task before the caller knows
        that one has failed.

        Parameters
        ----------
        function : callable
            Takes a task.
        tasks : iterator
            The tasks.

        Yields
        ------
        result : object
            Return value of the function, in the order in which tasks are done.
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
                    # joblib warns of unused results, but the error that left them unused says why.
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        results.close()

    def close(self) -> None:
        """End the workers, or return them to the context."""
        if self._entered:
            self._entered = False
            self._parallel.__exit__(None, None, None)


class DaskPool:
    """The workers of a dask cluster, used directly.

    joblib's dask backend assumes that tasks cost nothing to repeat: when a worker ends, the cluster repeats finished
    tasks, which would be billed again, and the backend waits forever for a task that the cluster has given up.

    Parameters
    ----------
    backend : joblib.parallel.ParallelBackendBase
        joblib's backend for dask, which holds the client.
    n_jobs : int or None
        Maximal number of concurrent tasks. None or a negative number: one for each thread of the cluster.
    """

    shares_memory = False

    def __init__(self, backend: Any, n_jobs: int | None):
        self._backend = backend
        self._client = backend.client
        self._most = n_jobs if n_jobs is not None and n_jobs > 0 else None

    def n_workers(self) -> int:
        """Return the current number of threads of the cluster; waits while it has none."""
        n_threads: int = self._backend.effective_n_jobs(-1)
        return n_threads if self._most is None else min(self._most, n_threads)

    def results(self, function: Callable[[Any], Any], tasks: Iterator[Any]) -> Generator[Any]:
        """Yield the result of a function for each task when it is done; never starts more tasks than workers."""
        from distributed import as_completed

        def begun(n: int) -> list[Any]:
            # dask advises to scatter large images, but scattered data are lost with the worker that holds them.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
                return [self._client.submit(function, task, pure=False) for task in itertools.islice(tasks, n)]

        running = as_completed(begun(self.n_workers()), loop=self._client.loop)
        try:
            for future in running:
                result = future.result()
                # Otherwise the cluster would repeat it if its worker ended.
                future.release()
                yield result
                running.update(begun(1))
        finally:
            self._client.cancel(list(running.futures))

    def close(self) -> None:
        """Do nothing: the cluster belongs to the user."""


Pool = JoblibPool | DaskPool


def pool_of_context(n_jobs: int | None) -> Pool | None:
    """Return the pool that `n_jobs` and joblib's ``parallel_config`` select; None for this process alone."""
    if n_jobs == 1:
        return None
    backend, n_of_context = get_active_backend()
    if hasattr(backend, "client"):
        return DaskPool(backend, n_of_context if n_jobs is None else n_jobs)
    return JoblibPool(n_jobs) if joblib.effective_n_jobs(n_jobs) > 1 else None


def in_worker() -> bool:
    """Return whether this code runs in a worker, as in a parallel search."""
    if get_active_backend()[0].nesting_level:
        return True
    # joblib does not count nesting levels in dask's workers.
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return False
    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True


def in_worker_process() -> bool:
    """Return whether this code runs in a worker process, and not in one thread of several."""
    is_process = multiprocessing.parent_process() is not None or threading.current_thread() is threading.main_thread()
    return is_process and in_worker()
