"""The regressions that heads are made of, against scikit-learn's and a generic optimiser's."""

import tracemalloc

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from blackvip.heads import regression
from blackvip.heads.regression import Regressions, regression_loss
from blackvip.heads.scaling import scaling_of


def rows_of(n_classes=3, n_inputs=4, n=60, separation=2.0, seed=0):
    """Inputs (n, n_inputs) behind which the classes are, class indices, and weights (3, n), some of them 0."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    X = separation * rng.normal(size=(n_classes, n_inputs))[y] / np.sqrt(n_inputs) + rng.normal(size=(n, n_inputs))
    weights = rng.uniform(0.2, 3, size=(3, n))
    weights[0, : n // 4] = weights[1, -n // 5 :] = 0
    return X, y, weights


def test_gradient_of_the_loss():
    rng = np.random.default_rng(1)
    X, y, weights = rows_of(n=20)
    experts = log_softmax(rng.normal(size=(2, 3, 20)), axis=1)
    args = experts, np.concatenate([np.ones((1, 20)), X.T])[None], y, weights, rng.uniform(0.1, 2, 2 + 3 * 5)
    parameters = rng.normal(size=(3, 17))
    _, gradient, excess = regression_loss(parameters, *args)
    for fit in range(3):
        one = lambda p, fit=fit: regression_loss(np.where(np.arange(3)[:, None] == fit, p, parameters), *args)[0][fit]
        np.testing.assert_allclose(gradient[fit], approx_fprime(parameters[fit], one, 1e-6), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(excess.sum(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(np.maximum(excess, 0).sum(axis=1), -excess[:, y, np.arange(20)])


# Few parameters, for Newton's method, and many; more inputs than rows; classes that are far apart.
@pytest.mark.parametrize(
    ("n_classes", "n_inputs", "n", "separation"), [(3, 4, 60, 2), (10, 10, 80, 9), (12, 40, 90, 2), (3, 200, 40, 1)]
)
@pytest.mark.parametrize("shared", [True, False])
def test_it_is_logistic_regression(n_classes, n_inputs, n, separation, shared):
    X, y, weights = rows_of(n_classes, n_inputs, n, separation)
    z = X.T[None] if shared else X.T * np.array([1.0, 0.5, 2.0])[:, None, None]
    regressions = Regressions(z, y, weights, n_classes)
    # Each strength starts from the solutions for the one before, of which nothing remains.
    for C in (0.1, 30.0, 1.0):
        found = regressions.fit(1 / C)
        for fit, of_fit in enumerate(weights):
            model = LogisticRegression(C=C, tol=1e-8, max_iter=10_000)
            inputs = z[fit % len(z)].T
            model.fit(inputs[of_fit > 0], y[of_fit > 0], sample_weight=of_fit[of_fit > 0])
            ours = log_softmax(inputs @ found.coef[fit].T + found.intercept[fit], axis=1)
            np.testing.assert_allclose(np.exp(ours), model.predict_proba(inputs), atol=1e-4)


@pytest.mark.parametrize("inputs", [5, 0])
def test_newton_and_quasi_newton_find_the_same(monkeypatch, inputs):
    X, y, weights = rows_of(n_classes=4, n_inputs=5)
    rng = np.random.default_rng(2)
    # One that knows the classes, one that knows nothing, and one that is wrong, whose weight is 0.
    experts = log_softmax(np.stack([np.eye(4)[y], np.zeros((60, 4)), -np.eye(4)[y]]) + rng.normal(size=(3, 60, 4)), 2)
    args = X.T[None, :inputs], y, weights, 4, experts.transpose(0, 2, 1), 0.01
    found = Regressions(*args).fit(0.5)
    monkeypatch.setattr(regression, "_MOST_FOR_NEWTON", 0)
    expected = Regressions(*args).fit(0.5, 1e-13)
    for name in ("alpha", "intercept", "coef"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-4)
    assert (found.alpha[:, 0] > 0.1).all()
    assert (found.alpha[:, 2] == 0).all()


def test_weights_of_experts_that_become_zero_together_end_no_fit_early(monkeypatch):
    rng, y = np.random.default_rng(36), np.arange(12) % 3
    # Experts with a common error, of which some are wrong.
    logits = rng.uniform(-4, 8, (4, 1, 1)) * np.eye(3)[:, y] + 3 * rng.normal(size=(1, 3, 12))
    logits = logits + rng.uniform(0.01, 1, (4, 1, 1)) * rng.normal(size=(4, 3, 12))
    args = rng.normal(size=(1, 2, 12)), y, np.ones((1, 12)), 3, log_softmax(logits, axis=1), 0.01
    found = Regressions(*args).fit(10.0)
    monkeypatch.setattr(regression, "_MOST_FOR_NEWTON", 0)
    expected = Regressions(*args).fit(10.0, 1e-13)
    np.testing.assert_allclose(found.alpha, expected.alpha, atol=1e-2)


def test_what_newton_does_not_solve_is_left_to_quasi_newton(monkeypatch):
    X, y, weights = rows_of()
    expected = Regressions(X.T[None], y, weights, 3).fit(1.0)
    monkeypatch.setattr(regression, "_MOST_STEPS", 1)
    found = Regressions(X.T[None], y, weights, 3).fit(1.0)
    np.testing.assert_allclose(found.coef, expected.coef, atol=1e-4)


def test_single_precision_is_as_good_as_the_tolerance_asks(monkeypatch):
    monkeypatch.setattr(regression, "_MOST_FOR_NEWTON", 0)
    X, y, weights = rows_of()
    single, double = (Regressions(X.T[None], y, weights, 3).fit(1.0, ftol) for ftol in (1e-7, 1e-13))
    np.testing.assert_allclose(single.coef, double.coef, atol=1e-2)
    np.testing.assert_allclose(single.intercept, double.intercept, atol=1e-2)


@pytest.mark.parametrize(("n_classes", "n_inputs"), [(2, 60), (250, 0)])
def test_many_rows_take_memory_in_proportion_to_their_inputs(n_classes, n_inputs):
    X, y, weights = rows_of(n_classes=n_classes, n_inputs=60, n=4000)
    experts = np.zeros((1, n_classes, len(y)))
    tracemalloc.start()
    try:
        Regressions(X.T[None, :n_inputs], y, weights[:1], n_classes, experts, 0.01).fit(1.0)
        assert tracemalloc.get_traced_memory()[1] < 10 * (X.nbytes + experts.nbytes)
    finally:
        tracemalloc.stop()


def test_with_many_classes_inputs_count_in_the_directions_of_largest_variance(monkeypatch):
    X, y, weights = rows_of(n_classes=12, n_inputs=40, n=90)
    monkeypatch.setattr(regression, "_MOST_WEIGHTS", 130)
    found = Regressions(X.T[None], y, weights, 12).fit(2.0)
    directions = np.linalg.svd(X, full_matrices=False)[2][:10]
    same = Regressions((X @ directions.T).T[None], y, weights, 12).fit(2.0)
    assert found.z1.shape == (1, 1 + 10, 90)
    np.testing.assert_allclose(found.coef, same.coef @ directions, atol=1e-4)
    np.testing.assert_allclose(found.intercept, same.intercept, atol=1e-4)


@pytest.mark.parametrize("n_classes", [200, 1_000, 60_000])
def test_the_weights_of_a_regression_are_bounded(n_classes):
    rows = np.random.default_rng(0).normal(size=(1, 400, 20))
    regressions = Regressions(rows, np.arange(20), np.ones((1, 20)), n_classes)
    assert regressions._coef.size <= max(50_000, n_classes)


def test_a_class_without_weight_is_improbable():
    X, y, weights = rows_of()
    weights[:, y == 2] = 0
    found = Regressions(X.T[None], y, weights, 3).fit(1.0)
    assert (log_softmax(X @ found.coef[0].T + found.intercept[0], axis=1)[:, 2] < -5).all()


def test_scores_are_scaled_by_their_weighted_deviation():
    X, _, weights = rows_of()
    X[:, 1], X[:, 2] = 0.1, 1e6 + X[:, 2] / 1000
    mean, scale = scaling_of(X, weights)
    for of_fit, *found in zip(weights, mean, scale):
        scaler = StandardScaler().fit(X, sample_weight=of_fit)
        np.testing.assert_allclose(found, [scaler.mean_, scaler.scale_], rtol=1e-6)
    assert (scale[:, 1] == 1).all()
