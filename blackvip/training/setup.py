"""Setting up a run: all that training needs, checked before the first image is sent."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_random_state

from ..encoders import Encoder
from ..exceptions import BudgetError
from ..inputs.images import Images
from ..inputs.training_set import TrainingSet
from ..optimizers import Optimizer
from ..prompters.base import Prompter
from ..scorers.replay import Replay
from .batches import Batches
from .features import row_batches
from .objective import Objective
from .plan import RunBudget
from .prompted_images import PromptedImages
from .validation import Validation, judged_rows, split_held_out

__all__ = ["Run", "RunSettings", "Streams", "generator_of", "prepare", "rows_to_judge", "seed_of"]

_JUDGED_IMAGES = 2_000  # the most that are scored before and after training, for the heads and the guard
_HELD_OUT_SHARE = 0.25  # of the images, where a prompt has enough parameters to fit single ones
_LEAST_SIGNAL = 0.01  # of what a run's estimates add up to: below it there is nothing to pay for
_CHECK_SHARE = 0.05  # of the budget, for checks of the held-out images
_MAX_CHECKS = 10
_LARGEST_BUDGET = 2**62  # at which the search for one that works ends


def seed_of(random_state: Any) -> int:
    """Return a seed for the generators of a fit, so that the global ones are neither read nor set."""
    if random_state is None:
        return int(np.random.SeedSequence().entropy)  # type: ignore[arg-type]
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31))


def generator_of(random_state: Any, replay: Replay | None = None) -> np.random.Generator:
    """Make the generator of a fit; a resumed fit has the seed of the one that was interrupted."""
    return np.random.default_rng(seed_of(random_state) if replay is None else replay.seed)


class Streams(NamedTuple):
    """A random generator for each use, so that what one use draws does not change what another one draws."""

    sample: np.random.Generator
    start: np.random.Generator
    held_out: np.random.Generator
    batches: np.random.Generator
    augment: np.random.Generator
    optimizer: np.random.Generator
    corrections: np.random.Generator
    seed: int
    level: int = 0

    @classmethod
    def of(cls, seed: int, level: int = 0) -> Streams:
        """Make the generators of a run; on a higher level of the ladder, those of another run on the same images."""
        n = len(cls._fields) - 2
        streams = cls._make([*np.random.default_rng(seed).spawn(n), seed, level])
        if not level:
            return streams
        others = cls._make([*np.random.default_rng([seed, level]).spawn(n), seed, level])
        return others._replace(sample=streams.sample, held_out=streams.held_out)

    def above(self) -> Streams:
        """Make the generators of the run on the next level."""
        return Streams.of(self.seed, self.level + 1)


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
    climbs : bool
        Whether the run is the lowest rung of a ladder, and scores the images once, without a prompt.
    knows_start : bool
        Whether the judged images' scores before training are known.
    """

    max_queries: int
    budget: int
    batch_size: int
    guard: bool
    validation_fraction: float | str
    patience: int | None
    one_pass: bool = False
    climbs: bool = False
    knows_start: bool = False

    @property
    def n_scorings(self) -> int:
        """How often the judged images are scored: before and after, or one of both."""
        return 1 if self.climbs or self.knows_start else 2

    def held_out_share(self, d: int, n_images: int) -> float:
        """Return the share of the images that a prompt of `d` parameters is not trained on."""
        if not self.guard or not d:
            return 0.0
        if self.validation_fraction == "auto":
            return _HELD_OUT_SHARE if d > n_images or self.patience is not None else 0.0
        return float(self.validation_fraction)

    def n_checks(self, n_judged: int, n_held_out: int, gains: int, step: int) -> int:
        """Return the number of checks that the run can pay for, beyond a single step and the scores around it."""
        if self.one_pass:
            return 0
        left = max(0, self.budget - self.n_scorings * n_judged - gains - step)
        return min(_MAX_CHECKS, int(min(_CHECK_SHARE * self.budget, left)) // max(n_held_out, 1))


@dataclass
class Run:
    """Everything that a run of training needs, before its first image is sent.

    Attributes
    ----------
    objective : Objective
        Losses of candidates.
    prompted : PromptedImages
        Scores of images with prompts.
    probe : Encoder
        The fitted local encoder.
    optimizer : Optimizer
        A copy of its own.
    w : ndarray of shape (d,)
        Parameters at which training starts.
    batches : Batches
        Rows of each step.
    judged_rows : ndarray of int
        Training images that are scored before and after.
    validation : Validation
        Checks of the held-out images.
    budget : RunBudget
        Images that training may bill.
    streams : Streams
        Random generators.
    settings : RunSettings
        Settings of the run.
    corrections : dict of str to Prompter
        Fitted, if the run is the lowest rung of a ladder.
    known_features : ndarray of shape (n_sample, n_features) or None
        Local features of the images that the local encoder was fitted to, if they are known.
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
    streams: Streams
    settings: RunSettings
    corrections: dict[str, Prompter] = field(default_factory=dict)
    known_features: np.ndarray | None = None

    def local_features(self, images: Images) -> np.ndarray:
        """Return the local features (n_judged, n_features) of the judged ones among the training images."""
        if self.known_features is not None and len(self.known_features) == len(images):
            return self.known_features[self.judged_rows]
        return self.probe.encode_batches(map(images.pixels, row_batches(self.judged_rows)))


def rows_to_judge(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw the sorted rows of the training images that are scored before and after training: 2,000 at most."""
    return judged_rows(y, _JUDGED_IMAGES, rng)


def prepare(
    objective: Objective,
    data: TrainingSet,
    probe: Encoder,
    optimizer: Optimizer,
    w: np.ndarray,
    settings: RunSettings,
    streams: Streams,
) -> Run:
    """Prepare a run; it sends nothing.

    Parameters
    ----------
    objective : Objective
        Losses of candidates.
    data : TrainingSet
        The training set.
    probe : Encoder
        The fitted local encoder.
    optimizer : Optimizer
        A new one, or one that a run has left, which is copied.
    w : ndarray of shape (d,)
        Parameters at which training starts.
    settings : RunSettings
        Settings of the run.
    streams : Streams
        Random generators.

    Returns
    -------
    run : Run
        The prepared run.

    Raises
    ------
    BudgetError
        If the budget does not pay for a single step, or is so small that a prompt would be trained on noise.
    """
    optimizer = copy.deepcopy(optimizer)
    judged = rows_to_judge(data.y, streams.held_out)
    held_out = judged[split_held_out(data.y[judged], settings.held_out_share(len(w), len(data)), streams.held_out)]
    rows = np.setdiff1d(np.arange(len(data)), held_out)
    batches = Batches(rows, min(settings.batch_size, len(rows)), streams.batches)
    spending = Spending(settings, optimizer, len(w), batches, len(judged), len(held_out))
    n_checks, budget = spending.of(settings.budget)
    spending.check(budget)

    prompted = PromptedImages(objective.features, objective.ledger, objective.prompt_scale)
    validation = Validation(prompted, data, objective.temperature, judged, held_out, n_checks, settings.patience)
    if optimizer.started and not settings.one_pass:
        optimizer.begin_run(budget.n_steps)
    return Run(objective, prompted, probe, optimizer, w, batches, judged, validation, budget, streams, settings)


@dataclass(frozen=True)
class Spending:
    """Calculator of what a run spends its images on, for any budget.

    Attributes
    ----------
    settings : RunSettings
        Settings of the run.
    optimizer : Optimizer
        The optimizer, before it starts.
    d : int
        Number of parameters.
    batches : Batches
        Rows of each step.
    n_judged, n_held_out : int
        Images that are scored before and after training, and those of them that are held out.
    """

    settings: RunSettings
    optimizer: Optimizer
    d: int
    batches: Batches
    n_judged: int
    n_held_out: int

    def of(self, images: int) -> tuple[int, RunBudget]:
        """Return the number of checks of a run that may bill so many images, and the budget of its training."""
        least = self._training(0)
        settings = replace(self.settings, budget=images)
        n_checks = settings.n_checks(self.n_judged, self.n_held_out, least.gains, least.step)
        return n_checks, self._training(images - settings.n_scorings * self.n_judged - n_checks * self.n_held_out)

    def _training(self, images: int) -> RunBudget:
        one_pass = -(-len(self.batches.rows) // self.batches.n_rows(self.optimizer))
        return RunBudget.of(self.optimizer, self.d, self.batches, images, one_pass if self.settings.one_pass else None)

    def check(self, budget: RunBudget) -> None:
        """Raise a `BudgetError` that names the smallest budget that works, unless this one does."""
        if self._works(budget):
            return
        settings = self.settings
        smallest, steps = self._smallest()
        spent = settings.max_queries - settings.budget
        left = f", of which {settings.budget} are left," if spent else ""
        if not budget.n_steps:
            lacking = "one step" if self.d else "the scores"
            problem = f"max_queries={settings.max_queries}{left} does not pay for {lacking}."
        else:
            problem = (
                f"max_queries={settings.max_queries} pays for {self._n_directions(budget.n_steps)} perturbations of "
                f"the prompt's {self.d} parameters; expected at least one for every hundred parameters, since a prompt "
                "that is found from fewer is noise. Choose a prompter with fewer parameters, such as "
                "prompter='basis', or a larger budget."
            )
        n_rows, scored = self.batches.n_rows_each(self.optimizer), settings.n_scorings * self.n_judged
        parts = [
            (spent, "that earlier calls have billed"),
            (scored, f"to score the {self.n_judged} training images{' before and after' * (scored > self.n_judged)}"),
            (smallest - scored - steps.total, "to check held-out images"),
            (steps.gains, "to find the step size"),
            (
                steps.total - steps.gains,
                f"for {steps.n_steps} step{'s' * (steps.n_steps > 1)} ({steps.step // n_rows} candidates, {n_rows} "
                "images each)",
            ),
        ]
        raise BudgetError(
            f"{problem} The smallest budget that works here is {spent + smallest}: "
            f"{', '.join(f'{images} {purpose}' for images, purpose in parts if images)}."
        )

    def _works(self, budget: RunBudget) -> bool:
        """Return whether training makes a step, if there is anything to train, and is not spent on noise alone."""
        if not self.d:
            return budget.total >= 0
        if not budget.n_steps or self.optimizer.started or self.settings.one_pass:
            return budget.n_steps > 0
        return self.optimizer.signal_share(self.d, budget.n_steps) >= _LEAST_SIGNAL

    def _smallest(self) -> tuple[int, RunBudget]:
        """Find the smallest number of images that works, and the budget of its training."""
        fails = max(0, self.settings.budget)
        works = fails + 1
        while works < _LARGEST_BUDGET and not self._works(self.of(works)[1]):
            works *= 2
        # What is spent on checks and gains depends on the budget, so that only trying tells.
        while works - fails > 1:
            middle = (works + fails) // 2
            works, fails = (middle, fails) if self._works(self.of(middle)[1]) else (works, middle)
        return works, self.of(works)[1]

    def _n_directions(self, n_steps: int) -> int:
        """Return the perturbations of a run: n / (n + d) is the share of signal of n directions in d parameters."""
        share = self.optimizer.signal_share(self.d, n_steps)
        return round(share / (1 - share) * self.d)
