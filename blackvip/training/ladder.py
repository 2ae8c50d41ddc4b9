"""The ladder of ``prompter="auto"``: image corrections first, then a trained prompt on the best of them.

Every rung must earn its images: it is used only if it is better than the rung below, pair by pair on the same images,
and the next one is climbed only then. All rungs share one memory of answers, so that no image is paid for twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import cache
from typing import Any

import numpy as np
import torch

from ..exceptions import BudgetError
from ..heads.judging import is_clear
from ..inputs.images import ImageFormat
from ..inputs.reading import most_to_fit
from ..inputs.training_set import TrainingSet
from ..optimizers import make_optimizer
from ..prompters.corrections import AS_IT_IS
from ..prompters.stacked import Stacked
from ..scorers.background import BackgroundThread
from ..scorers.scoring import score_columns_of_each
from .corrections import Choice, choose_correction
from .features import TrainingFeatures
from .outcomes import Outcome, Outcomes
from .setup import Run, RunSettings, Streams, prepare

__all__ = ["FIRST_RUNG", "ClimbsLadder", "Ladder", "training_budgets"]

logger = logging.getLogger("blackvip")

FIRST_RUNG = AS_IT_IS  #: The prompter of the lowest rung: no prompt, the baselines alone.

_TRAINED = "basis"  # the prompter of the upper rungs
_FIRST_BUDGET = 500  # images that train on the first rung with a trained prompt; each further rung has twice as many
_LEAST_BUDGET = 250  # images below which training is noise
_CEILING = 0.02  # log loss in nats, cross-validated, below which nothing more is to be gained


def training_budgets(images: int, n_judged: int) -> Iterator[int]:
    """Yield the images for each rung with a trained prompt, of which the last `n_judged` score the result.

    Each rung has twice as many to train with as the one before; the last one takes what would not pay for another.
    """
    budget = _FIRST_BUDGET
    while images - n_judged >= _LEAST_BUDGET:
        rung = images if images < 3 * budget + 2 * n_judged else budget + n_judged
        yield rung
        images, budget = images - rung, 2 * budget


class Ladder:
    """The rungs of one fit.

    Parameters
    ----------
    outcomes : Outcomes
        Makes the outcomes of runs.
    choose : callable
        ``choose()`` returns the `Choice` of a correction and the score columns of all judged images with it, or None.
        It bills images.
    rung : callable
        ``rung(names, w, images)`` prepares a run that may bill so many images, and starts at `w`; None: where the
        prompter starts. It bills nothing itself.
    remaining : callable
        ``remaining()`` returns the images that are left.

    Attributes
    ----------
    best : Outcome
        Outcome of the highest rung that has earned its images.
    """

    best: Outcome

    def __init__(
        self,
        outcomes: Outcomes,
        choose: Callable[[], tuple[Choice, np.ndarray | None]],
        rung: Callable[[tuple[str, ...], np.ndarray | None, int], Run],
        remaining: Callable[[], int],
    ):
        self.outcomes = outcomes
        self.choose = choose
        self.rung = rung
        self.remaining = remaining

    def climb(self, first: Run) -> Outcome:
        """Climb as far as it pays, from a run without a prompt.

        An error of the service or Ctrl-C ends the climb, and is noted in the result: what is paid for is not lost.
        """
        self.best = self.outcomes.untrained(first)
        self._note("no prompt", self.best)
        # Ctrl-C while the heads were fitted.
        if self.best.result.error is not None:
            return self.best
        try:
            reason = self._climb(len(first.judged_rows))
        except KeyboardInterrupt as error:
            self.best.result.interrupt(error)
        # A stranger's score function may raise anything.
        except Exception as error:
            self.best.result.termination_reason, self.best.result.error = "error", error
        else:
            self.best.result.termination_reason = reason
        return self.best

    def _climb(self, n_judged: int) -> str:
        """Climb rung by rung, and return the reason for the end.

        Where no correction helps the service to recognise clearly more images, what it lacks is not in the images, and
        a trained prompt has hardly ever earned its price (docs/method.md).
        """
        if self._at_ceiling:
            return "ceiling"
        (correction, compared), columns = self.choose()
        if correction is None or columns is None:
            return "no_gain" if compared else "budget"
        outcome = self._try(correction, self.rung((correction,), None, n_judged), columns)
        if outcome.result.error is not None:
            return outcome.result.termination_reason
        if outcome is not self.best or not self._sees_more(outcome):
            return "no_gain"
        w = None
        for images in training_budgets(self.remaining(), n_judged):
            reason = self._reason_to_stop()
            if reason is not None:
                return reason
            try:
                run = self.rung((correction, _TRAINED), w, images)
            except BudgetError:
                return "budget"
            outcome = self._try(_TRAINED, run)
            if outcome.result.termination_reason != "budget":
                return outcome.result.termination_reason
            if outcome is not self.best:
                return "no_gain"
            w = outcome.result.w
        return "budget"

    def _try(self, name: str, run: Run, columns: np.ndarray | None = None) -> Outcome:
        """Train a run, and make it the best one if it is clearly better.

        A correction, whose score columns are known, has helped the service's own answers clearly. So it becomes the
        best one unless its head is clearly worse.
        """
        if columns is None:
            outcome = self.outcomes.trained(run, self.best.log_scores)
        else:
            outcome = self.outcomes.known(run, columns)
        before, after = self.best.decision.result, outcome.decision.result
        helps = before.is_worse(after) if columns is None else not after.is_worse(before)
        if not self.outcomes.guard or (outcome.decision.prompt_used and helps):
            self.best = outcome
        self._note(name, outcome)
        self.best.result.take_error_of(outcome.result)
        return outcome

    def _sees_more(self, outcome: Outcome) -> bool:
        """Return whether the service's own answers are right for clearly more images than without the correction."""
        before, after = (outcome.hits(scores) for scores in (outcome.plain, outcome.log_scores))
        return is_clear(after.astype(float) - before, outcome.weights)

    @property
    def _at_ceiling(self) -> bool:
        return self.best.decision.result.log_loss <= _CEILING

    def _reason_to_stop(self) -> str | None:
        """Return why a trained prompt would not pay: there is nothing to gain, or nothing to train it with."""
        if self._at_ceiling:
            return "ceiling"
        probe = self.outcomes.without.result().baselines.get("local_probe")
        # A service that gets no more images right than a head without it has nothing to say about prompts.
        if probe is not None and not probe.is_less_accurate(self.best.decision.result):
            return "no_gain"
        return None

    def _note(self, name: str, outcome: Outcome) -> None:
        """Note what was tried, what it has led to, and whether it is the best so far."""
        result, used = outcome.decision.result, outcome is self.best
        figures = {"accuracy": result.accuracy, "log_loss": result.log_loss, "own_accuracy": outcome.own_accuracy}
        n_queries = outcome.run.objective.ledger.n_queries
        self.outcomes.rungs.append({"prompter": name, "n_queries": n_queries, **figures, "helps": used})
        logger.info("ladder: %s, accuracy %.3f, log loss %.3g, service alone %.3f, %s", name, *figures.values(), used)


class ClimbsLadder:
    """Mixin of the classifier: the ladder of a fit with ``prompter="auto"``."""

    _objective: Any
    _settings: Any
    optimizer: Any
    a: Any
    c: Any
    prompter: Any
    max_queries: int
    prompt_scale: float
    image_format_: ImageFormat

    @property
    def _climbs(self) -> bool:
        """Whether `fit` climbs the ladder."""
        return isinstance(self.prompter, str) and self.prompter == "auto"

    def _settings_of_fit(self, continues: bool) -> RunSettings:
        """Return how a fit spends its images, on the ladder or not."""
        settings: RunSettings = self._settings(self.max_queries, climbs=self._climbs and not continues)
        return settings

    def _sample(self, data: TrainingSet, streams: Streams) -> torch.Tensor:
        """Read the training images to which prompters and encoders are fitted: (n, 3, height, width)."""
        rows = np.sort(streams.sample.permutation(len(data))[: most_to_fit(self.image_format_)])
        return data.images.pixels(rows)

    def _ladder(self, first: Run, data: TrainingSet, outcomes: Outcomes, background: BackgroundThread) -> Ladder:
        """Make the ladder above a run that has scored the judged images without a prompt."""
        ledger, memory = first.objective.ledger, first.objective.memory
        judged, streams = first.judged_rows, first.streams

        def fitted(names: tuple[str, ...]) -> TrainingFeatures:
            """Fit the prompter that is trained on a correction, or take the correction alone."""
            if len(names) == 1:
                made = first.corrections[names[0]]
            else:
                made = Stacked(*names).fit_pixels(self._sample(data, Streams.of(streams.seed)))
            features = TrainingFeatures(made, data.images)
            features.compute_in(background)
            return features

        @cache
        def features_of(*names: str) -> Future[TrainingFeatures]:
            """Begin to fit a prompter in a thread; the rungs that train it share what it computes."""
            return background.submit(fitted, names)

        def choose() -> tuple[Choice, np.ndarray | None]:
            outcomes.monitor.begin_stage("corrections")
            known: dict[str | None, np.ndarray] = {}

            def score(names: list[str], rows: np.ndarray) -> Iterator[np.ndarray]:
                drawings = [first.corrections[name].draw for name in names]
                found = score_columns_of_each(ledger, data.images, judged[rows], drawings)
                for name, scored in zip(names, found, strict=True):
                    columns = known.setdefault(name, np.empty((len(judged), ledger.n_columns)))
                    columns[rows] = scored
                    yield scored[:, : ledger.n_classes]

            left = self.max_queries - memory.n_asked
            plain, y = outcomes.scored.plain, data.y[judged]
            # What would be trained on a promising correction is fitted while the service answers.
            begin = lambda name: features_of(name, _TRAINED)
            names, weights = [*first.corrections], data.weights[judged]
            choice = choose_correction(names, score, plain, y, weights, streams.corrections, left, begin)
            return choice, known.get(choice.name)

        def rung(names: tuple[str, ...], w: np.ndarray | None, images: int) -> Run:
            nonlocal streams
            streams = streams.above()
            features = features_of(*names).result()
            objective = self._objective(features, data, ledger, memory, streams)
            optimizer = make_optimizer(self.optimizer, a=self.a, c=self.c)
            w = features.prompter.initial_parameters(streams.start) if w is None else w
            settings = self._settings(images, knows_start=True)
            return prepare(objective, data, first.probe, optimizer, w, settings, streams)

        # Answers from a cache cost nothing, but must not change what is trained.
        return Ladder(outcomes, choose, rung, lambda: self.max_queries - memory.n_asked)
