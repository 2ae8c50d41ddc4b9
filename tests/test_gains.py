"""Automatic gains on prompters and losses whose right answer is known."""

import numpy as np
import pytest

from blackvip import SPSA, SPSAGC
from blackvip.gains import BUDGET_SHARE, adapt_step_size, find_a, gain_cost, noise_tolerance, set_gains
from blackvip.training import Batches


class Ledger:
    n_queries = 0


class Linear:
    """Prompts that are the parameters times `scale`, and a loss that depends on the prompt's size alone."""

    def __init__(self, loss, scale=2.0, d=20):
        self.loss, self.scale, self.d, self.ledger = loss, scale, d, Ledger()

    def prompt_rms(self, w, direction):
        return self.scale * np.sqrt(np.mean(np.square(direction)))

    def candidate_losses(self, candidates, rows):
        self.ledger.n_queries += len(candidates) * len(rows)
        return np.array([self.loss(self.scale * w) for w in candidates])


def rms(prompt):
    return np.sqrt(np.mean(np.square(prompt)))


@pytest.mark.parametrize(
    ("loss", "size", "bold"),
    [
        (lambda prompt: 1 + 1000 * rms(prompt) ** 2, 0.01, 0.01),  # everything hurts
        (lambda prompt: 1 + 1000 * (rms(prompt) - 0.09) ** 2, 0.09, 0.09),
        (lambda prompt: 1 + 0.4 * abs(rms(prompt) - 0.03), 0.03, 0.09),  # little matters
        (lambda prompt: 1 - 3 * rms(prompt), 0.27, 0.27),  # the more the better
    ],
)
def test_noise_tolerance_finds_the_size_that_the_service_likes(loss, size, bold):
    objective = Linear(loss)
    rng = np.random.default_rng(0)
    assert noise_tolerance(objective, np.zeros(20), np.arange(40), rng, 12, bold=False) == size
    assert noise_tolerance(objective, np.zeros(20), np.arange(40), rng, 12, bold=True) == bold
    assert objective.ledger.n_queries == 2 * 4 * 12


def test_a_bounds_the_noise_of_a_run():
    slope = np.random.default_rng(1).normal(size=20)
    objective = Linear(lambda prompt: float(slope @ prompt))
    optimizer = SPSAGC(a="auto", c=0.1, n_directions=3)
    batches = Batches(np.arange(40), 8, np.random.default_rng(0))
    a, measured = find_a(
        objective, optimizer, np.zeros(20), batches, np.random.default_rng(0), n_estimates=1, n_steps=50, tolerance=0.1
    )
    optimizer.start(np.zeros(20), np.random.default_rng(0))
    estimate = optimizer.estimate(objective.candidate_losses(optimizer.ask(), np.arange(8)))
    assert measured == pytest.approx(np.linalg.norm(estimate))
    assert a * rms(2.0 * estimate) * optimizer.accumulated_noise(50) == pytest.approx(0.1 * 150 / 170)


def test_gains_fit_parameters_of_any_scale():
    found = []
    for scale in (1.0, 100.0):
        objective = Linear(lambda prompt: 1 + prompt.sum() + 10 * rms(prompt) ** 2, scale=scale)
        optimizer = SPSAGC(a="auto", c="auto")
        batches = Batches(np.arange(40), 8, np.random.default_rng(0))
        set_gains(objective, optimizer, np.zeros(20), batches, np.random.default_rng(0), 10_000)
        found.append((optimizer.a, optimizer.c))
    (a, c), (a_100, c_100) = found
    assert c_100 == pytest.approx(c / 100)
    assert a_100 == pytest.approx(a / 100**2, rel=1e-6)  # the slope is 100 times as steep, the way as short


@pytest.mark.parametrize("budget", [2_000, 20_000])
@pytest.mark.parametrize(("a", "c"), [("auto", "auto"), (0.1, "auto"), ("auto", 0.1), (0.1, 0.1)])
def test_gains_bill_what_was_said(a, c, budget):
    objective = Linear(lambda prompt: 1.0)
    optimizer = SPSA(a=a, c=c, n_directions=2)
    batches = Batches(np.arange(100), 16, np.random.default_rng(0))
    cost = gain_cost(optimizer, batches, budget)
    set_gains(objective, optimizer, np.zeros(20), batches, np.random.default_rng(0), budget)
    assert objective.ledger.n_queries == cost <= BUDGET_SHARE * budget
    assert cost == 0 or "auto" in (a, c)
    assert isinstance(optimizer.a, float)
    assert isinstance(optimizer.c, float)


@pytest.mark.parametrize(
    ("a", "clip", "expected"), [("auto", "auto", "found"), (0.1, "auto", None), ("auto", 3.0, 3.0)]
)
def test_clip(a, clip, expected):
    objective = Linear(lambda prompt: 1 + prompt.sum())
    optimizer = SPSAGC(a=a, c=0.1, clip=clip, n_directions=100)  # so many that all estimates are alike
    batches = Batches(np.arange(40), 8, np.random.default_rng(0))
    set_gains(objective, optimizer, np.zeros(20), batches, np.random.default_rng(0), 10_000)
    if expected == "found":
        length = np.linalg.norm(optimizer.estimate(objective.candidate_losses(optimizer.ask(), np.arange(8))))
        assert optimizer.clip == pytest.approx(2 * length, rel=0.3)
    else:
        assert optimizer.clip == expected


@pytest.mark.parametrize(
    ("improvement", "n_steps", "a", "w"),
    [
        (0.3, 100, 0.6, 0),  # 500 directions for 100 parameters: signal
        (0.02, 100, 0.6, 0),
        (0.3, 10, 0.3, 0),  # 50 directions for 100 parameters: noise
        (0.02, 10, 0.6, 0),
        (0.0, 10, 0.3, 0),
        (-0.02, 100, 0.3, 0),
        (-0.2, 100, 0.1, 1),
        (-0.2, 10, 0.1, 1),
    ],
)
def test_step_size_is_corrected_after_checks(improvement, n_steps, a, w):
    class Checks:
        best_w = np.ones(100)

    Checks.improvement, Checks.n_steps = improvement, n_steps
    optimizer = SPSAGC(a=0.3)
    optimizer.start(np.zeros(100), np.random.default_rng(0))
    adapt_step_size(optimizer, Checks)
    assert optimizer.a == pytest.approx(a)
    np.testing.assert_array_equal(optimizer.w, np.full(100, w))
