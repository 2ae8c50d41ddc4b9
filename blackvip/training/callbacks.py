"""Callbacks: scikit-learn's protocol, where the installed version has it (1.9 or newer).

``clf.set_callbacks(callback)`` registers a callback. The root task is a fit, and its subtasks are the steps of the
optimizer. If a callback returns True at the end of a step, training ends there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["CallbackSupportMixin", "fit_task"]

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for scikit-learn's mixin in releases that have no callbacks."""


@contextmanager
def fit_task(estimator: Any, max_subtasks: int) -> Iterator[Any]:
    """Open the root task of a fit, whose beginning and end are reported to the estimator's callbacks, if there are any.

    Yields
    ------
    context : sklearn.callback.CallbackContext or None
        Context whose ``subcontext`` makes the tasks of the steps. None without callbacks.
    """
    if not hasattr(estimator, "_skl_callbacks"):
        yield None
        return
    # scikit-learn's `_fit_context` tears the callbacks down.
    context = estimator._init_callback_context(max_subtasks=max_subtasks)
    context.call_on_fit_task_begin(estimator=estimator)
    yield context
    context.call_on_fit_task_end(estimator=estimator)
