"""The training loop: ask for candidates, score them, tell their losses."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..optimizers import Optimizer
from .gains import TrainingProbe
from .monitoring import Monitor
from .setup import Run

__all__ = ["TERMINATION_REASONS", "TrainingResult", "is_interactive", "train"]

#: Why training stopped.
TERMINATION_REASONS = (
    *("budget", "no_gain", "ceiling", "no_improvement", "nothing_to_train"),
    *("callback", "interrupted", "error"),
)


@dataclass
class TrainingResult:
    """Result of a training run.

    Attributes
    ----------
    w : ndarray of shape (d,)
        The vector with the lowest held-out loss, or the last one if nothing was held out.
    optimizer : Optimizer
        The optimizer with its gains and its last state.
    a : float or None
        The step size that training started with.
    n_iter : int
        Steps made.
    termination_reason : str
        One of `TERMINATION_REASONS`.
    error : BaseException or None
        Error that ended the training early.
    history : list of dict
        A row per step; see `BlackVIPClassifier.history_`.
    raises_interrupt : bool
        Whether `fit` raises Ctrl-C in any case, because it came a second time or after an error.
    """

    w: np.ndarray
    optimizer: Optimizer
    a: float | None = None
    n_iter: int = 0
    termination_reason: str = "budget"
    error: BaseException | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    raises_interrupt: bool = False

    def interrupt(self, error: KeyboardInterrupt) -> None:
        """Note Ctrl-C, which `fit` raises in any case if it comes a second time, or after an error."""
        self.raises_interrupt = self.error is not None
        error.__cause__ = self.error
        self.termination_reason, self.error = "interrupted", error

    def take_error_of(self, other: TrainingResult) -> None:
        """Take the error that ended another run of the same fit, and the reason for its end."""
        self.error, self.raises_interrupt = other.error, other.raises_interrupt
        self.termination_reason = other.termination_reason

    def ends_with_error(self, resumes: bool) -> bool:
        """Return whether `fit` will raise the error: any but Ctrl-C, which is raised in a script that can resume."""
        if isinstance(self.error, KeyboardInterrupt):
            return self.raises_interrupt or (resumes and not is_interactive())
        return self.error is not None


def is_interactive() -> bool:
    """Return whether a person can use the estimator after Ctrl-C: in a notebook, IPython or Python's prompt."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    return hasattr(sys, "ps1") or get_ipython() is not None


def train(run: Run, monitor: Monitor | None = None) -> TrainingResult:
    """Train until the budget is spent, nothing improves any more, or something stops it.

    Parameters
    ----------
    run : Run
        The run. If its optimizer has not started, the gains that are "auto" are found first.
    monitor : Monitor or None, default=None
        Receives each step, and may end the training.

    Returns
    -------
    result : TrainingResult
        The result. If `KeyboardInterrupt` or an error of the score function ended the training, `error` holds it.
    """
    optimizer, batches, validation = run.optimizer, run.batches, run.validation
    result = TrainingResult(run.w, optimizer)
    if not len(run.w):
        result.termination_reason = "nothing_to_train"
        return result
    try:
        if monitor is not None:
            monitor.begin_stage("training")
        if optimizer.started:
            validation.start_from(run.w)
        else:
            optimizer.find_gains(TrainingProbe(run.objective, batches, run.budget.total), run.w, run.streams.optimizer)
            optimizer.start(run.w, run.streams.optimizer)
        validation.spread_over(run.budget.n_steps)
        result.a = optimizer.a_
        for n_iter in range(1, run.budget.n_steps + 1):
            if monitor is not None:
                monitor.begin_step()
            candidates, rows = optimizer.ask(), batches.for_step(optimizer)
            losses = run.objective.candidate_losses(candidates, rows, batches.upcoming(optimizer))
            optimizer.tell(losses)

            result.w, result.n_iter = optimizer.w, n_iter
            row = {"n_iter": n_iter, "loss": float(losses.mean()), "accuracy": run.objective.last_accuracy}
            row.update(optimizer.figures())
            if validation.is_due(n_iter):
                row.update(validation.check(optimizer.w))
                optimizer.adapt(validation.improvement, validation.best_w)
            row["n_queries"] = run.objective.ledger.n_queries
            result.history.append(row)
            if monitor is not None and monitor.end_step(row, optimizer.w):
                result.termination_reason = "callback"
                break
            if validation.exhausted:
                result.termination_reason = "no_improvement"
                break
    except KeyboardInterrupt as error:
        result.interrupt(error)
    # A stranger's score function may raise anything, and what is paid for must not be lost.
    except Exception as error:
        result.termination_reason, result.error = "error", error
    finally:
        run.objective.reader.background.shutdown()
    if validation.best_w is not None:
        result.w = validation.best_w
    return result
