"""What watches a fit: the progress bar, the log, and the estimator's callbacks."""

from __future__ import annotations

import copy
import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from ..heads.base import ServiceHead
from ..inputs.images import to_uint8
from ..scorers.cached import PaidAnswers
from ..scorers.formats import FLOOR
from .callbacks import fit_task
from .progress import ProgressBar

if TYPE_CHECKING:
    from .objective import Objective
    from .plan import Plan
    from .validation import Validation

__all__ = ["Monitor"]

logger = logging.getLogger("blackvip")


class Monitor:
    """Tells the steps of a run to all who watch it.

    Parameters
    ----------
    estimator : BlackVIPClassifier
    objective : Objective
    validation : Validation
    plan : Plan

    Notes
    -----
    A callback that scores the estimator bills nothing: it is given the held-out images at each check, with an
    estimator that knows the service's answers for them, and no estimator at other steps.
    """

    def __init__(self, estimator: Any, objective: Objective, validation: Validation, plan: Plan):
        self.estimator = estimator
        self.objective = objective
        self.validation = validation
        self.plan = plan
        self._open = ExitStack()

    def __enter__(self) -> Monitor:
        ledger, estimator = self.objective.ledger, self.estimator
        self._bar = ProgressBar(int(ledger.remaining), estimator.verbose)
        self._open.callback(self._bar.close)
        ledger.on_queries = self._bar.on_queries
        logger.info(
            "fit: %d images of %d classes, %d of them held out; %d parameters; at most %d images to send, %d steps",
            *(len(self.objective.y), len(estimator.classes_), len(self.validation.rows)),
            *(self.objective.prompter.n_parameters_, ledger.remaining, self.plan.n_steps),
        )
        self._task = self._open.enter_context(fit_task(estimator, self.plan.n_steps))
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)
        if error[0] is None:
            logger.info("fit: ended with %d images sent", self.objective.ledger.n_queries)

    def begin_step(self) -> None:
        """Tell that a step begins."""
        if self._watched:
            self._step = self._task.subcontext(task_name="step")
            self._step.call_on_fit_task_begin(estimator=self.estimator)

    def end_step(self, row: dict[str, Any], w: np.ndarray) -> bool:
        """Tell a step's row of the history and the parameters after it; True where a callback asks to stop."""
        self._bar.on_step(row)
        checked = "validation_loss" in row
        logger.log(logging.INFO if checked else logging.DEBUG, "step %s", row)
        if not self._watched:
            return False
        if not checked:
            return bool(self._step.call_on_fit_task_end(estimator=self.estimator))
        rows = self.validation.rows
        return bool(
            self._step.call_on_fit_task_end(
                estimator=self.estimator,
                X=lambda: self.objective.images[rows],
                y=lambda: self.estimator.classes_[self.objective.y[rows]],
                metadata={"sample_weight": self.objective.weights[rows]},
                reconstruction_attributes=lambda: self._as_if_ended(w),
            )
        )

    @property
    def _watched(self) -> bool:
        return hasattr(self.estimator, "_skl_callbacks")

    def _as_if_ended(self, w: np.ndarray) -> dict[str, Any]:
        """The fitted attributes that the estimator would have with these parameters and no head."""
        prompter = copy.copy(self.objective.frozen(w, self.estimator.prompt_scale))
        prompter.read_like(self.estimator)
        sent = to_uint8(prompter.draw(self.objective.pixels(self.validation.rows)))
        answers = PaidAnswers(sent, self.validation.last_log_scores)
        head = ServiceHead().fit(self.validation.last_log_scores, None)
        return {
            "score_fn": answers,
            "checkpoint": None,
            "label_mapping_": None,  # what it knows is for classes already
            "score_type_": "logits",
            "score_floor_": FLOOR,
            "coordinator_": prompter,
            "head_": head,
        }
