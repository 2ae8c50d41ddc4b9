"""The temperature of a service, against a general minimiser."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from blackvip.losses import _PRIOR, _WINDOW, Temperature, cross_entropy, fit_temperature


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
