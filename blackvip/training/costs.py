"""Costs: how many images a fit will bill, how long it waits for them and what they cost, before it sends any."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import _fit_context

from ..documentation import Table
from ..process.settings import UsualSettings
from ..prompters import CORRECTIONS
from ..scorers import check_rate
from ..scorers.recognition import recognise
from .corrections import most_requests
from .ladder import training_budgets
from .setup import Run, generator_of
from .sizes import n_images_for_size, sizes_to_try

__all__ = ["Cost", "CostPlan", "PlansCosts", "cost_plan", "duration"]

# The most images of a call that `plan` times, and of the call before it, which warms the service up.
_MEASURED_IMAGES = 8

_TITLES = {
    "baselines": "baselines",
    "corrections": "corrections",
    "sizes": "larger images",
    "gains": "step size",
    "steps": "training steps",
    "checks": "checks",
    "final": "final scores",
}


_OF_LADDER = ("corrections", "sizes")


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
        Price in the currency of the price per image; None if there is none.
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
class CostPlan(Table):
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
    measured : Cost
        Images that ``plan(measure=True)`` has billed to measure the time of an image. It is not part of `total`.
    scores : str
        Description of the measured scores, with their range; empty without a measurement. `fit` sees more of them.
    corrections : Cost
        Choosing an image correction, on the ladder of ``prompter="auto"``. The number of calls is an estimate.
    sizes : Cost
        Choosing the size of the images, where the score function declares that it takes any.
    rungs : tuple of Cost
        Each further rung of the ladder, with a trained prompt and its final scores; `gains`, `steps`, `checks` and
        `final` are of a fit without a ladder.

    Notes
    -----
    A fit sends just these images, unless `patience`, a callback, the user or an error ends it early. On the ladder it
    sends fewer where a correction drops out early or a rung does not pay. Its seconds are those of the service alone;
    what is computed locally comes on top.
    """

    baselines: Cost
    gains: Cost
    steps: Cost
    checks: Cost
    final: Cost
    predict: Cost = field(default=Cost(0, 0))
    measured: Cost = field(default=Cost(0, 0))
    scores: str = ""
    corrections: Cost = field(default=Cost(0, 0))
    sizes: Cost = field(default=Cost(0, 0))
    rungs: tuple[Cost, ...] = ()

    @property
    def fit(self) -> Cost:
        """The whole fit."""
        return sum((cost for _, cost in self._parts()), Cost(0, 0, 0.0, 0.0))

    def _parts(self) -> list[tuple[str, Cost]]:
        """List the parts of the fit."""
        of_ladder = _OF_LADDER if self.sizes.images else _OF_LADDER[:1]
        climbs = self.corrections.images or self.sizes.images or self.rungs
        names = ("baselines", *of_ladder) if climbs else (name for name in _TITLES if name not in _OF_LADDER)
        trained = [(f"trained prompt {k}", cost) for k, cost in enumerate(self.rungs, 1)]
        return [*((_TITLES[name], getattr(self, name)) for name in names), *trained]

    @property
    def total(self) -> Cost:
        """The fit and the predictions."""
        return self.fit + self.predict

    @property
    def note(self) -> str:  # type: ignore[override]
        """Description of the scores, if they were measured."""
        return f"scores: {self.scores}" if self.scores else ""

    def _cells(self) -> list[Sequence[str]]:
        """Return a row for the fit, for each of its parts, and for what else is billed."""
        lines = [("fit, at most", self.fit)]
        lines += [(f"  {title}", cost) for title, cost in self._parts()]
        if self.predict.images:
            lines += [("predictions", self.predict), ("all", self.total)]
        if self.measured.images:
            lines += [("billed to measure", self.measured)]
        columns = [["", *(title for title, _ in lines)]]
        columns += [["images", *(f"{cost.images:,}" for _, cost in lines)]]
        columns += [["calls", *(f"{cost.calls:,}" for _, cost in lines)]]
        if self.fit.seconds is not None:
            columns += [["time", *(duration(cost.seconds) for _, cost in lines)]]
        if self.fit.price is not None:
            columns += [["price", *(f"{cost.price:,.2f}" for _, cost in lines)]]
        return list(zip(*columns))

    __repr__ = Table.__str__


def cost_plan(
    run: Run, n_predict: int = 0, price_per_image: float | None = None, seconds_per_image: float | None = None
) -> CostPlan:
    """Plan the cost of a prepared run; it sends nothing.

    Parameters
    ----------
    run : Run
        The prepared run.
    n_predict : int
        Images that will be predicted afterwards.
    price_per_image : float or None, default=None
        Price of an image, in any currency.
    seconds_per_image : float or None, default=None
        Time that the service takes for an image.

    Returns
    -------
    plan : CostPlan
        Images, calls, time and price of the fit and of the predictions.
    """
    budget, n_judged, n_held_out = run.budget, len(run.judged_rows), len(run.validation.rows)
    images_per_call = run.objective.ledger.images_per_call
    n_checks = run.validation.n_checks_due(run.optimizer.started, budget.n_steps)

    def cost(requests: Iterable[int]) -> Cost:
        sizes = list(requests)
        n, calls = sum(sizes), sum(ceil(size / images_per_call) for size in sizes)
        seconds, price = (None if rate is None else n * rate for rate in (seconds_per_image, price_per_image))
        return Cost(n, calls, seconds, price)

    if run.settings.climbs:
        left = run.settings.max_queries - n_judged
        corrections = cost(most_requests(len(CORRECTIONS) - 1, n_judged, left))
        left -= corrections.images
        tried = sizes_to_try(run.objective.ledger, run.objective.features.images.size)
        n_of_sizes = n_images_for_size(len(tried), n_judged)
        sizes = cost([n_of_sizes] if n_of_sizes <= left else [])
        return CostPlan(
            baselines=cost([n_judged]),
            gains=cost([]),
            steps=cost([]),
            checks=cost([]),
            final=cost([]),
            corrections=corrections,
            sizes=sizes,
            rungs=tuple(cost([images]) for images in training_budgets(left - sizes.images, n_judged)),
            predict=cost([n_predict]),
        )
    return CostPlan(
        baselines=cost([n_judged]),
        gains=cost(_portions(budget.gains, budget.step)),
        steps=cost([budget.step] * budget.n_steps),
        checks=cost([n_held_out] * n_checks),
        final=cost([n_judged - n_held_out * bool(n_checks)]),
        predict=cost([n_predict]),
    )


def _portions(n: int, size: int) -> Iterator[int]:
    return (min(size, n - first) for first in range(0, n, size or 1))


def duration(seconds: float | None) -> str:
    """Format a time in the unit that suits it."""
    seconds = seconds or 0.0
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"


class PlansCosts(UsualSettings):
    """Mixin of classifiers that plan the cost of a fit."""

    _read: Any
    _set_up: Any
    _settings_of_fit: Any
    _ledger: Any
    _rng: Any
    score_fn: Any
    random_state: Any
    max_queries: int
    max_views: int
    warm_start: bool
    classes_: np.ndarray

    @_fit_context(prefer_skip_nested_validation=False)
    def plan(
        self,
        X: Any,
        y: Any,
        n_predict: int = 0,
        price_per_image: float | None = None,
        seconds_per_image: float | None = None,
        *,
        sample_weight: Any = None,
        measure: bool = False,
    ) -> CostPlan:
        """Tell what `fit` on these images will bill at most; unless it measures, it sends nothing.

        It prepares a fit as `fit` does, and refuses what `fit` would refuse. The estimator does not change.

        Parameters
        ----------
        X : images, in any form that `fit` takes
            Training images.
        y : array-like of shape (n,)
            Labels of two or more classes.
        n_predict : int, default=0
            Images that will be predicted afterwards; each may send `max_views` images. A cascade sends fewer.
        price_per_image : float or None, default=None
            Price in any currency. None: the price that `score_fn` declares, if any.
        seconds_per_image : float or None, default=None
            Time that the service takes for an image. None: what the last fit measured, if there was one.
        sample_weight : array-like of shape (n,) or None, default=None
            Weights of the images; those of weight zero are not sent.
        measure : bool, default=False
            Whether to measure `seconds_per_image`. The first training images, at most eight, are sent in a call that
            warms the service up, and as many others in a call that is timed. These images, sixteen at most, are billed
            in addition to the plan, which counts them in `measured`.

        Returns
        -------
        plan : CostPlan
            Images, calls, and if known seconds and price, of each part of the fit and of the predictions.

        Raises
        ------
        ValueError
            For whatever `fit` would refuse, such as a budget that does not pay for one step (`BudgetError`).

        Examples
        --------
        >>> import numpy as np
        >>> from blackvip import BlackVIPClassifier
        >>> def service(images, class_prompts):
        ...     return images.mean(axis=(1, 2))
        >>> X, y = np.random.default_rng(0).uniform(size=(60, 8, 8)), np.arange(60) % 3
        >>> clf = BlackVIPClassifier(service, prompter="basis", max_queries=2000)
        >>> clf.plan(X, y, n_predict=1000, price_per_image=0.0015)
                          images  calls  price
        fit, at most       1,976     60   2.96
          baselines           60      1   0.09
          step size            0      0   0.00
          training steps   1,856     58   2.78
          checks               0      0   0.00
          final scores        60      1   0.09
        predictions        1,000     16   1.50
        all                2,976     76   4.46
        """
        if not isinstance(n_predict, Integral) or n_predict < 0:
            raise ValueError(f"n_predict={n_predict!r}; expected a whole number of images, at least 0.")
        if measure and seconds_per_image is not None:
            raise ValueError(f"seconds_per_image={seconds_per_image!r} and measure=True were given; expected only one.")
        price = check_rate(price_per_image, "price_per_image")
        seconds = check_rate(seconds_per_image, "seconds_per_image")
        continues = self.warm_start and hasattr(self, "optimizer_")
        # Reading images learns their format, which must not stay: a shallow copy learns it.
        reader = copy.copy(self)
        data = reader._read(X, y, sample_weight, self.classes_ if continues else None, continues)
        rng = copy.deepcopy(self._rng) if continues else generator_of(copy.deepcopy(self.random_state))
        run = reader._set_up(data, self._settings_of_fit(continues), rng, continues)
        ledger = run.objective.ledger
        with ledger:  # a shared budget must have as many images left
            pass
        if measure:
            n_each = min(_MEASURED_IMAGES, ledger.images_per_call, len(data) // 2)
            billed, took, scores = [], [], []
            rows = np.arange(2 * n_each)
            with reader._ledger(2 * n_each, ledger.score_format, self.score_fn) as measuring:
                for part in np.split(rows, 2):
                    before = measuring.n_queries, measuring.seconds
                    scores.append(measuring.scores(measuring.as_sent(data.images.pixels(part))))
                    billed.append(measuring.n_queries - before[0])
                    took.append(measuring.seconds - before[1])
            # Answers from a cache say nothing about the service's time.
            seconds = took[-1] / billed[-1] if billed[-1] else None
        elif seconds is None:
            seconds = getattr(self, "seconds_per_image_", None)
        price = ledger.price_per_image if price is None else price
        plan = cost_plan(run, int(n_predict) * self.max_views, price, seconds)
        if measure:
            n = sum(billed)
            cost = Cost(n, np.count_nonzero(billed), sum(took), None if price is None else n * price)
            found = recognise(np.concatenate(scores), measuring.reader.score_type, data.y[rows])
            plan = replace(plan, measured=cost, scores=found.finding)
        return plan
