"""Work in a background thread, done while the service answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from sklearn import config_context, get_config

__all__ = ["BackgroundThread", "prefetch"]

P = ParamSpec("P")
T = TypeVar("T")


class BackgroundThread(ThreadPoolExecutor):
    """One thread, with scikit-learn's configuration of the thread that submits the work."""

    def __init__(self) -> None:
        super().__init__(1, "blackvip-background")

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        config = get_config()

        def configured(*args: Any, **kwargs: Any) -> T:
            with config_context(**config):
                return function(*args, **kwargs)

        return super().submit(configured, *args, **kwargs)


def prefetch(items: Iterable[T]) -> Iterator[T]:
    """Yield items, each of which is made in a thread while the caller uses the one before it."""
    source, end = iter(items), object()
    with BackgroundThread() as background:
        upcoming: Future[Any] = background.submit(next, source, end)
        while (item := upcoming.result()) is not end:
            upcoming = background.submit(next, source, end)
            yield item
