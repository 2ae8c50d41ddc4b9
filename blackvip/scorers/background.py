"""Aside: work that asks no service, done in a thread while the service answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from sklearn import config_context, get_config

__all__ = ["BackgroundThread", "prefetch"]

P = ParamSpec("P")
T = TypeVar("T")


class BackgroundThread(ThreadPoolExecutor):
    """One thread, in which scikit-learn is configured as in the one that submits."""

    def __init__(self) -> None:
        super().__init__(1, "blackvip-aside")

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        config = get_config()

        def configured(*args: Any, **kwargs: Any) -> T:
            with config_context(**config):
                return function(*args, **kwargs)

        return super().submit(configured, *args, **kwargs)


def prefetch(things: Iterable[T]) -> Iterator[T]:
    """Things, each of which is made in a thread while the one before it is in use."""
    source, end = iter(things), object()
    with BackgroundThread() as aside:
        coming: Future[Any] = aside.submit(next, source, end)
        while (thing := coming.result()) is not end:
            coming = aside.submit(next, source, end)
            yield thing
