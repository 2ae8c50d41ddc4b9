"""The training loop: ask, score and tell, within a budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..optimizers import Optimizer
from .batches import Batches
from .gains import TrainingProbe
from .monitoring import Monitor
from .objective import Objective
from .plan import Plan
from .validation import Validation

__all__ = ["TrainingResult", "train"]


@dataclass
class TrainingResult:
    """What a training run leaves.

    Attributes
    ----------
    w : ndarray of shape (d,)
        The best parameter vector by the held-out loss, or the last one where nothing was held out.
    optimizer : Optimizer
        With its gains and its last state.
    a : float or None
        The step size that training started with.
    n_iter : int
        Steps made.
    termination_reason : {"budget", "no_improvement", "callback", "interrupted", "error"}
    error : BaseException or None
        What ended the training before its time.
    history : list of dict
        A row per step; see `BlackVIPClassifier.history_`.
    """

    w: np.ndarray
    optimizer: Optimizer
    a: float | None = None
    n_iter: int = 0
    termination_reason: str = "budget"
    error: BaseException | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


def train(
    objective: Objective,
    optimizer: Optimizer,
    w: np.ndarray,
    batches: Batches,
    validation: Validation,
    plan: Plan,
    rng: np.random.Generator,
    monitor: Monitor | None = None,
) -> TrainingResult:
    """Ask, score and tell until the plan is carried out, nothing improves any more, or something stops it.

    Parameters
    ----------
    objective : Objective
    optimizer : Optimizer
        One that has not started starts at `w`; gains that are "auto" are found first. One that has goes on.
    w : ndarray of shape (d,)
        Where to start.
    batches : Batches
    validation : Validation
    plan : Plan
    rng : numpy.random.Generator
    monitor : Monitor or None
        Is told each step; training ends where it says so.

    Returns
    -------
    result : TrainingResult
        Also when `KeyboardInterrupt` or an error of the score function ended the training, which is in its
        `error` then.
    """
    result = TrainingResult(w, optimizer)
    try:
        if optimizer.started:
            validation.start_from(w)
        else:
            optimizer.find_gains(TrainingProbe(objective, batches, plan.budget), w, rng)
            optimizer.start(w, rng)
        validation.spread_over(plan.n_steps)
        result.a = optimizer.a_
        for _ in range(plan.n_steps):
            if monitor is not None:
                monitor.begin_step()
            candidates, rows = optimizer.ask(), batches.for_step(optimizer)
            losses = objective.candidate_losses(candidates, rows, batches.upcoming(optimizer))
            optimizer.tell(losses)
            result.w = optimizer.w
            result.n_iter += 1
            loss, accuracy = float(losses.mean()), objective.last_accuracy
            row = {"n_iter": result.n_iter, "loss": loss, "accuracy": accuracy, **optimizer.figures()}
            if validation.is_due(result.n_iter):
                row.update(validation.check(optimizer.w))
                if validation.best_w is not None:
                    optimizer.adapt(validation.improvement, validation.best_w)
            row["n_queries"] = objective.ledger.n_queries
            result.history.append(row)
            if monitor is not None and monitor.end_step(row, optimizer.w):
                result.termination_reason = "callback"
                break
            if validation.exhausted:
                result.termination_reason = "no_improvement"
                break
    except KeyboardInterrupt as error:
        result.termination_reason, result.error = "interrupted", error
    except Exception as error:  # whatever a stranger's score function raises: what is paid for must not be lost
        result.termination_reason, result.error = "error", error
    if validation.best_w is not None:
        result.w = validation.best_w
    return result
