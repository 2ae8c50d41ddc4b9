"""Predictions that cost what they are worth: the local probe, cascades and second views."""

import csv
import warnings
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import blackvip
from blackvip import BlackVIPClassifier
from blackvip.exceptions import HeadNotHelpfulWarning
from blackvip.heads import LocalProbe
from blackvip.heads.cascade import confidence, cost_curve, fit_threshold
from blackvip.heads.discriminant import fit_discriminant, linear_discriminant
from blackvip.heads.judging import HeadResult, judge
from blackvip.heads.scored import LabelledScores
from blackvip.heads.stages import choose_stages
from blackvip.heads.views import mix_views

K = 4


def answers(separation, n=400, seed=0):
    """Calibrated log probabilities of a made-up head, and the classes."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % K
    return log_softmax(separation * (separation * np.eye(K)[y] + rng.normal(size=(n, K))), axis=1), y


def result(separation, seed=0, n=400):
    log_proba, y = answers(separation, n, seed)
    return HeadResult.of(LocalProbe(), log_proba, y, np.ones(n))


def features(n=90, d=6, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return rng.normal(size=(n, d)) + 1.5 * rng.normal(size=(3, d))[y], y


@pytest.mark.parametrize("d", [6, 120])  # fewer and more features than images
def test_linear_discriminant_is_that_of_scikit_learn(d):
    X, y = features(d=d)
    coef, intercept = linear_discriminant(X, y, np.ones(len(y)), shrinkage=0.3)
    expected = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3).fit(X, y).predict_log_proba(X)
    np.testing.assert_allclose(log_softmax(X @ coef.T + intercept, axis=1), expected, atol=1e-8)
    twice = linear_discriminant(np.concatenate([X, X[:5]]), np.r_[y, y[:5]], np.ones(len(y) + 5), 0.3)
    weighted = linear_discriminant(X, y, np.where(np.arange(len(y)) < 5, 2.0, 1.0), 0.3)
    for one, other in zip(twice, weighted):
        np.testing.assert_allclose(one, other, atol=1e-8)


def test_the_discriminant_is_cross_validated_and_takes_two_images_of_each_class():
    X, y = features(d=40)
    _, held_out = fit_discriminant(X, y, np.ones(90), 5)
    assert (held_out.argmax(axis=1) == y).mean() > 0.9
    # Its probabilities are as sure as the held-out ones are right.
    confident = np.exp(held_out.max(axis=1)).mean()
    assert abs(confident - (held_out.argmax(axis=1) == y).mean()) < 0.1
    _, held_out = fit_discriminant(X, np.random.default_rng(1).permutation(y), np.ones(90), 5)
    assert np.exp(held_out.max(axis=1)).mean() < 0.6
    few = np.concatenate([np.flatnonzero(y == label)[:2] for label in range(3)])
    discriminant, held_out = fit_discriminant(X[few], y[few], np.ones(6), 2)
    assert np.isfinite(held_out).all()
    assert (discriminant.log_proba(X).argmax(axis=1) == y).mean() > 0.6


def test_the_local_probe_has_a_discriminant_and_is_cross_validated():
    X, y = features(d=40)
    data = LabelledScores(np.full((90, 3), np.nan), X, (30, 10), y, np.ones(90), np.zeros(90, bool))
    probe = judge(LocalProbe(), data)
    noise = judge(LocalProbe(), replace(data, y=np.random.default_rng(1).permutation(y), shared={}))
    assert noise.accuracy < 0.5 < probe.accuracy
    assert [expert.coef.shape for expert in probe.head.probes_] == [(3, 30), (3, 30), (3, 10), (3, 10)]
    assert probe.head.probes_[1].alpha > 0  # a discriminant
    assert probe.log_loss < noise.log_loss - 0.3


def test_a_cascade_sends_few_images_and_loses_next_to_nothing():
    cheap, dear = result(2.0), result(4.0, seed=1)
    threshold = fit_threshold(cheap, dear)
    test_cheap, test_dear = result(2.0, seed=2, n=4000), result(4.0, seed=3, n=4000)
    is_cheap = confidence(test_cheap.held_out) > threshold
    assert 0.2 < is_cheap.mean() < 0.9
    combined = np.where(is_cheap, test_cheap.hits, test_dear.hits).mean()
    assert test_dear.accuracy - 0.01 < combined
    assert fit_threshold(dear, cheap) == 0  # what costs more is not better
    # Equal counts, but one head is surer: it may be better.
    assert fit_threshold(replace(cheap, hits=dear.hits), dear) > 0
    useless = HeadResult.of(LocalProbe(), np.full((400, K), -np.log(K)), np.arange(400) % K, np.ones(400))
    assert (confidence(useless.held_out) > fit_threshold(useless, dear)).sum() == 0


def test_the_threshold_is_where_the_expected_loss_reaches_a_quarter_percent():
    cheap, dear = result(2.0), result(4.0, seed=1)
    sure = np.exp(cheap.held_out.max(axis=1))
    counted = np.sum(dear.hits) - np.sum(cheap.hits)
    promised = np.exp(dear.held_out.max(axis=1)).sum() - sure.sum()
    is_cheap = sure > fit_threshold(cheap, dear)
    lost = lambda rows: (counted + promised) / 2 * (1 - sure[rows]).sum() / (1 - sure).sum()
    order = np.argsort(-sure)
    n_cheap = is_cheap.sum()
    assert is_cheap[order[:n_cheap]].all()
    assert lost(order[:n_cheap]) <= 0.0025 * 400 < lost(order[: n_cheap + 1])


def test_cost_curve_goes_from_all_cheap_to_all_dear():
    cheap, dear = result(1.0), result(3.0, seed=1)
    curve = cost_curve(cheap, dear, (0, 1), answers(1.0)[1])
    assert [point.images_per_prediction for point in curve] == pytest.approx(np.linspace(0, 1, 11))
    assert curve[0][1:] == pytest.approx((cheap.accuracy, cheap.log_loss))
    assert curve[-1][1:] == pytest.approx((dear.accuracy, dear.log_loss))
    assert curve[5].accuracy > (cheap.accuracy + dear.accuracy) / 2


def test_views_get_a_weight_each_and_the_single_one_wins_doubtful_cases():
    y = answers(1.0)[1]
    first, second, worse = result(2.0), result(2.0, seed=1), result(0.1, seed=2)
    weights, mixed = mix_views([first, second], y)
    assert weights == pytest.approx([1, 1], abs=0.2)
    assert mixed.accuracy > first.accuracy + 0.05
    assert mix_views([first, worse], y)[1].log_loss < first.log_loss + 0.01
    stages = choose_stages(first, None, second, y, cascade=False)
    assert (stages.second is second.head, stages.second_threshold, stages.most_images) == (True, 1.0, 2)
    assert stages.curve[stages.used].tolist() == pytest.approx([2, mixed.accuracy, mixed.log_loss])
    unsure_only = choose_stages(first, result(1.0, seed=3), second, y, cascade=True)
    assert 1 < unsure_only.curve[unsure_only.used, 0] < 2
    for other in (worse, first):  # a copy adds nothing
        assert choose_stages(first, None, other, y, cascade=True).second is None


def colours(n, seed):
    """Dim images of three colours; some have noise, which hides the colour from the local features."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    X = np.full((n, 8, 8, 3), 60.0)
    X[np.arange(n), ..., y] += rng.uniform(2, 30, (n, 1, 1))
    return np.clip(X + rng.normal(0, 12, X.shape), 0, 255).astype(np.uint8), np.array(["r", "g", "b"])[y]


class Service:
    """Reads colours; counts its images."""

    def __init__(self):
        self.n_images = 0

    def __call__(self, images, class_prompts):
        self.n_images += len(images)
        return images.mean(axis=(1, 2))[:, ["rgb".index(prompt) for prompt in class_prompts]] * 2.0


@pytest.fixture(scope="module")
def cascade():
    service = Service()
    parameters = {"prompter": "autocontrast", "guard": False, "max_queries": 200, "random_state": 0, "verbose": 0}
    clf = BlackVIPClassifier(service, cascade=True, max_views=2, **parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeadNotHelpfulWarning)
        return clf.fit(*colours(60, 0)), service


def test_a_cascade_bills_what_it_sends(cascade, tmp_path):
    clf, service = cascade
    X, y = colours(300, 1)
    before = service.n_images
    log_proba = clf.predict_log_proba(X)
    sent = service.n_images - before
    assert clf.n_queries_predict_ == sent < 200
    assert clf.score(X, y) > 0.9
    used = [row for row in clf.cost_curve_ if row["used"]]
    assert len(used) == 1
    assert used[0]["images_per_prediction"] == pytest.approx(sent / 300, abs=0.2)
    assert {0.0, 1.0, 2.0} <= {row["images_per_prediction"] for row in clf.cost_curve_}

    # Each image is on its own, and what was answered is remembered.
    singly = np.concatenate([clf.predict_log_proba(X[row : row + 1]) for row in range(20)])
    np.testing.assert_allclose(singly, log_proba[:20], atol=1e-7)
    assert service.n_images - before == sent
    labels = clf.compare_prompt(X, heads=True).labels["classifier"]
    np.testing.assert_array_equal(labels, clf.classes_[log_proba.argmax(axis=1)])

    clf.save(tmp_path / "clf.safetensors")
    loaded = blackvip.load(tmp_path / "clf.safetensors", service)
    np.testing.assert_array_equal(loaded.predict_log_proba(X), log_proba)
    assert loaded.cost_curve_ == clf.cost_curve_

    clf.predict_to(tmp_path / "table.csv", X, verbose=0)
    with open(tmp_path / "table.csv", newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == clf.predict(X).tolist()
    assert clf.plan(*colours(60, 0), n_predict=10).predict.images == 20


def test_display_shows_the_cost_curve_and_bills_nothing(cascade):
    clf, service = cascade
    before = service.n_images
    display = blackvip.CostCurveDisplay.from_estimator(clf)
    assert service.n_images == before
    curve = clf.cost_curve_
    assert list(display.line_.get_ydata()) == [point["accuracy"] for point in curve]
    (used,) = [point for point in curve if point["used"]]
    assert list(display.point_.get_xdata()) == [used["images_per_prediction"]]
    assert f"{used['accuracy']:.3f} at {used['images_per_prediction']:.1f}, which is in use" in display.describe()


def test_without_options_one_image_is_sent_and_the_curve_is_known(cascade):
    service = Service()
    clf = BlackVIPClassifier(
        service, prompter="none", guard=False, head=None, max_queries=120, random_state=0, verbose=0
    )
    clf.fit(*colours(60, 0))
    before = service.n_images
    clf.predict(colours(30, 1)[0])
    assert service.n_images - before == 30
    assert [row["images_per_prediction"] for row in clf.cost_curve_ if row["used"]] == [1.0]


def test_bad_options_are_refused_before_anything_is_billed():
    service = Service()
    for bad in ({"max_views": 3}, {"max_views": 0}, {"cascade": "yes"}):
        with pytest.raises(ValueError, match=f"The '{next(iter(bad))}' parameter of BlackVIPClassifier must be"):
            BlackVIPClassifier(service, **bad).fit(*colours(30, 0))
    assert service.n_images == 0
