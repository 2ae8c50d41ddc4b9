"""What a fit will cost: the plan against real fits, and that planning changes and sends nothing."""

import copy
import pickle
import re
import time
from contextlib import closing
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import ToyService, make_stripes

from blackvip import (
    RGF,
    SPSA,
    SPSAGC,
    AdamSPSA,
    BlackVIPClassifier,
    BudgetError,
    CachedScorer,
    ClassPromptError,
    CostPlan,
    ImageError,
    ScoreError,
    SharedBudget,
    Subspace,
)
from blackvip.training.costs import Cost

pytestmark = pytest.mark.filterwarnings("ignore::blackvip.PromptNotUsedWarning")

GAINS = {"a": 0.01, "c": 0.1}


def make_classifier(service, **parameters):
    defaults = dict(prompter="basis", max_queries=1500, random_state=0, verbose=0)
    return BlackVIPClassifier(service, "stripe {}", **{**defaults, **parameters})


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        GAINS,
        {"max_queries": 700},  # for a check or two
        {"max_queries": 3127, "optimizer": SPSAGC(n_directions=3), "batch_size": 5},
        {"guard": False},
        {"validation_fraction": 0.01},  # of which nobody is held out
        {"prompter": "coordinator", "optimizer": "spsa", "images_per_call": 7},
        {"optimizer": SPSA(n_directions=2, a=0.01), "batch_size": 100},
        {"warm_start": True, "head": None},
    ],
)
def test_a_fit_sends_just_what_was_planned(parameters, stripes):
    service = ToyService()
    clf = make_classifier(service, **parameters)
    plan = clf.plan(*stripes)
    assert service.n_images == 0
    clf.fit(*stripes)
    assert plan.fit.images == clf.n_queries_ == service.n_images <= clf.max_queries
    trained = clf.history_[-1]["n_queries"] - plan.baselines.images - plan.gains.images - plan.checks.images
    assert plan.steps.images == trained > 0
    assert plan.checks.images == 10 * sum("validation_loss" in row for row in clf.history_)
    if plan.gains.images == 0:
        assert plan.fit.calls == len(service.calls)


def test_a_fit_that_goes_on_is_planned_from_where_it_is(stripes):
    searching = {"prompter": "coordinator"}  # it has more parameters than a small budget has directions
    clf = make_classifier(ToyService(), warm_start=True, **searching).fit(*stripes)
    first = clf.n_queries_
    plan = clf.plan(*stripes)
    assert plan.gains.images == 0 < make_classifier(ToyService(), **searching).plan(*stripes).gains.images
    clf.fit(*stripes)
    assert clf.n_queries_ == plan.fit.images != first
    clf.set_params(score_fn=ToyService(), optimizer=SPSA(a=0.01, c=0.1))  # another one starts anew
    assert clf.plan(*stripes).fit.images == clf.fit(*stripes).n_queries_


def test_a_fit_that_stops_early_sends_less(stripes):
    level = lambda images, prompts: np.repeat(images.mean(axis=(1, 2, 3))[:, None], 2, axis=1)
    clf = make_classifier(level, patience=1, max_queries=20_000)
    assert clf.plan(*stripes).fit.images > 2 * clf.fit(*stripes).n_queries_


def test_weights_of_zero_are_not_planned_for(stripes):
    weights = np.r_[np.zeros(10), np.ones(30)]
    clf = make_classifier(ToyService())
    plan = clf.plan(*stripes, sample_weight=weights)
    assert plan.baselines.images == 30
    assert plan.fit.images == clf.fit(*stripes, sample_weight=weights).n_queries_


@pytest.mark.parametrize("parameters", [{}, {"warm_start": True}, {"random_state": np.random.RandomState(0)}])
@pytest.mark.parametrize("measure", [False, True])
def test_planning_changes_nothing(parameters, measure, stripes):
    parameters = copy.deepcopy(parameters)
    clf = make_classifier(ToyService(), **parameters)
    clf.plan(*stripes, measure=measure)
    assert not any(name.endswith("_") for name in vars(clf))
    same = pickle.loads(pickle.dumps(clf))
    for estimator in (clf, same):
        estimator.fit(*stripes).set_params(score_fn=None)
    before = pickle.dumps(clf)
    X, y = make_stripes(n=60, n_classes=3, side=12)  # of another size, with other classes
    clf.set_params(score_fn=ToyService())
    if not parameters.get("warm_start"):
        clf.plan(X, y, measure=measure)
    clf.plan(*stripes, measure=measure)
    clf.set_params(score_fn=None)
    assert pickle.dumps(clf) == before
    for estimator in (clf, same):  # all that is random goes on as it would have
        estimator.set_params(score_fn=ToyService()).fit(*stripes)
    np.testing.assert_array_equal(clf.coordinator_.parameters_, same.coordinator_.parameters_)


@pytest.mark.parametrize(
    ("X", "y", "parameters", "error", "message"),
    [
        (None, [0] * 40, {}, ValueError, "1 class, 0; expected at least two"),
        (None, [0, 1] * 10, {}, ValueError, "inconsistent numbers of samples"),
        (None, None, {"class_prompts": ["a", "b", "c"]}, ClassPromptError, "3 prompts, but y has 2 classes"),
        (["nowhere.png"] * 40, None, {}, ImageError, r"Image 0 \(nowhere.png\) cannot be read"),
        (None, None, {"a": -1.0}, ValueError, "'a' parameter of BlackVIPClassifier must be"),
        (None, None, {"max_queries": 100}, BudgetError, "does not pay for one step. The smallest budget that works"),
        (None, None, {"prompter": "coordinator", "max_queries": 200}, BudgetError, "perturbations of the prompt's"),
        (None, None, {"score_fn": None}, ValueError, "'score_fn' parameter of BlackVIPClassifier must be"),
        (None, None, {"score_fn": SharedBudget(ToyService(), 1400)}, BudgetError, "only 1400 are left"),
    ],
)
def test_what_fit_refuses_a_plan_refuses_with_the_same_words(X, y, parameters, error, message, stripes):
    service = ToyService()
    clf = make_classifier(service).set_params(**parameters)
    X, y = stripes[0] if X is None else X, stripes[1] if y is None else y
    with pytest.raises(error, match=message) as planned:
        clf.plan(X, y, measure=True)
    with pytest.raises(error, match=message) as fitted:
        clf.fit(X, y)
    assert str(planned.value) == str(fitted.value)
    assert service.n_images == 0


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_queries": 1},
        GAINS,
        {"prompter": "coordinator"},
        {"prompter": "coordinator", **GAINS},
        {"prompter": "coordinator", "patience": 2, "batch_size": 5, "optimizer": SPSAGC(n_directions=3)},
        {"prompter": "coordinator", "validation_fraction": 0.1, "optimizer": "spsa"},
        {"patience": 1, "validation_fraction": 0.4},
        {"patience": 1, "batch_size": 1, "max_queries": 81},
        {"optimizer": "cma-es", "batch_size": 7},
        {"optimizer": AdamSPSA(n_directions=2), "batch_size": 1000},
        {"optimizer": RGF(n_directions=4)},
        {"optimizer": Subspace(SPSA(), n_dims=3), "prompter": "coordinator"},
        {"guard": False, "optimizer": SPSA(n_directions=5)},
        {"images_per_call": 3, "head": None, "a": 0.01},
    ],
)
def test_the_smallest_budget_that_is_named_works_and_no_smaller_one(parameters, stripes):
    service = ToyService()
    clf = make_classifier(service, **{"max_queries": 85, **parameters})
    with pytest.raises(BudgetError, match="works here is [0-9]+") as refused:
        clf.fit(*stripes)
    assert service.n_images == 0
    smallest = named_budget(refused)
    parts = re.search(r"works here is \d+: (.*)\.", str(refused.value)).group(1)
    assert sum(int(number) for number in re.findall(r"(?:^|, )(\d+) (?:to|for|that)", parts)) <= smallest
    with pytest.raises(BudgetError) as refused:
        clf.set_params(max_queries=smallest - 1).fit(*stripes)
    assert named_budget(refused) == smallest
    clf.set_params(max_queries=smallest)
    planned = clf.plan(*stripes).fit.images
    assert clf.fit(*stripes).n_iter_ >= 1
    assert clf.n_queries_ == service.n_images
    assert clf.n_queries_ == planned <= smallest or clf.patience


def test_the_smallest_budget_counts_what_earlier_calls_have_billed(stripes):
    X, y = stripes
    service = ToyService()
    clf = make_classifier(service, max_queries=600).partial_fit(X, y)
    clf.set_params(max_queries=clf.n_queries_ + 50)
    for _ in range(2):
        before = service.n_images
        with pytest.raises(BudgetError, match=f"{clf.n_queries_} that earlier calls have billed") as refused:
            clf.partial_fit(X, y)
        assert service.n_images == before
        clf.set_params(max_queries=named_budget(refused)).partial_fit(X, y)
        assert clf.n_queries_ == service.n_images <= clf.max_queries
    clf.set_params(max_queries=10)
    with pytest.raises(BudgetError) as refused:
        clf.partial_fit(X, y)
    assert clf.set_params(max_queries=named_budget(refused)).partial_fit(X, y).n_queries_ <= clf.max_queries


def named_budget(refused):
    return int(re.search(r"works here is (\d+)", str(refused.value)).group(1))


def test_a_shared_budget_is_looked_at_and_not_touched(stripes):
    budget = SharedBudget(ToyService(), 1500)
    make_classifier(budget).plan(*stripes)
    assert (budget.n_queries, budget.remaining) == (0, 1500)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_predict": -1}, "n_predict=-1; expected a whole number"),
        ({"n_predict": 1.5}, "n_predict=1.5"),
        ({"price_per_image": -0.1}, "price_per_image is -0.1; expected a finite number"),
        ({"price_per_image": "0.1"}, "price_per_image is '0.1'"),
        ({"seconds_per_image": np.nan}, "seconds_per_image is nan"),
        ({"seconds_per_image": 1, "measure": True}, "seconds_per_image=1 and measure=True were given"),
    ],
)
def test_wrong_arguments(arguments, message, service, stripes):
    with pytest.raises(ValueError, match=message):
        make_classifier(service).plan(*stripes, **arguments)
    assert service.n_images == 0


# Price and time


def test_the_price_is_the_declared_one_or_that_given(service, stripes):
    assert make_classifier(service).plan(*stripes).fit.price is None
    service.price_per_image = 0.002
    plan = make_classifier(SharedBudget(service, 5000)).plan(*stripes, n_predict=500)
    assert plan.fit.price == pytest.approx(0.002 * plan.fit.images)
    assert plan.predict.price == pytest.approx(1)
    assert plan.total.price == pytest.approx(plan.fit.price + 1)
    assert make_classifier(service).plan(*stripes, n_predict=500, price_per_image=0).total.price == 0
    service.price_per_image = -1
    with pytest.raises(ValueError, match="price_per_image that the score function declares is -1"):
        make_classifier(service).fit(*stripes)
    assert service.n_images == 0


def test_the_time_is_given_or_measured_or_known_from_the_last_fit(stripes):
    sent = []

    def slow(images, prompts):
        sent.append(images)
        time.sleep(0.002 * len(images))
        return ToyService()(images, prompts)

    clf = make_classifier(slow, max_queries=700)
    assert clf.plan(*stripes).total.seconds is None
    plan = clf.plan(*stripes, n_predict=10, seconds_per_image=0.5)
    assert (plan.predict.seconds, plan.total.seconds) == (5, 0.5 * plan.total.images)
    assert not sent
    plan = clf.plan(*stripes, n_predict=10, measure=True)
    assert 0.02 <= plan.predict.seconds < 1
    np.testing.assert_array_equal(np.concatenate(sent), stripes[0][:16])
    assert [len(images) for images in sent] == [8, 8]
    clf.set_params(images_per_call=3).plan(*stripes, measure=True)
    assert [len(images) for images in sent[2:]] == [3, 3]
    clf.fit(*stripes)
    assert 0.002 <= clf.seconds_per_image_ < 0.1
    assert clf.plan(*stripes, n_predict=10).predict.seconds == 10 * clf.seconds_per_image_


def test_measuring_is_paid_for_and_finds_a_service_that_does_not_answer(stripes):
    budget = SharedBudget(ToyService(), 1500)
    plan = make_classifier(budget, max_queries=700).plan(*stripes, measure=True, price_per_image=0.5)
    assert (budget.n_queries, budget.remaining) == (16, 1484)
    assert (plan.measured.images, plan.measured.calls, plan.measured.price) == (16, 2, 8)
    assert plan.fit.images + plan.predict.images == plan.total.images
    assert str(plan).splitlines()[-2].split()[:5] == ["billed", "to", "measure", "16", "2"]
    assert re.fullmatch(r"scores: logits, as declared \(values from .* to .*, sums .*\).", str(plan).splitlines()[-1])
    with pytest.raises(ScoreError, match="no score at all for 8 images"):
        make_classifier(lambda images, prompts: [{}] * len(images)).plan(*stripes, measure=True)


def test_the_call_that_is_timed_comes_after_one_that_warms_the_service_up(stripes):
    sizes = []

    def cold(images, prompts):
        time.sleep(0.001 * len(images) if sizes else 0.5)
        sizes.append(len(images))
        return ToyService()(images, prompts)

    plan = make_classifier(cold, max_queries=700).plan(*stripes, measure=True)
    assert sum(sizes) == plan.measured.images == 16
    assert plan.fit.seconds < 0.05 * plan.fit.images
    assert plan.measured.seconds > 0.5
    service = ToyService()
    images, y = make_stripes(n=5)
    plan = make_classifier(service, optimizer=SPSA(a=0.1), guard=False, batch_size=1).plan(images, y, measure=True)
    assert [len(images) for images, _ in service.calls] == [2, 2]


def test_answers_from_a_cache_are_neither_billed_nor_timed(stripes, tmp_path):
    with closing(CachedScorer(ToyService(), tmp_path / "cache")) as cached:
        clf = make_classifier(cached)
        assert clf.plan(*stripes, measure=True).measured.images == 16
        plan = clf.plan(*stripes, measure=True)
        assert (plan.measured.images, plan.measured.calls, plan.fit.seconds) == (0, 0, None)


def test_predictions_are_planned_call_by_call(stripes):
    service = ToyService()
    clf = make_classifier(service, images_per_call=48, max_queries=700)
    plan = clf.plan(*stripes, n_predict=150)
    clf.fit(*stripes)
    before = len(service.calls)
    clf.predict(make_stripes(n=150, seed=9)[0])
    assert (plan.predict.images, plan.predict.calls) == (150, len(service.calls) - before)


def test_a_plan_is_printed_as_a_table():
    parts = dict(
        baselines=Cost(40, 1), gains=Cost(0, 0), steps=Cost(12_000, 300), checks=Cost(80, 8), final=Cost(30, 1)
    )
    plan = CostPlan(**parts)
    assert str(plan) == repr(plan)
    assert str(plan).splitlines() == [
        "                  images  calls",
        "fit, at most      12,150    310",
        "  baselines           40      1",
        "  step size            0      0",
        "  training steps  12,000    300",
        "  checks              80      8",
        "  final scores        30      1",
    ]
    table = ElementTree.fromstring(plan._repr_html_())  # well-formed, with the same cells
    cells = [[cell.text or "" for cell in row] for row in table.iter("tr")]
    assert cells == [
        ["", "images", "calls"],
        *(re.split(" {2,}", line.strip()) for line in str(plan).splitlines()[1:]),
    ]
    parts = {name: Cost(100, 2, seconds=seconds, price=1234.5) for name, seconds in zip(parts, [0, 9, 600, 6000, 1e5])}
    lines = str(CostPlan(**parts, predict=Cost(5, 1, 0.25, 0.5))).splitlines()
    assert lines[0].split() == ["images", "calls", "time", "price"]
    assert [line.split()[-3:] for line in lines[1:]] == [
        ["29.6", "h", "6,172.50"],
        ["0.0", "s", "1,234.50"],
        ["9.0", "s", "1,234.50"],
        ["10", "min", "1,234.50"],
        ["1.7", "h", "1,234.50"],
        ["27.8", "h", "1,234.50"],
        ["0.2", "s", "0.50"],
        ["29.6", "h", "6,173.00"],
    ]
