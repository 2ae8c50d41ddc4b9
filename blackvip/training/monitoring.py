"""Monitoring of a fit by the progress bar, the log and the estimator's callbacks."""

from __future__ import annotations

import copy
import logging
from contextlib import ExitStack
from typing import Any

import numpy as np

from ..heads.base import ServiceHead
from ..heads.stages import Stages
from ..inputs.images import to_uint8
from ..scorers.cached import PaidAnswers
from ..scorers.formats import ScoreFormat
from ..scorers.memory import AnswerMemory
from .callbacks import fit_task
from .progress import FitProgress
from .setup import Run

__all__ = ["Monitor"]

logger = logging.getLogger("blackvip")


class Monitor:
    """Tells the steps of a run to the progress bar, the log and the callbacks.

    Parameters
    ----------
    estimator : BlackVIPClassifier
        The estimator that is fitted.
    run : Run
        The first run of the fit.

    Notes
    -----
    A callback that scores the estimator bills nothing. At each check it is given the held-out images, with an
    estimator that has the service's scores for them; at other steps it is given no estimator.
    """

    def __init__(self, estimator: Any, run: Run):
        self.estimator = estimator
        self.run = run
        self._open = ExitStack()

    def __enter__(self) -> Monitor:
        run, ledger, estimator = self.run, self.run.objective.ledger, self.estimator
        logger.info(
            "fit: %d images of %d classes, %d of them held out; %d parameters; at most %d images to send, %d steps",
            *(len(run.objective.y), len(estimator.classes_), len(run.validation.rows)),
            *(len(run.w), ledger.remaining, run.budget.n_steps),
        )
        self._task = self._open.enter_context(fit_task(estimator, run.budget.n_steps))
        self._bar = FitProgress(ledger, estimator.verbose)
        self.begin_stage("baselines")
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.close(complete=error[0] is None)
        self._open.__exit__(*error)
        if error[0] is None:
            logger.info("fit: ended with %d images sent", self.run.objective.ledger.n_queries)

    def begin_run(self, run: Run) -> None:
        """Tell what is trained from now on, on a ladder another prompter than before."""
        self.run = run

    def begin_stage(self, stage: str) -> None:
        """Tell what comes now: "baselines", "corrections", "sizes", "training" or "heads"."""
        self._bar.on_stage(stage)

    def begin_step(self) -> None:
        """Tell that a step begins."""
        if self._watched:
            self._step = self._task.subcontext(task_name="step")
            self._step.call_on_fit_task_begin(estimator=self.estimator)

    def end_step(self, row: dict[str, Any], w: np.ndarray) -> bool:
        """Report a step to the progress bar, the log and the callbacks.

        Parameters
        ----------
        row : dict
            The step's row of the history.
        w : ndarray of shape (d,)
            The parameters after the step.

        Returns
        -------
        stop : bool
            Whether a callback asks to stop.
        """
        self._bar.on_step(row)
        checked = "validation_loss" in row
        logger.log(logging.INFO if checked else logging.DEBUG, "step %s", row)
        if not self._watched:
            return False
        if not checked:
            return bool(self._step.call_on_fit_task_end(estimator=self.estimator))
        objective, rows = self.run.objective, self.run.validation.rows
        return bool(
            self._step.call_on_fit_task_end(
                estimator=self.estimator,
                X=lambda: objective.features.images[rows],
                y=lambda: self.estimator.classes_[objective.y[rows]],
                metadata={"sample_weight": objective.weights[rows]},
                reconstruction_attributes=lambda: self._as_if_ended(w),
            )
        )

    def tell_result(self, text: str) -> None:
        """Write the result of the fit to the log, and above the progress bar."""
        logger.info(text)
        self._bar.write(text)

    @property
    def _watched(self) -> bool:
        return hasattr(self.estimator, "_skl_callbacks")

    def _as_if_ended(self, w: np.ndarray) -> dict[str, Any]:
        """Return the fitted attributes that the estimator would have with these parameters and no head."""
        run, validation = self.run, self.run.validation
        prompter = copy.copy(run.prompted.freeze(w))
        prompter.read_like(self.estimator)
        sent = to_uint8(prompter.draw(run.objective.features.images.pixels(validation.rows)))
        return {
            "score_fn": PaidAnswers(sent, validation.last_log_scores),
            "checkpoint": None,
            "_memory": AnswerMemory(),
            "_stages": Stages.one(),
            # The paid answers are for classes already.
            "label_mapping_": None,
            "score_format_": ScoreFormat("logits"),
            "vector_size_": 0,
            "prompter_": prompter,
            "head_": ServiceHead().fit(validation.last_log_scores, None),
        }
