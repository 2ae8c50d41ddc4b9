"""The optimizers against literal loops over the formulas, and on functions with known minima."""

import numpy as np
import pytest

from blackvip import SPSA, SPSAGC
from blackvip.optimizers import segmented_uniform


def loss(w):
    return np.sum((w - np.arange(len(w))) ** 2 * (1 + np.arange(len(w)))) + np.sin(w).sum()


def literal_loop(w, seed, steps, *, a, c, o, alpha, gamma, beta, draws, gc):
    """SPSA(-GC) number by number, as METHOD writes it, with the perturbations of the same generator."""
    rng = np.random.default_rng(seed)
    w, m = list(w), None
    for k in range(1, steps + 1):
        a_k, c_k = a / (k + o) ** alpha, c / k**gamma
        deltas = segmented_uniform(rng, (draws, len(w)))
        g = [0.0] * len(w)
        for delta in deltas:
            plus = loss(np.array([w[i] + c_k * delta[i] for i in range(len(w))]))
            minus = loss(np.array([w[i] - c_k * delta[i] for i in range(len(w))]))
            for i in range(len(w)):
                g[i] += (plus - minus) / (2 * c_k * delta[i]) / draws
        if not gc:
            w = [w[i] - a_k * g[i] for i in range(len(w))]
            continue
        m = list(g) if m is None else [beta * m[i] + g[i] for i in range(len(w))]
        w = [w[i] - a_k * (g[i] + beta * m[i]) for i in range(len(w))]
    return np.array(w)


@pytest.mark.parametrize("gc", [True, False])
def test_equals_the_formulas_for_50_steps(gc):
    gains = dict(a=0.002, c=0.05, alpha=0.4, gamma=0.1, n_directions=5)
    optimizer = SPSAGC(stability=3.0, momentum=0.8, **gains) if gc else SPSA(stability=3.0, **gains)
    start = np.linspace(-1, 1, 7)
    optimizer.start(start, np.random.default_rng(4))
    for _ in range(50):
        optimizer.tell([loss(w) for w in optimizer.ask()])
    expected = literal_loop(start, 4, 50, a=0.002, c=0.05, o=3.0, alpha=0.4, gamma=0.1, beta=0.8, draws=5, gc=gc)
    np.testing.assert_allclose(optimizer.w, expected, atol=1e-6, rtol=0)
    assert np.abs(expected - start).max() > 0.1


def test_defaults_are_the_papers():
    assert SPSAGC().get_params() == dict(
        a=0.01, c=0.01, alpha=0.4, gamma=0.1, stability=1.0, momentum=0.9, n_directions=5, clip=None
    )


def test_segmented_uniform_fills_both_segments_evenly():
    delta = segmented_uniform(np.random.default_rng(0), 40_000)
    assert np.abs(delta).min() >= 0.5
    assert np.abs(delta).max() <= 1
    np.testing.assert_allclose(np.quantile(np.abs(delta), [0.25, 0.5, 0.75]), [0.625, 0.75, 0.875], atol=0.01)
    assert abs((delta > 0).mean() - 0.5) < 0.01


def test_estimate_is_unbiased_for_a_linear_loss():
    slope = np.array([1.0, -2.0, 0.5])
    optimizer = SPSA(n_directions=40_000)
    optimizer.start(np.zeros(3), np.random.default_rng(0))
    np.testing.assert_allclose(optimizer.estimate(optimizer.ask() @ slope), slope, atol=0.06)


def test_clip_bounds_the_estimate_and_survives_equal_losses():
    optimizer = SPSAGC(a=1.0, clip=0.5, momentum=0.0)
    optimizer.start(np.zeros(4), np.random.default_rng(0))
    optimizer.tell(1e6 * np.arange(len(optimizer.ask())))
    assert optimizer.figures()["estimate_norm"] == pytest.approx(0.5)
    before = optimizer.w
    optimizer.ask()
    optimizer.tell(np.ones(10))  # a saturated service answers all alike
    np.testing.assert_array_equal(optimizer.w, before)


def test_accumulated_noise_is_the_spread_of_a_random_walk():
    optimizer = SPSAGC(a=0.3, momentum=0.7, n_directions=1)
    n_steps, ends = 20, []
    rng = np.random.default_rng(0)
    for _ in range(4000):
        walker = SPSAGC(a=0.3, momentum=0.7)
        walker.start(np.zeros(1), rng)
        for sign in rng.choice([-1.0, 1.0], n_steps):
            walker._step(np.array([sign]))
        ends.append(walker.w[0])
    assert np.std(ends) == pytest.approx(0.3 * optimizer.accumulated_noise(n_steps), rel=0.05)


@pytest.mark.parametrize("optimizer", [SPSA(a=0.05, c=0.1), SPSAGC(a=0.01, c=0.1)])
def test_finds_the_minimum_of_a_quadratic(optimizer):
    target = np.array([1.0, -1.0, 2.0])
    optimizer.start(np.zeros(3), np.random.default_rng(0))
    for _ in range(300):
        optimizer.tell(np.square(optimizer.ask() - target).sum(axis=1))
    np.testing.assert_allclose(optimizer.w, target, atol=0.02)
