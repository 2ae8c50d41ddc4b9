"""Callbacks: scikit-learn's protocol where the installed version has it (1.9), the same hooks otherwise.

``clf.set_callbacks(callback)`` registers an object with the methods ``setup(estimator, context)``,
``on_fit_task_begin(estimator, context)``, ``on_fit_task_end(estimator, context)`` and
``teardown(estimator, context)``. The root task is a fit, and its subtasks are the steps of the optimizer. A hook may
ask for ``X``, ``y``, ``metadata`` and ``fitted_estimator`` by keyword; the end of a step at which a callback returns
True is the end of training.
"""

from __future__ import annotations

import copy
import inspect
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

__all__ = ["CallbackSupportMixin", "fit_task"]

try:
    from sklearn.callback import CallbackSupportMixin

    SKLEARN_CALLBACKS = True
except ImportError:  # scikit-learn before 1.9
    SKLEARN_CALLBACKS = False

    class _Context:
        """A task, with scikit-learn 1.9's names: what callbacks see of where they are."""

        def __init__(self, estimator: Any, task_name: str, task_id: int, max_subtasks: int | None, parent: Any):
            self._callbacks = getattr(estimator, "_skl_callbacks", [])
            self._estimator = estimator
            self._n_subtasks = 0
            self.estimator_name = type(estimator).__name__
            self.task_name = task_name
            self.task_id = task_id
            self.max_subtasks = max_subtasks
            self.sequential_subtasks = True
            self.parent = parent
            self.root_uuid = parent.root_uuid if parent else uuid.uuid4()
            self.init_time = datetime.now(UTC)

        def subcontext(self, task_name: str = "", max_subtasks: int | None = 0) -> _Context:
            context = _Context(self._estimator, task_name, self._n_subtasks, max_subtasks, self)
            self._n_subtasks += 1
            return context

        def call_on_fit_task_begin(self, *, estimator: Any, **offered: Any) -> _Context:
            self._call("on_fit_task_begin", estimator, offered)
            return self

        def call_on_fit_task_end(self, *, estimator: Any, **offered: Any) -> bool:
            return self._call("on_fit_task_end", estimator, offered)

        def _call(self, hook_name: str, estimator: Any, offered: dict[str, Any]) -> bool:
            stop = False
            for callback in self._callbacks:
                hook = getattr(callback, hook_name)
                wanted = [name for name, p in inspect.signature(hook).parameters.items() if p.kind == p.KEYWORD_ONLY]
                stop |= bool(hook(estimator, self, **{name: self._value(name, estimator, offered) for name in wanted}))
            return stop

        @staticmethod
        def _value(name: str, estimator: Any, offered: dict[str, Any]) -> Any:
            value = offered.get("reconstruction_attributes" if name == "fitted_estimator" else name)
            value = value() if callable(value) else value
            if name == "fitted_estimator" and value is not None:
                attributes, value = value, copy.copy(estimator)
                vars(value).update(attributes)
            return value

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Callback support for an estimator."""

        def set_callbacks(self, *callbacks: Any) -> Any:
            """Set the callbacks of the estimator.

            Parameters
            ----------
            *callbacks : callback instances
                Objects with the methods of scikit-learn 1.9's ``FitCallback``.

            Returns
            -------
            self : estimator instance
                The estimator itself.
            """
            hooks = ("setup", "teardown", "on_fit_task_begin", "on_fit_task_end")
            if not all(hasattr(callback, hook) for callback in callbacks for hook in hooks):
                raise TypeError(f"callbacks must have the methods {', '.join(hooks)}.")
            if callbacks:
                self._skl_callbacks = list(callbacks)
            else:
                vars(self).pop("_skl_callbacks", None)
            return self


@contextmanager
def fit_task(estimator: Any, max_subtasks: int) -> Iterator[Any]:
    """The root task of a fit: its beginning and end are told to the estimator's callbacks.

    Yields
    ------
    context : sklearn.callback.CallbackContext
        Whose ``subcontext`` makes the steps' tasks.
    """
    if SKLEARN_CALLBACKS:  # which tears down itself, in `_fit_context`
        context = estimator._init_callback_context(max_subtasks=max_subtasks)
        context.call_on_fit_task_begin(estimator=estimator)
        yield context
        context.call_on_fit_task_end(estimator=estimator)
        return
    context = _Context(estimator, "fit", 0, max_subtasks, None)
    callbacks = list(context._callbacks)
    try:
        for callback in callbacks:
            callback.setup(estimator, context)
        context.call_on_fit_task_begin(estimator=estimator)
        yield context
        context.call_on_fit_task_end(estimator=estimator)
    finally:
        for callback in callbacks:
            callback.teardown(estimator, context)
