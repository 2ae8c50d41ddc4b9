"""The ladder of ``prompter="auto"``: baselines, corrections, the basis; each rung earns its images."""

import warnings

import numpy as np
import pytest
from conftest import ToyService, make_stripes
from scipy.special import softmax

import blackvip
from blackvip import BlackVIPClassifier
from blackvip.prompters import CORRECTIONS, Correction
from blackvip.training.corrections import choose_correction, halving_sizes, in_turn_of_classes, most_requests
from blackvip.training.ladder import training_budgets


def blacked(images):
    """Stripes of which a service sees little: all of them dark, and of low contrast."""
    return (images // 8).astype(np.uint8)


class Sharp(ToyService):
    """A toy service that reads stripes in bright pictures of full contrast alone, and else guesses one class."""

    def __call__(self, images, class_prompts):
        scores = super().__call__(images, class_prompts)
        reach = np.ptp(images.reshape(len(images), -1), axis=1)[:, None] / 255
        scores = 4 * (scores - scores.mean(axis=1, keepdims=True)) * (reach > 0.7)
        scores[:, 0] += (1 + images.mean(axis=(1, 2, 3)) / 255) * (reach[:, 0] <= 0.7)
        return scores


def distinct(service):
    return len({image.tobytes() for images, _ in service.calls for image in images})


def auto(service, **parameters):
    defaults = dict(
        prompter="auto", max_queries=1000, random_state=0, verbose=0, local_encoder="pca", head="calibrated"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return BlackVIPClassifier(service, "{}", **{**defaults, **parameters})


@pytest.fixture
def data():
    X, y = make_stripes(n=60, n_classes=3, side=9)
    return blacked(X), np.array(["a", "b", "c"])[y]


def quietly(clf, *data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return clf.fit(*data)


def test_classes_take_turns_and_half_of_the_images_choose():
    y = np.repeat([0, 1, 2], [3, 20, 7])
    order = in_turn_of_classes(y, np.random.default_rng(0))
    assert sorted(order) == list(range(30))
    assert sorted(y[order[:9]]) == [0] * 3 + [1] * 3 + [2] * 3
    assert halving_sizes(500) == halving_sizes(128) == [4, 8, 16, 32, 64]
    assert halving_sizes(60) == [4, 8, 16]
    assert halving_sizes(7) == []


def test_corrections_of_many_images_are_compared_on_as_few():
    requests = {n_images: most_requests(27, n_images, 10**6) for n_images in (128, 2_000)}
    assert {n_images: of[-1] for n_images, of in requests.items()} == {128: 64, 2_000: 1_936}
    assert requests[128][:-1] == requests[2_000][:-1]
    assert sum(requests[2_000][:-1]) < 300


def log_scores(y, quality, seed):
    """Log scores of a service that is right with a probability that rises with `quality`."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(len(y), 4))
    z[np.arange(len(y)), y] += quality
    return np.log(softmax(2 * z, axis=1))


@pytest.mark.parametrize("seed", range(4))
def test_the_best_correction_is_found_or_none_for_exactly_what_is_said(seed):
    y = np.random.default_rng(seed).integers(0, 4, 120)
    plain = log_scores(y, 1.0, 99)
    qualities = {f"bad {k}": 0.0 for k in range(20)} | {"good": 4.0, "fair": 2.0}
    table = {name: log_scores(y, quality, k) for k, (name, quality) in enumerate(qualities.items())}
    billed = []

    def score(names, rows):
        for name in names:
            billed.extend((name, row) for row in rows)
            yield table[name][rows]

    choice = choose_correction(list(table), score, plain, y, np.ones(120), np.random.default_rng(seed), 10_000)
    assert choice.name == "good"
    # Half of the corrections go on, except those that are worse than none; the winner is checked on the other images.
    assert len(set(billed)) == len(billed) <= 22 * 4 + 11 * 4 + 5 * 8 + 2 * 16 + 88
    assert len(billed) <= sum(most_requests(22, 120, 10_000)) == 22 * 4 + 11 * 4 + 5 * 8 + 2 * 16 + 88
    assert sum(name == "good" for name, _ in billed) == 120
    assert choice.losses["good"] < choice.losses["none"]
    without = [name for name in table if name.startswith("bad")]
    assert choose_correction(without, score, plain, y, np.ones(120), np.random.default_rng(seed), 10_000).name is None
    billed.clear()
    for budget in (0, 100, 250, 299):
        choose_correction(list(table), score, plain, y, np.ones(120), np.random.default_rng(seed), budget)
        assert len(billed) <= budget
        billed.clear()


def scoring(table):
    """A function that yields the log scores of images with each correction, from a table of all."""
    return lambda names, rows: (table[name][rows] for name in names)


@pytest.mark.parametrize("seed", range(5))
def test_images_that_weigh_more_choose_the_correction(seed):
    """One correction helps with two of the four classes, another with the other two."""
    y = np.random.default_rng(0).integers(0, 4, 200)
    plain, good = log_scores(y, -2.0, 1), log_scores(y, 4.0, 2)
    table = {name: np.where(np.isin(y, own)[:, None], good, plain) for name, own in (("low", (0, 1)), ("high", (2, 3)))}

    for own, name in (((0, 1), "low"), ((2, 3), "high")):
        weights, rng = np.where(np.isin(y, own), 1.0, 0.01), np.random.default_rng(seed)
        assert choose_correction(list(table), scoring(table), plain, y, weights, rng, 10_000).name == name


@pytest.mark.parametrize("seed", range(5))
def test_the_only_correction_that_helps_is_found_among_many_with_which_the_service_is_sure_and_wrong(seed):
    """As an inverted image is, for a service that takes all others for one class."""
    y = np.random.default_rng(seed).integers(0, 4, 120)
    one_class = np.tile([0.0, -300, -300, -300], (120, 1))
    useless = {f"useless {k}": one_class + 30 * log_scores(y, 0.0, k) for k in range(20)}
    table = useless | {"inverted": log_scores(y, 6.0, seed)}

    rng = np.random.default_rng(seed)
    choice = choose_correction(list(table), scoring(table), one_class, y, np.ones(120), rng, 10_000)
    assert choice.name == "inverted"


def test_each_rung_has_twice_as_many_images_and_the_last_one_takes_what_is_left():
    assert list(training_budgets(10_000, 100)) == [600, 1100, 2100, 6200]
    assert list(training_budgets(1000, 100)) == [1000]
    assert list(training_budgets(349, 100)) == []
    for images in range(350, 5000, 37):
        assert sum(training_budgets(images, 100)) == images


def test_a_correction_is_the_first_rung_and_no_image_is_paid_for_twice(data):
    service = Sharp()
    clf = quietly(auto(service), *data)
    assert clf.baselines_["zero_shot"].accuracy < 0.5
    assert clf.prompt_used_
    assert isinstance(clf.prompter_, Correction)
    assert clf.n_queries_ == service.n_images == distinct(service) <= 1000
    assert clf.termination_reason_ in ("ceiling", "no_gain")
    X, y = make_stripes(n=30, n_classes=3, side=9, seed=5)
    assert clf.score(blacked(X), np.array(["a", "b", "c"])[y]) == 1


@pytest.mark.parametrize(("n_wrong", "trains"), [(0, False), (12, True)])
def test_a_prompt_is_trained_only_where_there_is_room_for_it(n_wrong, trains, data):
    X, y = data
    y = np.concatenate([np.roll(y, 1)[:n_wrong], y[n_wrong:]])
    clf = quietly(auto(Sharp(), max_queries=2000), X, y)
    corrected, *trained = clf.rungs_[1:]
    assert corrected["helps"]
    assert [rung["prompter"] for rung in trained] == ["basis"] * trains
    assert (corrected["log_loss"] > 0.2) == trains
    assert clf.termination_reason_ == ("no_gain" if trains else "ceiling")


def test_nothing_is_used_where_nothing_helps_and_training_stops():
    X, y = make_stripes(n=60, n_classes=3, side=9)
    service = ToyService(gain=60)  # it reads them perfectly
    clf = quietly(auto(service, max_queries=4000), X, y)
    assert (clf.prompt_used_, clf.termination_reason_) == (False, "ceiling")
    assert clf.n_queries_ == service.n_images < 600


@pytest.mark.parametrize("budget", [60, 100, 200, 330])
def test_every_budget_from_an_image_per_training_image_on_works(budget, data):
    service = Sharp()
    clf = quietly(auto(service, max_queries=budget), *data)
    assert clf.n_queries_ == service.n_images <= budget
    assert set(clf.baselines_) == {"zero_shot", "calibrated_zero_shot", "local_probe", "fused_zero_shot"}


def test_answers_that_are_known_need_no_budget(data, monkeypatch):
    for name in set(CORRECTIONS) - {"none", "autocontrast", "invert", "gamma-2"}:
        monkeypatch.delitem(CORRECTIONS, name)
    n_corrected = 60 + sum(most_requests(3, 60, 10_000))
    for left in (0, 8):
        clf = quietly(auto(Sharp(), max_queries=n_corrected + left), *data)
        assert (clf.n_queries_ <= n_corrected, clf.prompt_used_) == (True, True)
        assert n_corrected + left - clf.n_queries_ < 60  # what is left does not pay for all images once more


def test_a_fit_on_the_ladder_resumes_saves_and_is_repeatable(data, tmp_path):
    whole = quietly(auto(Sharp()), *data)
    service = Sharp()
    service.fail_at = 30
    clf = auto(service, checkpoint=tmp_path / "fit.journal")
    with pytest.raises(RuntimeError, match="the service is down"):
        quietly(clf, *data)
    service.fail_at = None
    resumed = quietly(clf, *data)
    assert resumed.n_queries_ == whole.n_queries_
    assert service.n_images <= whole.n_queries_ + 64
    np.testing.assert_array_equal(resumed.predict_proba(data[0]), whole.predict_proba(data[0]))
    whole.save(tmp_path / "clf.blackvip")
    loaded = blackvip.load(tmp_path / "clf.blackvip", Sharp())
    np.testing.assert_array_equal(loaded.predict_proba(data[0]), whole.predict_proba(data[0]))
    assert (loaded.prompter, loaded.termination_reason_) == ("auto", whole.termination_reason_)


def test_a_service_that_fails_on_the_way_is_told_and_a_plan_is_an_upper_bound(data):
    service = Sharp()
    plan = auto(service).plan(*data)
    assert service.n_images == 0
    clf = quietly(auto(service), *data)
    assert clf.n_queries_ <= plan.fit.images <= 1000
    service.fail_at = len(service.calls) + 12
    with pytest.raises(RuntimeError, match="the service is down"):
        quietly(auto(service), *data)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"max_queries": 59},
            "The smallest budget that works here is 60: 60 to score the 60 training images",
        ),
        ({"optimizer": "cma-es", "a": 0.1}, "a="),
        ({"local_encoder": "nonsense"}, "nonsense"),
    ],
)
def test_what_a_rung_would_refuse_is_refused_before_anything_is_billed(parameters, message, data):
    service = Sharp()
    with pytest.raises(ValueError, match=message):
        quietly(auto(service, **parameters), *data)
    assert service.n_images == 0


def test_a_correction_of_ones_own_is_tried_and_one_that_fails_is_named_at_once(data, monkeypatch):
    service = Sharp()
    monkeypatch.setitem(CORRECTIONS, "mine", lambda images: images.astype(float))
    with pytest.raises(ValueError, match="The correction 'mine' failed on a training image: .* remove it from"):
        quietly(auto(service), *data)
    assert service.n_images == 0
