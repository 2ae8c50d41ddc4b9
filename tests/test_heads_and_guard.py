"""Heads, baselines and the guard, on made-up scores with a known answer."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import Undecided, make_stripes
from sklearn.calibration import CalibratedClassifierCV
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.naive_bayes import MultinomialNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from blackvip import BlackVIPClassifier, CalibratedHead, FusedHead, PromptNotUsedWarning
from blackvip.heads import ClassifierHead, LocalProbe, ServiceHead, TemperedHead, decision
from blackvip.heads.baselines import fit_baselines
from blackvip.heads.decision import check_head_fits, decide, fit_without_prompt, prompt_helps
from blackvip.heads.judging import HeadResult, judge
from blackvip.heads.leaderboard import Leaderboard
from blackvip.heads.scored import LabelledScores, ScoredImages
from blackvip.inputs.training_set import TrainingSet
from blackvip.losses import Temperature, cross_entropy, fit_temperature
from blackvip.training.validation import Validation, judged_rows, split_held_out


def scores_with(separation, n=90, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    return separation * np.eye(n_classes)[y] + rng.normal(size=(n, n_classes)), y


def test_cross_entropy_equals_its_formula():
    scores, y = scores_with(1.0)
    stacked = np.stack([scores, 2 * scores])
    expected = [[-np.log(np.exp(s[i]) / np.exp(s).sum())[...] for s, i in zip(part, y)] for part in stacked]
    np.testing.assert_allclose(cross_entropy(stacked, y), expected, rtol=1e-10)
    assert cross_entropy(np.array([[1e4, 0.0]]), np.array([1])) == pytest.approx(1e4)  # no overflow


@pytest.mark.parametrize("standardize", [True, False])
def test_calibrated_head_is_logistic_regression_and_judged_out_of_fold(standardize):
    scores, y = scores_with(2.0)
    scores = scores * [1.0, 10.0, 0.1]
    head = CalibratedHead(Cs=(0.3,), standardize=standardize)
    held_out = head.fit_held_out(scores, y)
    model = make_pipeline(StandardScaler() if standardize else None, LogisticRegression(C=0.3, tol=1e-9, max_iter=1000))
    expected = model.fit(scores, y).predict_log_proba(scores)
    np.testing.assert_allclose(head.predict_log_proba(scores), expected, atol=1e-4)
    train, test = next(StratifiedKFold(5, shuffle=True, random_state=0).split(scores, y))
    expected = model.fit(scores[train], y[train]).predict_log_proba(scores[test])
    np.testing.assert_allclose(held_out[test], expected, atol=1e-4)


BLOCKS = (4, 3)  # features of a local encoder


def labelled(scores, y, features=None, held_out=(), blocks=BLOCKS):
    features = features_with(0, y) if features is None else features
    return LabelledScores(scores, features, blocks, y, np.ones(len(y)), np.isin(np.arange(len(y)), held_out))


def scored_images(plain, prompted, y, features, blocks=BLOCKS, held_out=None):
    held_out = np.zeros(len(y), bool) if held_out is None else held_out
    known = {"features": features, "block_sizes": blocks, "held_out": held_out}
    return ScoredImages.before_training(y, np.ones(len(y)), plain, **known).scored_with_prompt(prompted, held_out)


def features_with(separation, y, seed=50):
    """Two blocks of features, around means that are different for each class; a separation of 0 makes noise."""
    rng = np.random.default_rng(seed)
    blocks = [
        (separation * rng.normal(size=(y.max() + 1, size))[y] + rng.normal(size=(len(y), size))) / np.sqrt(size)
        for size in BLOCKS
    ]
    return np.hstack(blocks)


def choose_head(head, scores, y, held_out, features=None, fitted=None, prompted=False):
    return decision.choose_head(head, replace(labelled(scores, y, features, held_out), prompted=prompted), fitted)


ALL = np.arange(0)  # no image is held out: heads are compared on all


def test_a_score_that_is_always_rounded_to_zero_is_no_cause_for_a_warning():
    weights, constant = np.where(np.arange(40) < 20, 1.0, 0.3), np.full(40, np.log(0.005))
    scores = np.column_stack([np.random.default_rng(0).normal(size=40), constant])
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        head = CalibratedHead().fit(scores, np.arange(40) % 2, sample_weight=weights)
    assert np.isfinite(head.coef_).all()


@pytest.mark.parametrize("tiny", [0.0, 5e-324, 1e-290, 1e-100])
@pytest.mark.parametrize("largest", [1.0, 1e60, 1e300])
def test_images_of_negligible_weight_are_left_out(tiny, largest):
    scores, y = scores_with(2.0)
    weights = np.where(np.random.default_rng(0).random(len(y)) < 0.5, largest, tiny)
    heavy = weights == largest
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head, alone = CalibratedHead(), CalibratedHead()
        held_out = head.fit_held_out(scores, y, weights)
        expected = alone.fit_held_out(scores[heavy], y[heavy], weights[heavy])
    assert head.C_ == alone.C_
    np.testing.assert_allclose(head.coef_, alone.coef_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(held_out[heavy], expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(held_out[~heavy], alone.predict_log_proba(scores[~heavy]), rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match="Only images of 1 class have a weight above zero; expected at least two"):
        CalibratedHead().fit(scores, y, np.where(y == 0, largest, tiny))


def test_auto_takes_a_head_where_it_helps_and_none_where_it_does_not():
    scores, y = scores_with(4.0)
    permuted = scores[:, [1, 2, 0]]
    assert isinstance(choose_head("auto", permuted, y, ALL).head, (CalibratedHead, FusedHead))
    assert choose_head("auto", permuted, y, ALL).accuracy > 0.9
    assert isinstance(choose_head("fused", permuted, y, ALL).head, FusedHead)
    assert isinstance(choose_head(None, permuted, y, ALL).head, ServiceHead)
    few, y_few = scores_with(5.0, n=20, n_classes=10, seed=1)  # two shots do not teach a head ten classes
    tempered = choose_head("auto", 2 * few, y_few, ALL)
    assert isinstance(tempered.head, TemperedHead)
    assert tempered.head.temperature_ == fit_temperature(2 * few, y_few)
    np.testing.assert_array_equal(tempered.held_out.argmax(axis=1), few.argmax(axis=1))
    assert choose_head("tempered", few / 20, y_few, ALL).log_loss < choose_head(None, few / 20, y_few, ALL).log_loss
    assert isinstance(choose_head("calibrated", 2 * few, y_few, ALL).head, CalibratedHead)
    own = CalibratedHead(Cs=(1.0,))
    assert choose_head(own, scores, y, ALL).head is not own
    assert choose_head(own, scores, y, ALL).head.n_features_in_ == 3  # the scores alone
    with pytest.raises(ValueError, match="head='linear'; expected 'auto'"):
        choose_head("linear", scores, y, ALL)


@pytest.mark.parametrize("seed", [0, 3])
def test_auto_fuses_where_features_help_and_calibrates_where_they_are_noise(seed):
    scores, y = scores_with(1.5, seed=seed)
    scores = scores[:, [1, 2, 0]]
    calibrated = choose_head("calibrated", scores, y, ALL)
    for separation, kind in ((1.5, FusedHead), (0.0, CalibratedHead)):
        features = features_with(separation, y, seed=50 + seed)
        fused, chosen = (choose_head(head, scores, y, ALL, features) for head in ("fused", "auto"))
        assert isinstance(chosen.head, kind)
        gain = calibrated.log_loss - fused.log_loss
        assert gain > 0.3 if separation else gain < -0.01  # not by chance
        assert chosen.log_loss == min(fused.log_loss, calibrated.log_loss)
        assert fused.head.block_sizes_.tolist() == list(BLOCKS)
        assert (len(fused.head.probes_), fused.head.n_features_in_) == (4, 3 + 7)


def test_heads_that_are_known_are_not_fitted_again(monkeypatch):
    scores, y = scores_with(1.5)
    features = features_with(1.5, y)
    data = labelled(scores, y, features)
    fitted = {type(result.head): result for result in fit_baselines(data).values()}
    fitted[TemperedHead] = judge(TemperedHead(), data)
    monkeypatch.setattr("blackvip.heads.decision.judge", None)
    for head, kind in (("auto", FusedHead), ("calibrated", CalibratedHead), ("fused", FusedHead), (None, ServiceHead)):
        assert choose_head(head, scores, y, ALL, features, fitted) is fitted[kind]


def test_what_heads_take():
    scores, features = np.zeros((5, 3)), np.ones((5, 7))
    assert CalibratedHead().inputs(scores, features) is scores
    assert ServiceHead().inputs(scores, None) is scores
    assert ClassifierHead(LogisticRegression()).inputs(scores, None) is scores
    for probe in (FusedHead(n_scores=0), LocalProbe()):
        assert not probe.needs_scores
        assert probe.inputs(scores, features) is features
    np.testing.assert_array_equal(FusedHead(n_scores=3).inputs(scores, features), np.hstack([scores, features]))


def test_a_local_probe_is_a_fused_head_without_scores():
    scores, y = scores_with(1.0)
    data = labelled(scores, y, features_with(1.5, y))
    probe, fused = judge(LocalProbe(), data), judge(FusedHead(n_scores=0), data)
    np.testing.assert_array_equal(probe.held_out, fused.held_out)
    np.testing.assert_array_equal(
        probe.head.predict_log_proba(data.features), fused.head.predict_log_proba(data.features)
    )


def test_heads_share_the_probes_of_the_same_features():
    data = labelled(*scores_with(1.0))
    baselines = fit_baselines(data)
    # The probes, and the result of the local probe, which uses no scores.
    assert len(data.shared) == 2
    assert judge(LocalProbe(), data) is baselines["local_probe"]
    judge(FusedHead(C=3.0), data)
    assert len(data.shared) == 3


def test_a_classifier_is_cross_validated_and_a_class_without_images_is_improbable():
    scores, y = scores_with(2.0)
    X, y = np.hstack([scores, scores[:, :1]]), np.where(y == 1, 3, y)
    result = judge(ClassifierHead(LogisticRegression()), labelled(X, y))
    np.testing.assert_array_equal(result.held_out[:, 1], np.full(90, np.log(1e-12)))
    train, test = next(StratifiedKFold(5, shuffle=True, random_state=0).split(X, y))
    expected = LogisticRegression().fit(X[train], y[train]).predict_log_proba(X[test])
    np.testing.assert_allclose(result.held_out[test][:, [0, 2, 3]], expected)


def test_different_weights_are_refused_by_a_classifier_without_weights():
    scores, y = scores_with(2.0)
    head = ClassifierHead(KNeighborsClassifier())
    assert head.fit(scores, y, np.full(90, 2.0)).score(scores, y) > 0.8
    with pytest.raises(ValueError, match=r"KNeighborsClassifier\(\) does not support sample_weight"):
        head.fit(scores, y, np.arange(90.0))


@pytest.mark.parametrize("helpful", [0.0, 5.0])
def test_one_image_of_a_class_leaves_the_service_as_it_is(helpful):
    scores, y = scores_with(4.0, n=10, n_classes=10)
    scores, features = np.roll(scores, 1, axis=1), features_with(helpful, y)
    assert isinstance(choose_head("auto", scores, y, ALL, features).head, ServiceHead)
    for head in ("calibrated", "fused"):  # what is asked for comes as near as it can
        assert isinstance(choose_head(head, scores, y, ALL, features).head, CalibratedHead)


def test_one_class_so_far_leaves_the_service_as_it_is():
    scores, y = scores_with(1.0)[0], np.zeros(90, dtype=int)
    for head in ("auto", "calibrated", "fused"):
        assert isinstance(choose_head(head, scores, y, ALL).head, ServiceHead)


def test_auto_compares_on_the_held_out_images_alone():
    few, y = scores_with(3.0, n=40, n_classes=10, seed=1)
    own, calibrated, fused = (
        judge(head, labelled(few, y)).losses for head in (TemperedHead(), CalibratedHead(), FusedHead())
    )
    better = np.flatnonzero(own < np.minimum(calibrated, fused))
    worse = np.flatnonzero((own > np.maximum(calibrated, fused)) & (few.argmax(axis=1) != y))
    assert isinstance(choose_head("auto", few, y, better, prompted=True).head, TemperedHead)
    assert isinstance(choose_head("auto", few, y, worse, prompted=True).head, FusedHead | CalibratedHead)
    # Without a prompt, all images count.
    of_all = choose_head("auto", few, y, worse).losses
    np.testing.assert_array_equal(of_all, choose_head("auto", few, y, better).losses)


def test_own_answers_to_images_that_a_prompt_was_trained_on_choose_no_head():
    y = np.arange(60) % 3
    data = replace(labelled(8 * np.eye(3)[y] + np.random.default_rng(0).normal(size=(60, 3)), y), prompted=True)
    of_training = np.arange(12), data.columns[:12]
    found = [
        decision.choose_head("auto", replace(data, **known)).head
        for known in (
            {"last_answers": (np.empty(0, int), data.columns[:0])},  # of a correction
            {"last_answers": of_training},
            {"last_answers": of_training, "held_out": y == 0},
        )
    ]
    assert list(map(type, found)) == [TemperedHead, FusedHead, TemperedHead]


def test_a_class_of_one_image_gets_no_head_of_its_own_accord():
    scores, y = scores_with(2.0, n=13)  # one class has five images, the others four
    y = np.where(np.arange(13) == 12, 3, y)
    scores = np.hstack([scores, np.zeros((13, 1))])[:, [1, 2, 0, 3]]
    assert isinstance(choose_head("auto", scores, y, ALL).head, ServiceHead)
    assert choose_head("calibrated", scores, y, ALL).head.predict_log_proba(scores).shape == (13, 4)


def test_baselines():
    plain, y = scores_with(1.0)
    features = np.random.default_rng(1).normal(size=(90, 5))
    baselines = fit_baselines(labelled(plain[:, [1, 2, 0]], y, features, blocks=(3, 2)))
    assert list(baselines) == ["zero_shot", "calibrated_zero_shot", "local_probe", "fused_zero_shot"]
    assert baselines["zero_shot"].accuracy == (plain[:, [1, 2, 0]].argmax(1) == y).mean()
    assert baselines["calibrated_zero_shot"].accuracy > baselines["zero_shot"].accuracy + 0.2
    assert baselines["local_probe"].accuracy < 0.5
    assert baselines["fused_zero_shot"].accuracy > baselines["zero_shot"].accuracy + 0.2
    assert (baselines["local_probe"].head.n_features_in_, baselines["fused_zero_shot"].head.n_features_in_) == (5, 8)
    helpful = fit_baselines(labelled(plain, y, features_with(2, y)))
    assert helpful["local_probe"].accuracy > 0.8
    one_of_a_class = np.where(np.arange(90) == 5, 1, 0)
    few = fit_baselines(labelled(plain, one_of_a_class, features, blocks=(3, 2)))
    assert list(few) == ["zero_shot", "calibrated_zero_shot"]
    one_class = labelled(plain, np.zeros(90, dtype=int), features, blocks=(3, 2))
    assert list(fit_baselines(one_class)) == ["zero_shot"]


@pytest.mark.parametrize(("fraction", "sizes"), [(0.25, [4, 2, 0]), (0.0, [0, 0, 0]), (0.5, [8, 4, 1])])
def test_held_out_rows_are_a_share_of_each_class(fraction, sizes):
    y = np.repeat([0, 1, 2], [16, 8, 3])
    held_out = split_held_out(y, fraction, np.random.default_rng(0))
    assert [np.sum(y[held_out] == label) for label in range(3)] == sizes
    assert (np.diff(held_out) > 0).all()


def test_of_many_images_a_share_of_each_class_is_judged():
    y = np.repeat([0, 1, 2], [600, 300, 3])
    rng = np.random.default_rng(0)
    rows = judged_rows(y, 90, rng)
    assert [np.sum(y[rows] == label) for label in range(3)] == [59, 29, 2]
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(judged_rows(y, 903, rng), np.arange(903))
    # Of many classes, there are two images of each.
    y = np.arange(16_000) % 4_000
    np.testing.assert_array_equal(np.bincount(y[judged_rows(y, 2_000, rng)]), np.full(4_000, 2))


class Fixed:
    """Prompted images whose scores are as good as the parameter says; it counts what it bills."""

    def __init__(self, y):
        self.y, self.billed = y, 0

    def score_columns(self, w, rows):
        self.billed += len(rows)
        return w[0] * np.eye(3)[self.y[rows]]


def validation_of(prompted, temperature, judged_rows, rows, **limits):
    data = TrainingSet(None, prompted.y, np.ones(len(prompted.y)), np.unique(prompted.y))
    return Validation(prompted, data, temperature, judged_rows, rows, **limits)


def test_validation_remembers_the_best_and_bills_no_image_twice():
    y = np.arange(12) % 3
    prompted = Fixed(y)
    validation = validation_of(prompted, Temperature(1.0), np.arange(12), np.array([0, 4, 8]), n_checks=4, patience=2)
    validation.spread_over(10)
    assert [k for k in range(1, 11) if validation.is_due(k)] == [3, 6, 9, 10]
    assert validation.cost == 12
    validation.set_start(np.zeros((12, 3)))
    loss = {value: np.log(1 + 2 * np.exp(-value)) for value in (0.0, 1.0, 2.0, 3.0)}
    for value, before in ((1.0, 0.0), (3.0, 1.0), (2.0, 3.0)):
        figures = validation.check(np.array([value]))
        assert validation.improvement == pytest.approx(1 - loss[value] / loss[before])
    assert figures["validation_accuracy"] == 1
    assert figures["validation_loss"] == pytest.approx(np.log(1 + 2 * np.exp(-2)))
    assert not validation.exhausted
    np.testing.assert_array_equal(validation.best_w, [3.0])
    before = prompted.billed
    log_scores = validation.judged_columns(validation.best_w)
    assert prompted.billed - before == 9
    np.testing.assert_array_equal(log_scores, 3 * np.eye(3)[y])
    validation.judged_columns(np.array([5.0]))
    assert prompted.billed - before == 9 + 12
    validation.check(np.array([1.0]))
    assert validation.exhausted


def test_validation_judges_scores_at_their_own_temperature():
    """A prompt is not the better one for making a service less sure of the same answers."""
    scores, y = scores_with(1.5)
    for temperature, same in ((None, True), (1.0, False)):
        prompted, learned = Fixed(y), Temperature(temperature)
        prompted.score_columns = lambda w, rows: w[0] * scores[rows]
        validation = validation_of(prompted, learned, np.arange(90), np.arange(0, 90, 2), n_checks=4)
        sure, unsure = (validation.check(np.array([w]))["validation_loss"] for w in (10.0, 1.0))
        assert (sure == pytest.approx(unsure, abs=0.02)) == same
        assert learned.value == 1  # checks teach it nothing


def test_without_rows_nothing_is_due():
    validation = validation_of(Fixed(np.arange(3)), Temperature(1.0), np.arange(3), np.array([], dtype=int), n_checks=0)
    validation.spread_over(5)
    assert not any(validation.is_due(k) for k in range(1, 6))
    assert not validation.exhausted


def test_guard_keeps_a_prompt_that_helps_and_drops_one_that_harms():
    good, y = scores_with(4.0)
    bad, _ = scores_with(1.0)
    good, bad = (judge(ServiceHead(), labelled(scores, y)) for scores in (good, bad))
    held_out = np.arange(0, 90, 4)
    assert prompt_helps(bad, good, held_out)
    assert not prompt_helps(good, bad, held_out)
    assert prompt_helps(bad, good, np.array([], dtype=int))


@pytest.mark.parametrize("seed", range(3))
def test_guard_drops_a_prompt_where_the_service_says_nothing(seed):
    """What tells the classes apart is then the local features, with the prompt as without."""
    X, y = make_stripes(n=60, n_classes=3, side=9, seed=seed)
    clf = BlackVIPClassifier(Undecided(), "{}", prompter="basis", max_queries=1000, random_state=seed, verbose=0)
    with pytest.warns(PromptNotUsedWarning):
        clf.fit(X, y)
    assert not clf.prompt_used_


def test_guard_drops_a_prompt_that_only_flatters_its_training_images():
    plain, y = scores_with(2.0)
    held_out = np.arange(0, 90, 9)
    flattered = plain + 3 * np.eye(3)[y]
    flattered[held_out] = plain[held_out] - 3 * np.eye(3)[y][held_out]
    plain, flattered = (judge(ServiceHead(), labelled(scores, y)) for scores in (plain, flattered))
    assert flattered.accuracy > plain.accuracy
    assert not prompt_helps(plain, flattered, held_out)


def results(n_right, losses, n=100):
    """A result with so many of n images right, the first ones, and these losses."""
    _, y = scores_with(1.0, n=n)
    losses = np.broadcast_to(np.asarray(losses, dtype=float), n)
    held_out = np.full((n, 3), np.log(1 / 3))
    return HeadResult(ServiceHead(), held_out, np.arange(n) < n_right, losses, np.ones(n))


def test_a_head_is_worse_by_accuracy_or_by_log_loss_beyond_a_standard_error():
    rng = np.random.default_rng(0)
    noise = rng.normal(scale=0.1, size=100)
    good = results(80, 0.5)
    assert results(70, 0.5).is_worse(good)
    assert results(70, 0.4).is_worse(good)  # sure of itself, but often wrong
    assert not results(78, 0.4).is_worse(good)  # two images, but a lower log loss
    assert results(78, 0.5).is_worse(good)
    assert not results(79, 0.5).is_worse(good)  # one image, whose standard error is one image
    assert results(80, 0.6 + noise).is_worse(good)
    assert not results(80, 0.505 + noise - noise.mean()).is_worse(good)
    assert not results(90, 0.6 + noise).is_worse(good)  # more accurate
    assert not good.is_worse(good)
    assert results(70, 0.5).is_worse(good, np.arange(60, 100))
    assert not results(70, 0.5).is_worse(good, np.arange(60))


def test_no_head_that_is_less_accurate_and_has_the_higher_log_loss_is_preferred_to_the_services_own_answers():
    found = []
    for seed in range(15):
        scores, y = scores_with(2.5, n=30, seed=seed)
        chosen, tempered = (choose_head(head, scores, y, ALL) for head in ("auto", "tempered"))
        beaten = chosen.accuracy < tempered.accuracy and chosen.log_loss > tempered.log_loss
        found.append((type(chosen.head), beaten))
    assert {kind for kind, _ in found} == {TemperedHead, FusedHead}
    assert not any(beaten for _, beaten in found)


def test_a_head_is_beaten_in_both_accuracy_and_log_loss_be_it_by_little():
    good = results(80, 0.5)
    assert results(79, 0.501).is_beaten_by(good)
    assert not any(results(*other).is_beaten_by(good) for other in ((79, 0.499), (80, 0.6), (81, 0.501)))
    assert not results(79, 0.501).is_beaten_by(good, np.arange(79))


@pytest.mark.parametrize("head", ["auto", "calibrated", None])
def test_a_prompt_that_makes_the_service_surer_but_more_often_wrong_is_dropped(head):
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    right = np.arange(120) < 108  # of the plain service, which is far too sure
    plain = 60.0 * np.eye(3)[np.where(right, y, (y + 1) % 3)] + rng.normal(size=(120, 3))
    fewer = rng.permutation(120) < 80
    prompted = 2.0 * np.eye(3)[np.where(fewer, y, (y + 1) % 3)] + rng.normal(size=(120, 3)) / 10
    scored = scored_images(plain, prompted, y, rng.normal(size=(120, 16)), (16,))
    without = fit_without_prompt(scored, head)
    outcome = decide(without, scored, None, head, guard=True)
    assert not outcome.prompt_used
    assert outcome.result.accuracy >= 0.87
    assert decide(without, scored, None, head, guard=False).prompt_used


def test_it_is_said_if_no_head_helps_or_the_one_that_was_asked_for_does_not():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 10
    plain = 4.0 * np.eye(10)[np.where(rng.uniform(size=60) < 0.9, y, (y + 1) % 10)] + rng.normal(size=(60, 10))
    scored = scored_images(plain, np.full_like(plain, np.nan), y, rng.normal(size=(60, 16)), (16,))
    notes = {
        head: decide(fit_without_prompt(scored, head), scored, None, head, True).head_note
        for head in ("auto", "calibrated", None)
    }
    assert notes[None] == ""
    assert (
        "The calibrated head classifies the training images worse than the service's own answers (accuracy 0.9"
        in (notes["calibrated"])
    )
    assert "No head classifies the training images better than the service's own answers (accuracy 0.9" in notes["auto"]
    # With a prompt, these answers are those to images with it.
    prompted = 8.0 * np.eye(10)[y] + rng.normal(size=(60, 10))
    better = scored_images(plain, prompted, y, scored.features, (16,))
    decision = decide(fit_without_prompt(better, "auto"), better, None, "auto", True)
    assert decision.prompt_used
    assert f"own answers (accuracy {decision.result.accuracy:.3f}), so" in decision.head_note
    without = fit_without_prompt(scored, "auto")
    table = str(Leaderboard(without.baselines, decide(without, scored, None, "auto", True).result, False))
    assert table.splitlines()[0].split() == ["on", "training", "images", "accuracy", "log", "loss"]
    assert table.splitlines()[-1].startswith("used: no prompt, tempered head")
    assert len(table.splitlines()) == 6


@pytest.mark.parametrize("guard", [True, False])
@pytest.mark.parametrize("better", [True, False, None])
def test_the_decision_is_for_a_prompt_and_its_own_head(better, guard):
    bad, y = scores_with(1.0)
    good, _ = scores_with(4.0)
    plain, prompted = (bad, good) if better else (good, bad)
    prompted = prompted if better is not None else np.full_like(prompted, np.nan)  # not scored, as after an error
    scored = scored_images(plain, prompted, y, features_with(1.0, y), held_out=np.arange(90) % 4 == 0)
    for head, name in ((None, "zero_shot"), ("calibrated", "calibrated_zero_shot"), ("fused", "fused_zero_shot")):
        without = fit_without_prompt(scored, head)
        used, shipped, *_ = decide(without, scored, None, head, guard)
        assert used == (better is not None and (better or not guard))
        assert (shipped is without.baselines[name]) == (not used)


def test_a_class_instead_of_a_head_is_refused_before_anything_is_sent(service, stripes):
    with pytest.raises(ValueError, match="'head' parameter .* an instance of a class with 'fit' and 'predict_proba'"):
        BlackVIPClassifier(service, head=LogisticRegression, max_queries=300, verbose=0).fit(*stripes)
    assert service.n_images == 0


class OneRowIsTooFew(DummyClassifier):
    def predict_proba(self, X):
        return super().predict_proba(X)[:, 0] if len(X) == 1 else super().predict_proba(X)


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (
            KNeighborsClassifier(30),
            r"fitted to 12 images of 2 classes, 6 of the smallest: ValueError: Expected n_neigh",
        ),
        (
            KNeighborsClassifier(10),
            "cross-validated on 12 images of 2 classes, 6 of the smallest, which fits it to 9 of",
        ),
        (CalibratedClassifierCV(cv=6), "cross-validated on 12 .*Use more images, or another head, such as head='auto'"),
        (OneRowIsTooFew(), r"predict_proba returned an array of shape \(1,\) for one image; expected .* \(1, 2\)"),
    ],
)
@pytest.mark.parametrize("call", ["fit", "partial_fit", "plan"])
def test_a_head_that_cannot_fit_so_few_images_is_refused_before_anything_is_sent(service, head, reason, call):
    X, y = make_stripes(n=12)
    clf = BlackVIPClassifier(service, head=head, prompter="basis", max_queries=300, random_state=0, verbose=0)
    with pytest.raises(ValueError, match=reason):
        getattr(clf, call)(X, y)
    assert service.n_images == 0
    assert not hasattr(clf, "classes_")


def test_a_head_is_tried_on_all_images_of_partial_fit_and_once_more_after_it_changed(service):
    X, y = make_stripes(n=16)
    clf = BlackVIPClassifier(service, prompter="basis", head=KNeighborsClassifier(5), max_queries=300, verbose=0)
    clf.partial_fit(X[:8], y[:8]).partial_fit(X[8:10], y[8:10])
    sent = service.n_images
    with pytest.raises(ValueError, match="which fits it to 9 of them"):
        clf.set_params(head=KNeighborsClassifier(10)).partial_fit(X[10:12], y[10:12])
    assert service.n_images == sent


def test_a_trial_of_a_head_leaves_no_trace():
    """A head may need scores that are all positive, or all negative, and draw from the generators of the process."""
    y = np.arange(30) % 3
    torch.manual_seed(0)
    np.random.seed(0)
    expected, expected_torch = np.random.get_state()[1].copy(), torch.get_rng_state()

    def draws(X):
        np.random.uniform(size=3), torch.rand(3)
        warnings.warn("a head that warns", UserWarning, stacklevel=1)
        return X

    logs = FunctionTransformer(lambda X: np.log(draws(-X)), validate=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for head in (MultinomialNB(), make_pipeline(logs, LogisticRegression()), "auto", None):
            check_head_fits(head, 3, y, np.ones(30))
    np.testing.assert_array_equal(np.random.get_state()[1], expected)
    assert torch.equal(torch.get_rng_state(), expected_torch)
    with pytest.raises(ValueError, match="does not support sample_weight"):
        check_head_fits(KNeighborsClassifier(), 3, y, np.arange(30) + 1.0)
