"""The ladder of ``prompter="auto"``: image corrections first, then a trained prompt on the best of them.

Every rung must earn its images. A correction is chosen by successive halving on some of the training images, and is
used only if it helps on the others, pair by pair. All rungs share one memory of answers, so that no image is paid for
twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from ..encoders.base import Encoder
from ..exceptions import BudgetError
from ..heads.decision import Decision
from ..inputs.images import ImageFormat
from ..inputs.reading import most_to_fit
from ..inputs.training_set import TrainingSet
from ..losses import cross_entropy, fit_temperature
from ..prompters.base import Prompter
from ..prompters.corrections import AS_IT_IS, CORRECTIONS, Correction
from ..prompters.stacked import Stacked
from ..scorers.formats import ScoreFormat
from ..scorers.memory import AnswerMemory
from ..scorers.replay import Replay
from ..scorers.scoring import log_scores_of
from .loop import TrainingResult
from .progress import FitProgress
from .setup import Streams, rows_to_judge

__all__ = ["Choice", "ClimbsLadder", "Rung", "choose_correction", "halving_sizes", "in_turn_of_classes"]

logger = logging.getLogger("blackvip")

_FIRST, _MOST = 8, 64  # images on which all corrections are compared, and on which the last ones are
_KEPT_SHARE = 1 / 3  # of the corrections, after each round
_ANY_BUDGET = 2**40  # images, which no run lacks
_CEILING = 0.02  # log loss in nats, cross-validated, below which nothing more is to be gained


class Rung(NamedTuple):
    """A rung of the ladder, and what it takes over from those below it.

    Attributes
    ----------
    prompter : str or Prompter
        What is trained on this rung.
    seed : int
        Seed of the run's generators, the same on all rungs.
    memory : AnswerMemory or None
        Answers that were paid for.
    score_format : ScoreFormat or None
        What the scores are.
    probe : Encoder or None
        The fitted local encoder.
    """

    prompter: str | Prompter
    seed: int
    memory: AnswerMemory | None = None
    score_format: ScoreFormat | None = None
    probe: Encoder | None = None


class Choice(NamedTuple):
    """The outcome of `choose_correction`.

    Attributes
    ----------
    name : str or None
        The chosen correction; None if none helps.
    losses : dict of str to float
        Mean loss of each correction on the last images on which it was compared, in nats.
    """

    name: str | None
    losses: dict[str, float]


def in_turn_of_classes(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random order of the images in which the classes take turns."""
    shuffled = rng.permutation(len(y))
    turn = np.empty(len(y), dtype=int)
    for label in np.unique(y):
        rows = np.flatnonzero(y[shuffled] == label)
        turn[rows] = np.arange(len(rows))
    return shuffled[np.argsort(turn, kind="stable")]


def halving_sizes(n_images: int) -> list[int]:
    """Numbers of images after each round of halving; at most half of all, so that others can judge the winner."""
    most = min(_MOST, n_images // 2)
    sizes = [_FIRST]
    while 2 * sizes[-1] <= most:
        sizes.append(2 * sizes[-1])
    return [size for size in sizes if size <= most]


def choose_correction(
    names: list[str],
    score: Callable[[str, np.ndarray], np.ndarray],
    plain: np.ndarray,
    y: np.ndarray,
    rng: np.random.Generator,
    budget: int,
) -> Choice:
    """Choose an image correction by successive halving, and check it on images that have not chosen it.

    Parameters
    ----------
    names : list of str
        The corrections to choose from.
    score : callable
        ``score(name, rows)`` returns the log scores (len(rows), n_classes) of corrected images; it bills them.
    plain : ndarray of shape (n_images, n_classes)
        Log scores of all images without a correction.
    y : ndarray of shape (n_images,)
        Class indices.
    rng : numpy.random.Generator
        Draws the order of the images.
    budget : int
        The most images that may be billed.

    Returns
    -------
    choice : Choice
        Its correction has a lower loss than no correction on the images that have not chosen it, by more than a
        standard error of the difference.

    Notes
    -----
    Losses are cross-entropies at the temperature that suits the scores, and count for at most that of a guess.
    """
    order = in_turn_of_classes(y, rng)
    alive, scores = list(names), {name: np.empty((0, plain.shape[1])) for name in names}
    losses: dict[str, float] = {}
    n_seen = 0
    for size in halving_sizes(len(y)):
        rows = order[n_seen:size]
        if len(rows) * len(alive) + len(y) - size > budget:
            break
        for name in alive:
            scores[name] = np.concatenate([scores[name], score(name, rows)])
            losses[name] = float(_losses(scores[name], y[order[:size]]).mean())
        budget -= len(rows) * len(alive)
        n_seen = size
        alive = sorted(alive, key=losses.__getitem__)[: max(1, int(len(alive) * _KEPT_SHARE))]
    others = order[n_seen:]
    if not n_seen or len(others) > budget:
        return Choice(None, losses)
    best, chosen_by = alive[0], order[:n_seen]
    without = _losses(plain[others], y[others], fit_temperature(plain[chosen_by], y[chosen_by]))
    corrected = _losses(score(best, others), y[others], fit_temperature(scores[best], y[chosen_by]))
    gain = without - corrected
    helps = len(gain) > 1 and gain.mean() > gain.std(ddof=1) / np.sqrt(len(gain))
    return Choice(best if helps else None, losses)


def _losses(log_scores: np.ndarray, y: np.ndarray, temperature: float | None = None) -> np.ndarray:
    """Losses (n_images,) at a temperature, or at the best one; at most that of a guess."""
    temperature = fit_temperature(log_scores, y) if temperature is None else temperature
    return np.minimum(cross_entropy(log_scores / temperature, y), np.log(log_scores.shape[1]))


class ClimbsLadder:
    """Mixin of the classifier: the fit of ``prompter="auto"``, rung by rung."""

    _set_up: Any
    _train: Any
    _ledger: Any
    _settings: Any
    _plain_log_scores: Any
    score_fn: Any
    prompter: Any
    max_queries: int
    verbose: int
    prompt_scale: float
    n_queries_: int
    termination_reason_: str
    image_format_: ImageFormat

    @property
    def _climbs(self) -> bool:
        """Whether `fit` climbs the ladder."""
        return isinstance(self.prompter, str) and self.prompter == "auto"

    def _climb(
        self, data: TrainingSet, rng: np.random.Generator, replay: Replay | None
    ) -> tuple[TrainingResult, Decision]:
        """Baselines -> corrections -> the basis on the best of them, as long as each earns its images."""
        seed = int(rng.integers(2**63))
        streams, memory = Streams.of(seed), AnswerMemory()
        sample = np.sort(streams.sample.permutation(len(data))[: most_to_fit(self.image_format_)])
        judged = rows_to_judge(data.y, streams.held_out)
        # All that any rung would refuse is refused before the first image is sent.
        probe = self._set_up(data, self._settings(_ANY_BUDGET), rng, False, None, Rung("basis", seed)).probe
        corrections = _fitted_corrections(data.images.pixels(sample), self.prompt_scale)
        if self.max_queries < len(judged):
            raise BudgetError(
                f"max_queries={self.max_queries} does not pay for the baselines. The smallest budget that works here "
                f"is {len(judged)}: an image for each training image."
            )
        with self._ledger(self.max_queries, None, self.score_fn, replay, memory) as ledger:
            bar = FitProgress(ledger, self.verbose)
            try:
                bar.on_stage("baselines")
                plain = self._plain_log_scores(ledger, data, judged)
                bar.on_stage("corrections")

                def score(name: str, rows: np.ndarray) -> np.ndarray:
                    return log_scores_of(ledger, data.images, judged[rows], corrections[name].draw)

                most = int(ledger.remaining)
                choice = choose_correction([*corrections], score, plain, data.y[judged], streams.corrections, most)
                logger.info("corrections: %s of %s", choice.name or "none", choice.losses)
            finally:
                bar.close(complete=True)
                self.n_queries_ = ledger.n_queries

        def climbed(prompter: str | Prompter, budget: int) -> tuple[TrainingResult, Decision]:
            """A run on this prompter; images that the memory knows are planned, but not billed."""
            rung = Rung(prompter, seed, memory, ledger.score_format, probe)
            run = self._set_up(data, self._settings(budget), rng, False, replay, rung)
            return self._train(run, data, rng, replay=replay, billed=self.n_queries_)

        lower = choice.name or AS_IT_IS
        result, decision = climbed(lower, 2 * len(judged))
        reason = "ceiling"
        if decision.result.log_loss > _CEILING:
            reason = "no_gain"
            try:
                prompter = Stacked(lower, "basis") if decision.prompt_used else "basis"
                higher, above = climbed(prompter, self.max_queries - self.n_queries_ + len(judged))
                helps = above.prompt_used and decision.result.is_worse(above.result)
                if higher.error is not None or helps:
                    return higher, above
                result, decision = climbed(lower, 2 * len(judged))
            except BudgetError:
                reason = "budget"
        result.termination_reason = self.termination_reason_ = reason
        return result, decision


def _fitted_corrections(pixels: torch.Tensor, prompt_scale: float) -> dict[str, Prompter]:
    """All corrections by name, fitted to a sample of the training images (n, 3, height, width).

    Raises
    ------
    ValueError
        If one of them fails on an image, as one that a user has added may.
    """
    corrections: dict[str, Prompter] = {}
    for name in CORRECTIONS:
        if name == AS_IT_IS:
            continue
        try:
            corrections[name] = Correction(name).fit_pixels(pixels).freeze(np.zeros(0), None, prompt_scale)
            corrections[name].draw(pixels[:1])
        except Exception as error:
            raise ValueError(
                f"The correction {name!r} failed on a training image: {error}. Repair it, or remove it from "
                "blackvip.prompters.CORRECTIONS."
            ) from error
    return corrections
