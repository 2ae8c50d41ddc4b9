"""What a fit will send, take and cost, before it sends anything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import ceil
from typing import NamedTuple

import numpy as np

from ..optimizers import Optimizer
from .batches import Batches
from .objective import Objective
from .plan import Plan
from .validation import Validation

__all__ = ["Cost", "CostPlan", "Run", "cost_plan", "duration"]

_TITLES = {
    "controls": "controls",
    "gains": "step size",
    "steps": "training steps",
    "checks": "checks",
    "final": "final scores",
}


class Run(NamedTuple):
    """All that a run of training needs, before its first image is sent; as `train` takes it."""

    objective: Objective
    optimizer: Optimizer
    w: np.ndarray
    batches: Batches
    validation: Validation
    plan: Plan
    rng: np.random.Generator


@dataclass(frozen=True)
class Cost:
    """What some images cost.

    Parameters
    ----------
    images : int
        That are sent, each of which is billed.
    calls : int
        Of the score function.
    seconds : float or None
        Spent waiting for answers; None where it is not known how long one takes.
    price : float or None
        In the currency of the price per image; None where there is none.
    """

    images: int
    calls: int
    seconds: float | None = None
    price: float | None = None

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.images + other.images,
            self.calls + other.calls,
            None if self.seconds is None or other.seconds is None else self.seconds + other.seconds,
            None if self.price is None or other.price is None else self.price + other.price,
        )


@dataclass(frozen=True, repr=False)
class CostPlan:
    """What `fit` will send at most, and what for; printed, it is a table.

    Parameters
    ----------
    controls : Cost
        Scoring the training images as they are; of more than 2,000, a share of each class.
    gains : Cost
        Finding the step and perturbation size, where they are "auto". Its calls are an estimate.
    steps : Cost
        Training.
    checks : Cost
        Scoring the held-out images now and then.
    final : Cost
        Scoring the training images with their prompts, save those that a check has scored.
    predict : Cost
        Predicting as many images as were asked about.

    Notes
    -----
    A fit sends just these images, unless `patience`, a callback, the user or an error ends it early. Its seconds are
    those of the service alone; what is computed locally comes on top.
    """

    controls: Cost
    gains: Cost
    steps: Cost
    checks: Cost
    final: Cost
    predict: Cost = field(default=Cost(0, 0))

    @property
    def fit(self) -> Cost:
        """The whole fit."""
        return self.controls + self.gains + self.steps + self.checks + self.final

    @property
    def total(self) -> Cost:
        """The fit and the predictions."""
        return self.fit + self.predict

    def __str__(self) -> str:
        lines = [("fit, at most", self.fit)]
        lines += [(f"  {title}", getattr(self, name)) for name, title in _TITLES.items()]
        if self.predict.images:
            lines += [("predictions", self.predict), ("all", self.total)]
        columns = [["", *(title for title, _ in lines)]]
        columns += [["images", *(f"{cost.images:,}" for _, cost in lines)]]
        columns += [["calls", *(f"{cost.calls:,}" for _, cost in lines)]]
        if self.fit.seconds is not None:
            columns += [["time", *(duration(cost.seconds) for _, cost in lines)]]
        if self.fit.price is not None:
            columns += [["price", *(f"{cost.price:,.2f}" for _, cost in lines)]]
        widths = [max(map(len, column)) for column in columns]
        rows = (
            "  ".join([row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:]))])
            for row in zip(*columns)
        )
        return "\n".join(rows)

    __repr__ = __str__


def cost_plan(
    run: Run, n_predict: int = 0, price_per_image: float | None = None, seconds_per_image: float | None = None
) -> CostPlan:
    """What a run that is prepared will send at most; asking sends nothing.

    Parameters
    ----------
    run : Run
        It is used up: its `validation` goes through the motions of the run.
    n_predict : int
        Images that will be predicted afterwards.
    price_per_image : float or None
        In any currency.
    seconds_per_image : float or None
    """
    plan, n_known, n_held_out = run.plan, len(run.validation.known), len(run.validation.rows)
    images_per_call = run.objective.ledger.images_per_call
    n_checks = _n_checks(run)

    def cost(requests: Iterable[int]) -> Cost:
        sizes = list(requests)
        n, calls = sum(sizes), sum(ceil(size / images_per_call) for size in sizes)
        seconds, price = (None if rate is None else n * rate for rate in (seconds_per_image, price_per_image))
        return Cost(n, calls, seconds, price)

    return CostPlan(
        controls=cost([n_known]),
        gains=cost(_portions(plan.gains, plan.step)),
        steps=cost([plan.step] * plan.n_steps),
        checks=cost([n_held_out] * n_checks),
        final=cost([n_known - n_held_out * bool(n_checks)]),
        predict=cost([n_predict]),
    )


def _n_checks(run: Run) -> int:
    """Checks that the run will make: one at the start of a run that goes on, the others where they are due."""
    validation = run.validation
    if not validation.checks_left or not len(validation.rows):
        return 0
    at_start = int(run.optimizer.started)
    validation.checks_left -= at_start
    validation.spread_over(run.plan.n_steps)
    due = sum(validation.is_due(n_iter) for n_iter in range(1, run.plan.n_steps + 1))
    return at_start + min(validation.checks_left, due)


def _portions(n: int, size: int) -> Iterator[int]:
    return (min(size, n - first) for first in range(0, n, size))


def duration(seconds: float | None) -> str:
    """A time in the unit that suits it."""
    seconds = seconds or 0.0
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"
