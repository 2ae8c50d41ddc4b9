"""Setting up a run: all that training needs, checked before the first image is sent."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_random_state

from ..encoders import Encoder
from ..exceptions import BudgetError
from ..inputs.training_set import TrainingSet
from ..optimizers import Optimizer
from ..scorers.replay import Replay
from .batches import Batches
from .objective import Objective
from .plan import RunBudget
from .prompted_images import PromptedImages
from .validation import Validation, judged_rows, split_held_out

__all__ = ["Run", "RunSettings", "Streams", "generator_of", "prepare", "seed_of"]

_JUDGED_IMAGES = 2_000  # the most that are scored before and after training, for the heads and the guard
_HELD_OUT_SHARE = 0.25  # of the images, where a prompt has enough parameters to fit single ones
_LEAST_SIGNAL = 0.01  # of what a run's estimates add up to: below it there is nothing to pay for
_CHECK_SHARE = 0.05  # of the budget, for checks of the held-out images
_MAX_CHECKS = 10


def seed_of(random_state: Any) -> int:
    """A seed for the generators of a fit, so that the global ones are neither read nor set."""
    if random_state is None:
        return int(np.random.SeedSequence().entropy)  # type: ignore[arg-type]
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31))


def generator_of(random_state: Any, replay: Replay | None = None) -> np.random.Generator:
    """The generator of a fit; a resumed fit has the seed of the one that was interrupted."""
    return np.random.default_rng(seed_of(random_state) if replay is None else replay.seed)


class Streams(NamedTuple):
    """A random generator for each use, so that what one use draws does not change what another one draws."""

    sample: np.random.Generator
    start: np.random.Generator
    held_out: np.random.Generator
    batches: np.random.Generator
    augment: np.random.Generator
    optimizer: np.random.Generator

    @classmethod
    def of(cls, seed: int) -> Streams:
        """The generators of one run."""
        return cls(*np.random.default_rng(seed).spawn(len(cls._fields)))


@dataclass(frozen=True)
class RunSettings:
    """How a run spends its images.

    Attributes
    ----------
    max_queries : int
        Billed images of the whole fit, for messages.
    budget : int
        Billed images that this run may still spend.
    batch_size : int
        Training images of one step.
    guard : bool
        Whether the prompt must help.
    validation_fraction : float or "auto"
        Share of each class that is held out.
    patience : int or None
        Checks without an improvement after which training stops.
    one_pass : bool
        Whether the run makes a single pass over its images, without checks on the way, as `partial_fit` does.
    """

    max_queries: int
    budget: int
    batch_size: int
    guard: bool
    validation_fraction: float | str
    patience: int | None
    one_pass: bool = False

    def held_out_share(self, d: int, n_images: int) -> float:
        """The share of the images that a prompt of `d` parameters is not trained on."""
        if not self.guard:
            return 0.0
        if self.validation_fraction == "auto":
            return _HELD_OUT_SHARE if d > n_images or self.patience is not None else 0.0
        return float(self.validation_fraction)

    def n_checks(self, n_judged: int, n_held_out: int, gains: int, step: int) -> int:
        """Checks of the held-out images that the run can pay for, beyond a single step and the scores around it."""
        if self.one_pass:
            return 0
        left = max(0, self.budget - 2 * n_judged - gains - step)
        return min(_MAX_CHECKS, int(min(_CHECK_SHARE * self.budget, left)) // max(n_held_out, 1))


@dataclass
class Run:
    """All that a run of training needs, before its first image is sent.

    Attributes
    ----------
    objective : Objective
    prompted : PromptedImages
    probe : Encoder
        The fitted local encoder.
    optimizer : Optimizer
    w : ndarray of shape (d,)
        Where it starts.
    batches : Batches
    judged_rows : ndarray of int
        Training images that are scored before and after.
    validation : Validation
    budget : RunBudget
    rng : numpy.random.Generator
        The optimizer's.
    """

    objective: Objective
    prompted: PromptedImages
    probe: Encoder
    optimizer: Optimizer
    w: np.ndarray
    batches: Batches
    judged_rows: np.ndarray
    validation: Validation
    budget: RunBudget
    rng: np.random.Generator


def prepare(
    objective: Objective,
    data: TrainingSet,
    probe: Encoder,
    optimizer: Optimizer,
    w: np.ndarray,
    settings: RunSettings,
    rng: Streams,
) -> Run:
    """Prepare a run; it sends nothing.

    Parameters
    ----------
    objective : Objective
    data : TrainingSet
    probe : Encoder
        The fitted local encoder.
    optimizer : Optimizer
        A new one, or one that a run has left, which is copied.
    w : ndarray of shape (d,)
        Where training starts.
    settings : RunSettings
    rng : Streams

    Raises
    ------
    BudgetError
        If the budget does not pay for a single step, or is so small that a prompt would be trained on noise.
    """
    optimizer = copy.deepcopy(optimizer)
    judged = judged_rows(data.y, _JUDGED_IMAGES, rng.held_out)
    held_out = judged[split_held_out(data.y[judged], settings.held_out_share(len(w), len(data)), rng.held_out)]
    rows = np.setdiff1d(np.arange(len(data)), held_out)
    batches = Batches(rows, min(settings.batch_size, len(rows)), rng.batches)
    smallest = RunBudget.of(optimizer, len(w), batches, 0)
    n_checks = settings.n_checks(len(judged), len(held_out), smallest.gains, smallest.step)

    prompted = PromptedImages(objective.features, objective.ledger, objective.prompt_scale)
    validation = Validation(prompted, data, objective.temperature, judged, held_out, n_checks, settings.patience)
    pass_length = -(-len(rows) // batches.n_rows(optimizer)) if settings.one_pass else None
    left = settings.budget - 2 * len(judged) - validation.cost
    budget = RunBudget.of(optimizer, len(w), batches, left, pass_length)
    _check_budget(budget, settings, len(judged), batches.n_rows_each(optimizer))
    if not optimizer.started and not settings.one_pass:
        _check_signal(budget, settings, optimizer, len(w), len(judged))
    if optimizer.started and not settings.one_pass:
        optimizer.begin_run(budget.n_steps)
    return Run(objective, prompted, probe, optimizer, w, batches, judged, validation, budget, rng.optimizer)


def _check_budget(budget: RunBudget, settings: RunSettings, n_judged: int, n_rows_each: int) -> None:
    if budget.n_steps:
        return
    smallest = 2 * n_judged + budget.gains + budget.step
    left = "" if settings.budget == settings.max_queries else f", of which {settings.budget} are left,"
    raise BudgetError(
        f"max_queries={settings.max_queries}{left} does not pay for one step. The smallest budget that works here is "
        f"{smallest}: {2 * n_judged} to score the {n_judged} training images before and after, {budget.gains} to "
        f"find the step size, {budget.step} for a step ({budget.step // n_rows_each} candidates, {n_rows_each} images "
        "each)."
    )


def _check_signal(budget: RunBudget, settings: RunSettings, optimizer: Optimizer, d: int, n_judged: int) -> None:
    """Refuse a whole training that would be spent on noise."""
    share = optimizer.signal_share(d, budget.n_steps)
    if share >= _LEAST_SIGNAL:
        return
    # n / (n + d) is the share of n directions in d parameters.
    n_directions = round(share / (1 - share) * d)
    n_steps = math.ceil(_LEAST_SIGNAL / (1 - _LEAST_SIGNAL) * d * budget.n_steps / n_directions)
    raise BudgetError(
        f"max_queries={settings.max_queries} pays for {n_directions} perturbations of the "
        f"prompt's {d} parameters; expected at least one for every hundred parameters, since a prompt that is found "
        f"from fewer is noise. Choose a prompter with fewer parameters, such as prompter='basis', or allow at least "
        f"{math.ceil((2 * n_judged + budget.gains + budget.step * n_steps) / (1 - _CHECK_SHARE))} images."
    )
