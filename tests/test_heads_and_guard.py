"""Heads, controls and the guard, on scores made up to have a known answer."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from blackvip import CalibratedHead
from blackvip.controls import fit_controls
from blackvip.guard import Validation, prompt_helps, split_held_out
from blackvip.heads import ServiceHead
from blackvip.heads import choose_head as choose_weighted_head
from blackvip.heads import judge as judge_weighted
from blackvip.losses import cross_entropy


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


def test_calibrated_head_is_logistic_regression_and_judged_out_of_fold():
    scores, y = scores_with(2.0)
    head = CalibratedHead(Cs=(0.3,))
    held_out = head.fit_held_out(scores, y)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=1000))
    np.testing.assert_allclose(head.predict_log_proba(scores), model.fit(scores, y).predict_log_proba(scores))
    train, test = next(StratifiedKFold(5, shuffle=True, random_state=0).split(scores, y))
    np.testing.assert_allclose(held_out[test], model.fit(scores[train], y[train]).predict_log_proba(scores[test]))


def judge(head, scores, y):
    return judge_weighted(head, scores, y, np.ones(len(y)), scores.shape[1])


def choose_head(head, scores, y, held_out):
    return choose_weighted_head(head, scores, y, np.ones(len(y)), held_out)


ALL = np.arange(0)  # no image is held out: heads are compared on all


def test_auto_takes_a_head_where_it_helps_and_none_where_it_does_not():
    scores, y = scores_with(4.0)
    permuted = scores[:, [1, 2, 0]]
    assert isinstance(choose_head("auto", permuted, y, ALL).head, CalibratedHead)
    assert choose_head("auto", permuted, y, ALL).accuracy > 0.9
    assert isinstance(choose_head(None, permuted, y, ALL).head, ServiceHead)
    few, y_few = scores_with(3.0, n=20, n_classes=10, seed=1)  # two shots do not teach a head ten classes
    assert isinstance(choose_head("auto", 2 * few, y_few, ALL).head, ServiceHead)
    assert isinstance(choose_head("calibrated", 2 * few, y_few, ALL).head, CalibratedHead)
    own = CalibratedHead(Cs=(1.0,))
    assert choose_head(own, scores, y, ALL).head is not own
    with pytest.raises(ValueError, match="head='linear'; expected 'auto'"):
        choose_head("linear", scores, y, ALL)


def test_auto_compares_on_the_held_out_images_alone():
    few, y = scores_with(3.0, n=20, n_classes=10, seed=1)
    few = 2 * few
    wrong = np.flatnonzero(few.argmax(axis=1) != y)
    right = np.flatnonzero(few.argmax(axis=1) == y)
    assert isinstance(choose_head("auto", few, y, right).head, ServiceHead)
    assert isinstance(choose_head("auto", few, y, np.tile(wrong, 2)).head, CalibratedHead)


def test_a_class_of_one_image_gets_no_head_of_its_own_accord():
    scores, y = scores_with(2.0, n=13)  # one class has five images, the others four
    y = np.where(np.arange(13) == 12, 3, y)
    scores = np.hstack([scores, np.zeros((13, 1))])[:, [1, 2, 0, 3]]
    assert isinstance(choose_head("auto", scores, y, ALL).head, ServiceHead)
    assert choose_head("calibrated", scores, y, ALL).head.predict_log_proba(scores).shape == (13, 4)


def test_controls():
    plain, y = scores_with(1.0)
    features = np.random.default_rng(1).normal(size=(90, 5))
    controls = fit_controls(plain[:, [1, 2, 0]], features, y, np.ones(90))
    assert list(controls) == ["zero_shot", "calibrated_zero_shot", "local_probe"]
    assert controls["zero_shot"].accuracy == (plain[:, [1, 2, 0]].argmax(1) == y).mean()
    assert controls["calibrated_zero_shot"].accuracy > controls["zero_shot"].accuracy + 0.2
    assert controls["local_probe"].accuracy < 0.5


@pytest.mark.parametrize(("fraction", "sizes"), [(0.25, [4, 2, 0]), (0.0, [0, 0, 0]), (0.5, [8, 4, 1])])
def test_held_out_rows_are_a_share_of_each_class(fraction, sizes):
    y = np.repeat([0, 1, 2], [16, 8, 3])
    rows, held_out = split_held_out(y, fraction, np.random.default_rng(0))
    assert [np.sum(y[held_out] == label) for label in range(3)] == sizes
    np.testing.assert_array_equal(np.sort(np.concatenate([rows, held_out])), np.arange(27))


class Fixed:
    """An objective whose held-out scores are as good as its parameter says; it counts what it bills."""

    def __init__(self, y):
        self.y, self.weights, self.billed = y, np.ones(len(y)), 0

    def log_scores(self, w, rows):
        self.billed += len(rows)
        return w[0] * np.eye(3)[self.y[rows]]


def test_validation_remembers_the_best_and_bills_no_image_twice():
    y = np.arange(12) % 3
    objective = Fixed(y)
    validation = Validation(objective, np.array([0, 4, 8]), n_checks=4, patience=2)
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
    before = objective.billed
    log_scores = validation.completed_log_scores(validation.best_w)
    assert objective.billed - before == 9
    np.testing.assert_array_equal(log_scores, 3 * np.eye(3)[y])
    validation.completed_log_scores(np.array([5.0]))
    assert objective.billed - before == 9 + 12
    validation.check(np.array([1.0]))
    assert validation.exhausted


def test_without_rows_nothing_is_due():
    validation = Validation(Fixed(np.arange(3)), np.array([], dtype=int), n_checks=0)
    validation.spread_over(5)
    assert not any(validation.is_due(k) for k in range(1, 6))
    assert not validation.exhausted


def test_guard_keeps_a_prompt_that_helps_and_drops_one_that_harms():
    good, y = scores_with(4.0)
    bad, _ = scores_with(1.0)
    good, bad = (judge(ServiceHead(), scores, y) for scores in (good, bad))
    held_out = np.arange(0, 90, 4)
    assert prompt_helps(bad, good, held_out)
    assert not prompt_helps(good, bad, held_out)
    assert prompt_helps(bad, good, np.array([], dtype=int))


def test_guard_drops_a_prompt_that_only_flatters_its_training_images():
    plain, y = scores_with(2.0)
    held_out = np.arange(0, 90, 9)
    flattered = plain + 3 * np.eye(3)[y]
    flattered[held_out] = plain[held_out] - 3 * np.eye(3)[y][held_out]
    plain, flattered = (judge(ServiceHead(), scores, y) for scores in (plain, flattered))
    assert flattered.accuracy > plain.accuracy
    assert not prompt_helps(plain, flattered, held_out)
