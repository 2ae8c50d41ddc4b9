"""Costs: how many images a fit will bill, how long it waits for them and what they cost, before it sends any."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import ceil

from .setup import Run

__all__ = ["Cost", "CostPlan", "cost_plan", "duration"]

_TITLES = {
    "baselines": "baselines",
    "gains": "step size",
    "steps": "training steps",
    "checks": "checks",
    "final": "final scores",
}


@dataclass(frozen=True)
class Cost:
    """The cost of some images.

    Parameters
    ----------
    images : int
        Billed images.
    calls : int
        Calls of the score function.
    seconds : float or None
        Time spent waiting for scores; None if the time of one image is not known.
    price : float or None
        In the currency of the price per image; None if there is no price.
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
    """The most that `fit` will bill, and what for; printed, it is a table.

    Parameters
    ----------
    baselines : Cost
        Scoring the training images without a prompt; a share of each class if there are more than 2,000.
    gains : Cost
        Finding the step and perturbation size, if they are "auto". The number of calls is an estimate.
    steps : Cost
        Training.
    checks : Cost
        Scoring the held-out images during training.
    final : Cost
        Scoring the training images with the trained prompt, except those that a check has scored.
    predict : Cost
        Predicting the images that were asked about.

    Notes
    -----
    A fit sends just these images, unless `patience`, a callback, the user or an error ends it early. Its seconds are
    those of the service alone; what is computed locally comes on top.
    """

    baselines: Cost
    gains: Cost
    steps: Cost
    checks: Cost
    final: Cost
    predict: Cost = field(default=Cost(0, 0))

    @property
    def fit(self) -> Cost:
        """The whole fit."""
        return self.baselines + self.gains + self.steps + self.checks + self.final

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
    n_predict : int
        Images that will be predicted afterwards.
    price_per_image : float or None
        In any currency.
    seconds_per_image : float or None
    """
    budget, n_judged, n_held_out = run.budget, len(run.judged_rows), len(run.validation.rows)
    images_per_call = run.objective.ledger.images_per_call
    n_checks = run.validation.n_checks_due(run.optimizer.started, budget.n_steps)

    def cost(requests: Iterable[int]) -> Cost:
        sizes = list(requests)
        n, calls = sum(sizes), sum(ceil(size / images_per_call) for size in sizes)
        seconds, price = (None if rate is None else n * rate for rate in (seconds_per_image, price_per_image))
        return Cost(n, calls, seconds, price)

    return CostPlan(
        baselines=cost([n_judged]),
        gains=cost(_portions(budget.gains, budget.step)),
        steps=cost([budget.step] * budget.n_steps),
        checks=cost([n_held_out] * n_checks),
        final=cost([n_judged - n_held_out * bool(n_checks)]),
        predict=cost([n_predict]),
    )


def _portions(n: int, size: int) -> Iterator[int]:
    return (min(size, n - first) for first in range(0, n, size))


def duration(seconds: float | None) -> str:
    """A time in the unit that suits it."""
    seconds = seconds or 0.0
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"
