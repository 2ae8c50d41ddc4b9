"""The temperature of a service, against a general minimiser; focal loss, against its formula and BAR's limits."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from blackvip import SPSAGC, BlackVIPClassifier
from blackvip.losses import _PRIOR, _WINDOW, LOSSES, Temperature, cross_entropy, fit_temperature, focal


def random_scores(scale, separation, n, n_classes, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(n_classes, size=n)
    return scale * (rng.normal(size=(n, n_classes)) + separation * np.eye(n_classes)[y]), y


def best_log_temperature(log_scores, y):
    loss = lambda log_t: cross_entropy(log_scores * np.exp(-log_t), y).mean() + _PRIOR * log_t**2
    grid = np.linspace(-15, 15, 301)
    near = grid[np.argmin([loss(log_t) for log_t in grid])]
    return minimize_scalar(loss, bounds=(near - 0.2, near + 0.2), method="bounded", options={"xatol": 1e-9}).x


@pytest.mark.parametrize("scale", [0.01, 1, 100, 1e4])
@pytest.mark.parametrize("separation", [-1, 0, 1, 3])  # -1: a service that is rather wrong than right
@pytest.mark.parametrize(("n", "n_classes"), [(20, 2), (200, 10)])
def test_temperature_is_where_the_loss_is_lowest(scale, separation, n, n_classes):
    log_scores, y = random_scores(scale, separation, n, n_classes)
    best = best_log_temperature(log_scores, y)
    assert np.log(fit_temperature(log_scores, y)) == pytest.approx(best, abs=1e-4)
    near = np.exp(best + 0.1)  # as it is from one batch to the next
    assert np.log(fit_temperature(log_scores, y, near, n_steps=4)) == pytest.approx(best, abs=0.01)


@pytest.mark.parametrize("margin", [1.0, 10.0, 1e4])
@pytest.mark.parametrize("right", [True, False])
def test_temperature_of_a_service_that_is_always_right_or_always_wrong_is_bounded(margin, right):
    log_scores, y = margin * np.eye(3), np.arange(3) if right else np.array([1, 2, 0])
    with np.errstate(all="raise", under="ignore"):
        found = fit_temperature(log_scores, y)
    assert np.log(found) == pytest.approx(best_log_temperature(log_scores, y), abs=1e-4)
    assert found <= 1 if right else found > 1


@pytest.mark.parametrize("level", [0.0, -1e4])
def test_constant_scores_say_nothing_of_a_temperature(level):
    log_scores, y = np.full((6, 3), level), np.arange(6) % 3
    assert fit_temperature(log_scores, y) == 1
    assert fit_temperature(log_scores, y, start=50.0) == pytest.approx(1)


def test_a_fitted_temperature_does_not_depend_on_what_all_classes_have_in_common():
    log_scores, y = random_scores(3, 1, 50, 4)
    shifted = log_scores + np.random.default_rng(1).normal(0, 1e3, (50, 1))
    assert fit_temperature(shifted, y) == pytest.approx(fit_temperature(log_scores, y), rel=1e-5)


def test_a_service_that_is_sure_of_anything_costs_what_knowing_nothing_costs():
    log_scores, y = random_scores(20, 0, 3000, 4)
    assert cross_entropy(log_scores, y).mean() > 10
    assert Temperature().best_losses(log_scores, y).mean() == pytest.approx(np.log(4), abs=0.05)


def test_losses_come_before_what_is_learned_from_them():
    temperature = Temperature()
    log_scores, y = random_scores(10, 1, 40, 3)
    np.testing.assert_array_equal(temperature.losses(log_scores, y), cross_entropy(log_scores, y))
    learned = temperature.value
    assert learned > 1
    np.testing.assert_array_equal(temperature.losses(log_scores, y), cross_entropy(log_scores / learned, y))


def test_batch_by_batch_a_temperature_learns_the_last_window_alone():
    temperature = Temperature()
    before, y_before = random_scores(30, 0, 4000, 3)
    for part in np.split(np.arange(4000), 100):
        temperature.learn(before[part], y_before[part])
    last = np.arange(4000 - 520, 4000)  # the fewest of these batches that have a window's number
    assert _WINDOW == 500
    expected = fit_temperature(before[last], y_before[last])
    assert temperature.value == pytest.approx(expected, rel=1e-3)
    after, y_after = random_scores(1, 2, 4000, 3, seed=1)
    for part in np.split(np.arange(640), 16):  # of the old ones, the last goes with the 13th
        temperature.learn(after[part], y_after[part])
    assert temperature.value == pytest.approx(fit_temperature(after[120:640], y_after[120:640]), rel=1e-3)
    assert temperature.value < 2 < expected
    temperature.learn(after[1000:], y_after[1000:])  # a batch larger than a window counts as a whole
    temperature.learn(after[:0], y_after[:0])
    assert temperature.value == pytest.approx(fit_temperature(after[1000:], y_after[1000:]), rel=1e-3)


def test_a_fixed_temperature_stays():
    temperature = Temperature(2.5)
    log_scores, y = random_scores(10, 1, 40, 3)
    for losses in (temperature.losses, temperature.losses, temperature.best_losses):
        np.testing.assert_array_equal(losses(log_scores, y), cross_entropy(log_scores / 2.5, y))
    temperature.learn(log_scores, y)
    assert temperature.value == 2.5


def test_the_best_losses_teach_nothing():
    temperature = Temperature()
    log_scores, y = random_scores(10, 1, 40, 3)
    expected = cross_entropy(log_scores / fit_temperature(log_scores, y), y)
    np.testing.assert_allclose(temperature.best_losses(log_scores, y), expected)
    np.testing.assert_allclose(temperature.best_losses(5 * log_scores, y), expected, atol=0.05)  # the prior is weak
    assert temperature.value == 1


def test_focal_loss_equals_its_formula():
    log_scores, y = random_scores(2, 1, 200, 5)
    p = np.exp(log_scores) / np.exp(log_scores).sum(axis=1, keepdims=True)
    of_class = p[np.arange(200), y]
    for gamma in (0.0, 0.5, 2.0, 5.0):
        np.testing.assert_allclose(
            focal(log_scores, y, gamma), -((1 - of_class) ** gamma) * np.log(of_class), rtol=1e-9
        )
    np.testing.assert_allclose(focal(log_scores, y), focal(log_scores, y, 2.0))
    np.testing.assert_allclose(focal(log_scores, y, 0.0), cross_entropy(log_scores, y))


def test_focal_loss_of_many_candidates_and_of_services_that_are_sure():
    log_scores, y = random_scores(3, 1, 30, 4)
    both = focal(np.stack([log_scores, 2 * log_scores]), y)
    np.testing.assert_allclose(both, [focal(log_scores, y), focal(2 * log_scores, y)])
    with np.errstate(all="raise", under="ignore"):
        right, wrong, nearly = focal(np.array([[1e4, 0.0], [0.0, 1e4], [12.0, 0.0]]), np.zeros(3, dtype=int))
    assert (right, wrong) == (0, 1e4)
    assert nearly == pytest.approx(np.exp(-12) ** 3, rel=1e-4)  # 1 - p and -log p are both exp(-12)


def test_a_temperature_takes_its_loss_at_the_temperature_of_the_lowest_cross_entropy():
    log_scores, y = random_scores(20, 1, 300, 3)
    temperature = Temperature(loss="focal")
    for _ in range(5):  # a few of Newton's steps each
        temperature.learn(log_scores, y)
    best = fit_temperature(log_scores, y)
    assert best > 2
    np.testing.assert_allclose(temperature.losses(log_scores, y), focal(log_scores / best, y), rtol=1e-3)
    np.testing.assert_allclose(temperature.best_losses(log_scores, y), focal(log_scores / best, y), rtol=1e-3)
    assert LOSSES["focal"] is focal


def test_a_fit_lowers_the_loss_that_it_is_told_to(service, stripes):
    history = {}
    for loss in LOSSES:
        clf = BlackVIPClassifier(
            service, prompter="basis", loss=loss, temperature=1.0, a=1e-12, c=1e-9, max_queries=400, batch_size=40,
            optimizer=SPSAGC(share_batch=True),
            head=None, guard=False, random_state=0, verbose=0,
        )  # fmt: skip
        clf.fit(*stripes)
        history[loss] = [row["loss"] for row in clf.history_]
    X, y = stripes
    scores = service(X, ["0", "1"])
    for loss, value in (("cross-entropy", cross_entropy), ("focal", focal)):
        assert history[loss] == pytest.approx([value(scores, y).mean()] * len(history[loss]), rel=1e-6)
    assert history["focal"][0] < history["cross-entropy"][0]


def test_another_loss_is_refused(service, stripes):
    with pytest.raises(ValueError, match="'loss' parameter of BlackVIPClassifier must be a str among"):
        BlackVIPClassifier(service, loss="hinge").fit(*stripes)
