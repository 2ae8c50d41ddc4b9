"""Outcomes: what a run of training has led to, with the head that goes with it and the decision on its prompt."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..exceptions import FitInterruptedWarning, HeadNotHelpfulWarning, PromptNotUsedWarning, warn_caller
from ..heads.base import ServiceHead
from ..heads.decision import Decision, WithoutPrompt, decide
from ..heads.judging import judge
from ..heads.scored import ScoredImages
from ..scorers.replay import Replay
from .loop import TrainingResult, train
from .monitoring import Monitor
from .setup import Run

__all__ = ["Outcome", "Outcomes"]


class Outcome(NamedTuple):
    """A run and its result.

    Attributes
    ----------
    run : Run
        The run.
    result : TrainingResult
        Result of its training.
    decision : Decision
        The prompt or none, and the head.
    scored : ScoredImages
        The judged images, with the scores of this run's prompt.
    """

    run: Run
    result: TrainingResult
    decision: Decision
    scored: ScoredImages

    @property
    def plain(self) -> np.ndarray:
        """Log scores (n_judged, n_classes) of the judged images without a prompt."""
        return self.scored.plain[-len(self.run.judged_rows) :]

    @property
    def log_scores(self) -> np.ndarray:
        """Log scores (n_judged, n_classes) of the judged images with this run's prompt, if it is used; else without."""
        return self.scored.prompted[-len(self.run.judged_rows) :] if self.decision.prompt_used else self.plain

    @property
    def weights(self) -> np.ndarray:
        """Weights (n_judged,) of the judged images."""
        return self.scored.weights[-len(self.run.judged_rows) :]

    @property
    def own_accuracy(self) -> float:
        """Weighted share of the judged images that the service itself recognises with this run's prompt.

        It is that without a prompt if the images were not scored with it.
        """
        prompted = self.scored.prompted[-len(self.run.judged_rows) :]
        hits = self.hits(prompted if np.isfinite(prompted).all() else self.plain)
        return float(np.average(hits, weights=self.weights))

    def hits(self, log_scores: np.ndarray) -> np.ndarray:
        """Return whether the highest score (n_judged, n_classes) of each judged image is that of its class."""
        return log_scores.argmax(axis=1) == self.run.objective.y[self.run.judged_rows]

    def warn_or_raise(self, n_queries: int, resumes: bool = False) -> None:
        """Warn if the user interrupted the run or the prompt did not help; raise the error that ended it."""
        result, decision = self.result, self.decision
        if result.error is not None and result.ends_with_error(resumes):
            raise result.error
        if result.error is not None:
            warn_caller(
                f"fit was interrupted after {result.n_iter} steps and {n_queries:,} billed images. The estimator is "
                f"fitted and uses {'the best prompt so far' if decision.prompt_used else 'no prompt'}.",
                FitInterruptedWarning,
            )
        elif not decision.prompt_used and not self.run.settings.climbs:
            warn_caller(
                f"The prompt did not help ({decision.comparison}), so it is not used. {n_queries:,} images were "
                "billed; predictions use the head on unmodified images. More training images, another prompter or a "
                "larger budget may help.",
                PromptNotUsedWarning,
            )
        if decision.head_note and result.error is None:
            warn_caller(decision.head_note, HeadNotHelpfulWarning)


@dataclass
class Outcomes:
    """Makes outcomes of runs on the same images, which share their scores without a prompt.

    Parameters
    ----------
    scored : ScoredImages
        The judged images without a prompt; those of the runs come last.
    without : future of WithoutPrompt
        The heads for images without prompts.
    head : str, None or classifier
        See `choose_head`.
    guard : bool
        Whether a prompt is used only if it helps.
    monitor : Monitor
        Receives each run.
    replay : Replay or None
        The journal of the fit.

    Attributes
    ----------
    history : list of dict
        The rows of all runs.
    rungs : list of dict
        See `BlackVIPClassifier.rungs_`.
    """

    scored: ScoredImages
    without: Future[WithoutPrompt]
    head: Any
    guard: bool
    monitor: Monitor
    replay: Replay | None
    history: list[dict[str, Any]] = field(default_factory=list)
    rungs: list[dict[str, Any]] = field(default_factory=list)

    def untrained(self, run: Run) -> Outcome:
        """Make the outcome of a run that ends before it begins: no prompt."""
        return self._decided(run, TrainingResult(run.w, run.optimizer), self._unknown(run), self.guard)

    def known(self, run: Run, columns: np.ndarray) -> Outcome:
        """Make the outcome of a run with nothing to train, from score columns (n_judged, n_columns); no guard."""
        self.monitor.begin_run(run)
        self.monitor.begin_stage("heads")
        result = TrainingResult(run.w, run.optimizer, termination_reason="nothing_to_train")
        return self._decided(run, result, columns, guard=False)

    def trained(self, run: Run, start: np.ndarray | None = None) -> Outcome:
        """Train, score the judged images with the prompt, and decide.

        Parameters
        ----------
        run : Run
            The run to train.
        start : ndarray of shape (n_judged, n_classes) or None, default=None
            Log scores where the run starts. None: those without a prompt.
        """
        start = self.scored.plain[-len(run.judged_rows) :] if start is None else start
        run.objective.temperature.learn(start, run.objective.y[run.judged_rows])
        run.validation.set_start(start)
        self.monitor.begin_run(run)
        result = train(run, self.monitor)
        n_iter = self.history[-1]["n_iter"] if self.history else 0
        self.history += [{**row, "n_iter": row["n_iter"] + n_iter} for row in result.history]
        self.monitor.begin_stage("heads")
        return self._decided(run, result, self._judged_columns(result, run), self.guard)

    @staticmethod
    def _unknown(run: Run) -> np.ndarray:
        return np.full((len(run.judged_rows), run.objective.ledger.n_columns), np.nan)

    def _judged_columns(self, result: TrainingResult, run: Run) -> np.ndarray:
        """Score columns (n_judged, n_columns) of the judged images with the prompt; NaN where it was not scored.

        An error of the service is added to `result`.
        """
        unknown = self._unknown(run)
        if self.replay is not None:
            self.replay.off_path = result.termination_reason in ("callback", "interrupted")
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

    def _decided(self, run: Run, result: TrainingResult, columns: np.ndarray, guard: bool) -> Outcome:
        """Make the outcome with the decision, see `decide`.

        If Ctrl-C interrupts it, what was paid for is not lost: the service's own head decides, which is fitted at once.
        """
        scored = self.scored.scored_with_prompt(columns, run.validation.is_held_out)
        answers = run.objective.last_answers.get(run.objective.ledger.n_columns)
        last_answers = scored.last_answers(run.judged_rows, *answers)
        try:
            decision = decide(self.without.result(), scored, last_answers, self.head, guard)
        except KeyboardInterrupt as error:
            result.interrupt(error)
            plain = judge(ServiceHead(), scored.without_prompt())
            without = WithoutPrompt({"zero_shot": plain}, plain, {})
            self.without = Future()
            self.without.set_result(without)
            decision = decide(without, scored, None, None, guard)
        return Outcome(run, result, decision, scored)
