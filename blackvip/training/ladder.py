"""The ladder of ``prompter="auto"``: image corrections, larger images, then a trained prompt on the best of them.

Every rung must earn its images: it is used only if it is better than the rung below, pair by pair on the same images,
and the next one is climbed only then. All rungs share one memory of answers, so that no image is paid for twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import cache, reduce
from typing import Any

import numpy as np
import torch

from ..exceptions import BudgetError
from ..heads.judging import HeadResult, is_clear
from ..inputs.images import ImageFormat
from ..inputs.reading import most_to_fit
from ..inputs.training_set import TrainingSet
from ..optimizers import make_optimizer
from ..prompters import make_prompter
from ..prompters.base import Prompter
from ..prompters.corrections import AS_IT_IS
from ..prompters.enlarged import Enlarged
from ..prompters.stacked import Stacked
from ..scorers.background import BackgroundThread
from ..scorers.scoring import score_columns_of_each
from .corrections import Choice, choose_correction
from .features import TrainingFeatures
from .outcomes import Outcome, Outcomes
from .setup import Run, RunSettings, Streams, prepare
from .sizes import choose_size, n_images_for_size, sizes_to_try

__all__ = ["FIRST_RUNG", "ClimbsLadder", "Ladder", "training_budgets"]

logger = logging.getLogger("blackvip")

FIRST_RUNG = AS_IT_IS  #: The prompter of the lowest rung: no prompt, the baselines alone.

_TRAINED = "basis"  # the prompter of the upper rungs
_FIRST_BUDGET = 500  # images that train on the first rung with a trained prompt; each further rung has twice as many
_LEAST_BUDGET = 250  # images below which training is noise
# Cross-validated log losses in nats: below the first, nothing more is to be gained; below the second, nothing that is
# worth the images of a trained prompt (docs/method.md).
_CEILING, _CEILING_OF_TRAINING = 0.02, 0.2

#: The prompters of a rung, each of which draws on the output of the one before.
Drawn = tuple[str | Prompter, ...]
#: From score columns (n, n_classes) of several prompters, by name, for some of the judged images.
Score = Callable[[list[str], np.ndarray], Iterator[np.ndarray]]


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
    enlarge : callable
        ``enlarge(drawn)`` returns a prompter that enlarges what these prompters have drawn, and the score columns of
        all judged images with it, or None. It bills images.
    rung : callable
        ``rung(drawn, w, images)`` prepares a run that may bill so many images, and starts at `w`; None: where the
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
        enlarge: Callable[[Drawn], tuple[Enlarged, np.ndarray] | None],
        rung: Callable[[Drawn, np.ndarray | None, int], Run],
        remaining: Callable[[], int],
    ):
        self.outcomes = outcomes
        self.choose = choose
        self.enlarge = enlarge
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
        a trained prompt has hardly ever earned its price. On larger images, which cost more, it has earned too little
        (docs/method.md).
        """
        if self.best.decision.result.log_loss <= _CEILING:
            return "ceiling"
        drawn, reason = self._correct(n_judged)
        if self.best.result.error is None and self._may_see_too_little and self._enlarges(drawn, n_judged):
            reason = "no_gain"
        if self.best.result.error is not None:
            return self.best.result.termination_reason
        if reason is not None:
            return reason
        w = None
        for images in training_budgets(self.remaining(), n_judged):
            reason = self._reason_to_stop()
            if reason is not None:
                return reason
            try:
                run = self.rung((*drawn, _TRAINED), w, images)
            except BudgetError:
                return "budget"
            outcome = self._try(_TRAINED, run, _is_clearly_better)
            if outcome.result.termination_reason != "budget":
                return outcome.result.termination_reason
            if outcome is not self.best:
                return "no_gain"
            w = outcome.result.w
        return "budget"

    def _correct(self, n_judged: int) -> tuple[Drawn, str | None]:
        """Try the best correction; return it if it is used, and why no prompt need be trained on it, or None."""
        (correction, compared), columns = self.choose()
        if correction is None or columns is None:
            return (), "no_gain" if compared else "budget"
        # It has helped the service's own answers clearly.
        outcome = self._try(correction, self.rung((correction,), None, n_judged), _is_no_worse, columns)
        if outcome is not self.best:
            return (), "no_gain"
        return (correction,), None if self._sees_more(outcome) else "no_gain"

    def _enlarges(self, drawn: Drawn, n_judged: int) -> bool:
        """Try to enlarge what is drawn, which loses nothing of it; return whether that is used."""
        found = self.enlarge(drawn)
        if found is None:
            return False
        enlarged, columns = found
        run = self.rung((*drawn, enlarged), None, n_judged)
        return self._try(enlarged.title, run, _is_better_on_average, columns) is self.best

    def _try(
        self,
        name: str,
        run: Run,
        helps: Callable[[HeadResult, HeadResult], bool],
        columns: np.ndarray | None = None,
    ) -> Outcome:
        """Train a run, unless its score columns are known, and make it the best one if it helps."""
        if columns is None:
            outcome = self.outcomes.trained(run, self.best.log_scores)
        else:
            outcome = self.outcomes.known(run, columns)
        is_better = outcome.decision.prompt_used and helps(self.best.decision.result, outcome.decision.result)
        if not self.outcomes.guard or is_better:
            self.best = outcome
        self._note(name, outcome)
        if outcome.result.error is not None:
            self.best.result.take_error_of(outcome.result)
        return outcome

    def _sees_more(self, outcome: Outcome) -> bool:
        """Return whether the service's own answers are right for clearly more images than without the correction."""
        before, after = (outcome.hits(scores) for scores in (outcome.plain, outcome.log_scores))
        return is_clear(after.astype(float) - before, outcome.weights)

    @property
    def _adds_nothing(self) -> bool:
        """Whether the best head gets no more images right than one that does without the service."""
        probe = self._local_probe
        return probe is not None and not probe.is_less_accurate(self.best.decision.result)

    @property
    def _may_see_too_little(self) -> bool:
        """Whether larger images may pay: not where a local head needs no service, and knows far more than it does."""
        probe, own = self._local_probe, self.outcomes.without.result().baselines["zero_shot"]
        return probe is None or not (self._adds_nothing and own.is_less_accurate(probe))

    @property
    def _local_probe(self) -> HeadResult | None:
        return self.outcomes.without.result().baselines.get("local_probe")

    def _reason_to_stop(self) -> str | None:
        """Return why a trained prompt would not pay: there is little to gain, or nothing to train it with."""
        if self.best.decision.result.log_loss <= _CEILING_OF_TRAINING:
            return "ceiling"
        # A service that adds nothing has nothing to say about prompts.
        return "no_gain" if self._adds_nothing else None

    def _note(self, name: str, outcome: Outcome) -> None:
        """Note what was tried, what it has led to, and whether it is the best so far."""
        result, used = outcome.decision.result, outcome is self.best
        figures = {"accuracy": result.accuracy, "log_loss": result.log_loss, "own_accuracy": outcome.own_accuracy}
        n_queries = outcome.run.objective.ledger.n_queries
        self.outcomes.rungs.append({"prompter": name, "n_queries": n_queries, **figures, "helps": used})
        logger.info("ladder: %s, accuracy %.3f, log loss %.3g, service alone %.3f, %s", name, *figures.values(), used)


def _is_clearly_better(before: HeadResult, after: HeadResult) -> bool:
    return before.is_worse(after)


def _is_no_worse(before: HeadResult, after: HeadResult) -> bool:
    return not after.is_worse(before)


def _is_better_on_average(before: HeadResult, after: HeadResult) -> bool:
    return after.log_loss < before.log_loss and not after.is_worse(before)


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

        def left() -> int:
            # Answers from a cache cost nothing, but must not change what is trained.
            return self.max_queries - memory.n_asked

        sizes = sizes_to_try(ledger, data.images.size)

        @cache
        def features_of(*drawn: str | Prompter) -> TrainingFeatures:
            """Fit prompters that draw one after another, or take a correction alone; rungs share what is computed."""
            if len(drawn) == 1 and drawn[0] in first.corrections:
                made = first.corrections[drawn[0]]
            else:
                made = make_prompter(reduce(Stacked, drawn)).fit_pixels(self._sample(data, Streams.of(streams.seed)))
            features = TrainingFeatures(made, data.images)
            features.compute_in(background)
            return features

        def scoring(prompters: Mapping[str, Prompter]) -> tuple[Score, dict[str, np.ndarray]]:
            """Return a function that scores judged images, and the score columns of all that it has scored."""
            known: dict[str, np.ndarray] = {}

            def score(names: list[str], rows: np.ndarray) -> Iterator[np.ndarray]:
                drawings = [prompters[name].draw for name in names]
                found = score_columns_of_each(ledger, data.images, judged[rows], drawings)
                for name, scored in zip(names, found, strict=True):
                    columns = known.setdefault(name, np.empty((len(judged), ledger.n_columns)))
                    columns[rows] = scored
                    yield scored[:, : ledger.n_classes]

            return score, known

        def choose() -> tuple[Choice, np.ndarray | None]:
            outcomes.monitor.begin_stage("corrections")
            score, known = scoring(first.corrections)
            plain, y = outcomes.scored.plain, data.y[judged]
            names, weights = [*first.corrections], data.weights[judged]
            choice = choose_correction(names, score, plain, y, weights, streams.corrections, left())
            return choice, None if choice.name is None else known.get(choice.name)

        def enlarge(drawn: Drawn) -> tuple[Enlarged, np.ndarray] | None:
            if not sizes or n_images_for_size(len(sizes), len(judged)) > left():
                return None
            outcomes.monitor.begin_stage("sizes")
            by_name = {size.title: size for size in sizes}
            made = {name: features_of(*drawn, size).prompter for name, size in by_name.items()}
            for prompter in made.values():
                prompter.freeze(np.zeros(0), None, self.prompt_scale)
            score, known = scoring(made)
            name = choose_size([*made], score, data.y[judged], data.weights[judged], streams.corrections)
            return by_name[name], known[name]

        def rung(drawn: Drawn, w: np.ndarray | None, images: int) -> Run:
            nonlocal streams
            streams = streams.above()
            features = features_of(*drawn)
            objective = self._objective(features, data, ledger, memory, streams)
            optimizer = make_optimizer(self.optimizer, a=self.a, c=self.c)
            w = features.prompter.initial_parameters(streams.start) if w is None else w
            settings = self._settings(images, knows_start=True)
            return prepare(objective, data, first.probe, optimizer, w, settings, streams)

        return Ladder(outcomes, choose, enlarge, rung, left)
