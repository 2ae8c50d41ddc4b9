"""The training loop: ask for candidates, score them, tell their losses."""

from __future__ import annotations

import sys
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..exceptions import FitInterruptedWarning, HeadNotHelpfulWarning, PromptNotUsedWarning, warn_caller
from ..heads.base import ServiceHead
from ..heads.decision import Decision, WithoutPrompt, decide
from ..heads.judging import judge
from ..heads.scored import LastAnswers, ScoredImages
from ..optimizers import Optimizer
from ..scorers.replay import Replay
from .gains import TrainingProbe
from .monitoring import Monitor
from .setup import Run

__all__ = ["TERMINATION_REASONS", "TrainingResult", "decided", "is_interactive", "judged_columns", "train"]

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
        With its gains and its last state.
    a : float or None
        The step size that training started with.
    n_iter : int
        Steps made.
    termination_reason : str
        One of `TERMINATION_REASONS`.
    error : BaseException or None
        What ended the training early.
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

    def ends_with_error(self, resumes: bool) -> bool:
        """Whether `fit` will raise the error: any but Ctrl-C, which in a script is raised if `fit` can resume."""
        if isinstance(self.error, KeyboardInterrupt):
            return self.raises_interrupt or (resumes and not is_interactive())
        return self.error is not None

    def warn_or_raise(self, n_queries: int, decision: Decision, resumes: bool = False) -> None:
        """Warn if the user interrupted the run or the prompt did not help; raise the error that ended it."""
        if self.error is not None and self.ends_with_error(resumes):
            raise self.error
        if self.error is not None:
            warn_caller(
                f"fit was interrupted after {self.n_iter} steps and {n_queries:,} billed images. The estimator is "
                f"fitted and uses {'the best prompt so far' if decision.prompt_used else 'no prompt'}.",
                FitInterruptedWarning,
            )
        elif not decision.prompt_used:
            warn_caller(
                f"The prompt did not help ({decision.comparison}), so it is not used. {n_queries:,} images were "
                "billed; predictions use the head on unmodified images. More training images, another prompter or a "
                "larger budget may help.",
                PromptNotUsedWarning,
            )
        if decision.head_note and self.error is None:
            warn_caller(decision.head_note, HeadNotHelpfulWarning)


def is_interactive() -> bool:
    """Whether a person can use the estimator after Ctrl-C: in a notebook, in IPython or at Python's prompt."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    return hasattr(sys, "ps1") or get_ipython() is not None


def train(run: Run, monitor: Monitor | None = None) -> TrainingResult:
    """Train until the budget is spent, nothing improves any more, or something stops it.

    Parameters
    ----------
    run : Run
        If its optimizer has not started, the gains that are "auto" are found first.
    monitor : Monitor or None, default=None
        Is told each step, and may end the training.

    Returns
    -------
    result : TrainingResult
        Also if `KeyboardInterrupt` or an error of the score function ended the training; it is in `error` then.
    """
    optimizer, batches, validation = run.optimizer, run.batches, run.validation
    result = TrainingResult(run.w, optimizer)
    if not len(run.w):
        result.termination_reason = "nothing_to_train"
        if monitor is not None:
            monitor.begin_stage("heads")
        return result
    try:
        if monitor is not None:
            monitor.begin_stage("training")
        if optimizer.started:
            validation.start_from(run.w)
        else:
            optimizer.find_gains(TrainingProbe(run.objective, batches, run.budget.total), run.w, run.rng)
            optimizer.start(run.w, run.rng)
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
    if validation.best_w is not None:
        result.w = validation.best_w
    if monitor is not None:
        monitor.begin_stage("heads")
    return result


def judged_columns(result: TrainingResult, run: Run, replay: Replay | None = None) -> np.ndarray:
    """Score columns (n_judged, n_columns) of the judged images with the trained prompt; NaN where it was not scored.

    An error of the service is added to `result`.
    """
    unknown = np.full((len(run.judged_rows), run.objective.ledger.n_columns), np.nan)
    if replay is not None:
        replay.off_path = result.termination_reason in ("callback", "interrupted")
        # `fit` will resume: a prompt from halfway is not worth its price.
        if result.ends_with_error(resumes=True):
            return unknown
    if not result.n_iter and len(result.w):
        return unknown
    try:
        return run.validation.judged_columns(result.w)
    except KeyboardInterrupt as error:
        result.interrupt(error)
    # The service still fails: the plain scores are all there is.
    except Exception as error:
        result.error = result.error or error
    return unknown


def decided(
    result: TrainingResult,
    without: Future[WithoutPrompt],
    scored: ScoredImages,
    last_answers: LastAnswers | None,
    head: Any,
    guard: bool,
) -> tuple[WithoutPrompt, Decision]:
    """The results without a prompt, and the decision, see `decide`.

    If Ctrl-C interrupts them, what was paid for is not lost: the service's own head, which is fitted at once, decides.
    """
    try:
        baselines = without.result()
        return baselines, decide(baselines, scored, last_answers, head, guard)
    except KeyboardInterrupt as error:
        result.interrupt(error)
    plain = judge(ServiceHead(), scored.without_prompt())
    baselines = WithoutPrompt({"zero_shot": plain}, plain, {})
    return baselines, decide(baselines, scored, None, None, guard)
