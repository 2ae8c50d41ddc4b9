"""Automatic gains on prompters and losses whose right answer is known."""

import numpy as np
import pytest
from conftest import ToyService, make_stripes

from blackvip import CMAES, RGF, SPSA, SPSAGC, PromptBasis, Subspace
from blackvip.inputs.images import ImageFormat
from blackvip.inputs.training_set import TrainingSet
from blackvip.losses import Temperature
from blackvip.optimizers.gains import BUDGET_SHARE, noise_tolerance
from blackvip.scorers import Ledger
from blackvip.scorers.memory import AnswerMemory
from blackvip.training.batches import Batches
from blackvip.training.features import TrainingFeatures
from blackvip.training.gains import TrainingProbe
from blackvip.training.objective import Objective
from blackvip.training.plan import RunBudget


class Count:
    n_queries = 0


class Linear:
    """Prompts that are the parameters times `scale`, and a loss that depends on the prompt's size alone."""

    def __init__(self, loss, scale=2.0, d=20):
        self.loss, self.scale, self.d, self.ledger = loss, scale, d, Count()

    def prompt_rms(self, w, directions):
        return self.scale * np.sqrt(np.mean(np.square(directions), axis=1))

    def candidate_losses(self, candidates, rows):
        self.ledger.n_queries += len(candidates) * rows.shape[-1]
        return np.array([self.loss(self.scale * w) for w in candidates])


def start(optimizer, objective, batches, budget, d=20):
    """Find the gains of an optimizer, and start it."""
    rng = np.random.default_rng(0)
    optimizer.find_gains(TrainingProbe(objective, batches, budget), np.zeros(d), rng)
    optimizer.start(np.zeros(d), rng)


def rms(prompt):
    return np.sqrt(np.mean(np.square(prompt)))


@pytest.mark.parametrize(
    ("loss", "size"),
    [
        (lambda prompt: 1 + 1000 * rms(prompt) ** 2, 0.01),  # everything hurts
        (lambda prompt: 1 + 1000 * (rms(prompt) - 0.09) ** 2, 0.09),
        (lambda prompt: 1 + 0.4 * abs(rms(prompt) - 0.03), 0.03),  # little matters
        (lambda prompt: 1 - 3 * rms(prompt), 0.27),  # the more the better
    ],
)
def test_noise_tolerance_finds_the_size_that_the_service_likes(loss, size):
    objective = Linear(loss)
    rng = np.random.default_rng(0)
    probe = TrainingProbe(objective, Batches(np.arange(40), 8, np.random.default_rng(0)), 1_000)
    assert noise_tolerance(probe, np.zeros(20), rng, 12) == size
    assert objective.ledger.n_queries == 4 * 12


@pytest.mark.parametrize("normalize", [False, True])
def test_a_bounds_the_noise_of_a_run(normalize):
    slope = np.random.default_rng(1).normal(size=20)
    objective = Linear(lambda prompt: float(slope @ prompt))
    batches = Batches(np.arange(40), 8, np.random.default_rng(0))
    sampler = SPSAGC(a=1.0, c=0.1, n_directions=3, normalize=normalize)
    a, measured = sampler._measured_a(
        TrainingProbe(objective, batches, 1_000),
        np.zeros(20),
        np.random.default_rng(0),
        n_estimates=1,
        n_steps=50,
        tolerance=0.1,
    )
    optimizer = SPSAGC(a=1.0, c=0.1, n_directions=3)
    optimizer.start(np.zeros(20), np.random.default_rng(0))
    estimate = optimizer.estimate(objective.candidate_losses(optimizer.ask(), np.arange(8)))
    assert measured == pytest.approx(np.linalg.norm(estimate))
    step = estimate / measured if normalize else estimate
    assert a * rms(2.0 * step) * optimizer.accumulated_noise(50) == pytest.approx(0.1 * 150 / 170)


#: Budgets with which 500 parameters are more than a run has directions, and ones with which 20 are fewer.
NOISE, SIGNAL = 500, 20


@pytest.mark.parametrize("d", [NOISE, SIGNAL])
def test_gains_fit_parameters_of_any_scale(d):
    found = []
    for scale in (1.0, 100.0):
        objective = Linear(lambda prompt: 1 + prompt.sum() + 10 * rms(prompt) ** 2, scale=scale, d=d)
        optimizer = SPSAGC(n_directions=5, share_batch=True)
        start(optimizer, objective, Batches(np.arange(40), 8, np.random.default_rng(0)), 5_000, d)
        assert optimizer.normalize_ == (d == SIGNAL)
        found.append((optimizer.a_, optimizer.c_))
    (a, c), (a_100, c_100) = found
    assert c_100 == pytest.approx(c / 100)
    if d == SIGNAL:
        assert a_100 == pytest.approx(a / 100)  # the length of a step, whatever the slope
    else:
        assert a_100 == pytest.approx(a / 100**2, rel=1e-6)  # the slope is 100 times as steep, the way as short


@pytest.mark.parametrize("d", [NOISE, SIGNAL])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("budget", [2_000, 5_000])
@pytest.mark.parametrize(("a", "c"), [("auto", "auto"), (0.1, "auto"), ("auto", 0.1), (0.1, 0.1)])
def test_gains_bill_what_was_said(a, c, budget, shared, d):
    objective = Linear(lambda prompt: 1.0, d=d)
    optimizer = SPSA(a=a, c=c, n_directions=2, share_batch=shared)
    batches = Batches(np.arange(100), 16, np.random.default_rng(0))
    cost = optimizer.gain_cost(d, batches.n_rows_each(optimizer), 100, budget)
    assert cost == RunBudget.of(optimizer, d, batches, budget).gains
    start(optimizer, objective, batches, budget, d)
    assert objective.ledger.n_queries == cost <= BUDGET_SHARE * budget
    assert (cost > 0) == ("auto" in (a, c) and not (a == "auto" and d == SIGNAL))
    assert isinstance(optimizer.a_, float)
    assert isinstance(optimizer.c_, float)
    assert (optimizer.a, optimizer.c) == (a, c)  # parameters stay as they were given


@pytest.mark.parametrize("n_steps", [4, 5, 6])
def test_a_run_with_more_directions_than_parameters_is_annealed(n_steps):
    """And one with as many or fewer has its gains measured."""
    objective = Linear(lambda prompt: 1 + prompt.sum() + 10 * rms(prompt) ** 2)
    batches = Batches(np.arange(40), 8, np.random.default_rng(0))
    optimizer = SPSAGC(a="auto", c="auto", n_directions=4)  # of 20 parameters
    annealed = n_steps > 5
    assert (optimizer.signal_share(20, n_steps) > 0.5) == annealed
    given = SPSAGC(a=0.1, c=0.1, n_directions=4)
    start(given, objective, batches, 1_000)
    assert not given.normalize_
    budget = n_steps * 8 * 2 + 15  # what does not pay for a step is left over
    assert (optimizer.gain_cost(20, 2, 40, budget) == 0) == annealed
    start(optimizer, objective, batches, budget)
    assert (objective.ledger.n_queries == 0) == annealed
    assert optimizer.normalize_ == annealed
    assert optimizer.n_steps_ == (n_steps if annealed else None)
    assert (rms(2.0 * optimizer.c_ * np.full(20, 0.75)) > 0.1) == annealed  # measured ones are 0.08 at most


@pytest.mark.parametrize("c", ["auto", 0.2])
def test_annealed_gains_move_prompts_by_set_sizes(c):
    X, y = make_stripes(n=30, n_classes=3, side=9)
    image_format, images = ImageFormat.learn(X)
    prompter = PromptBasis().fit_pixels(image_format.pixels(images[:]))
    ledger = Ledger(ToyService(), list("abc"))
    data = TrainingSet(images, y, np.ones(30), np.arange(3))
    objective = Objective(TrainingFeatures(prompter, images), data, ledger, AnswerMemory(), 0.8, Temperature())
    optimizer = SPSAGC(a="auto", c=c, clip="auto", n_directions=4)
    batches = Batches(np.arange(30), 8, np.random.default_rng(0))
    start(optimizer, objective, batches, 1_600, d=14)
    assert ledger.n_queries == 0
    assert (optimizer.normalize_, optimizer.n_steps_, optimizer.clip_) == (True, 100, None)
    # Random signs make the squares of the parts of a sum of phi add up, however alike they are: each has an rms of 0.3.
    entry = 7 / 12  # mean square of an entry of a direction
    assert 0.8 * optimizer.a_ * 0.3 == pytest.approx(0.006, rel=0.35)
    if c == "auto":
        assert 0.8 * optimizer.c_ * 0.3 * np.sqrt(14 * entry) == pytest.approx(0.15, rel=0.35)
    else:
        assert optimizer.c_ == 0.2
    assert ledger.n_queries == 0


def test_annealed_gains_of_linear_prompts_are_exact():
    objective = Linear(lambda prompt: 1.0)
    optimizer = SPSAGC(n_directions=5)
    start(optimizer, objective, Batches(np.arange(40), 8, np.random.default_rng(0)), 5_000)
    assert 2 * optimizer.a_ / np.sqrt(20) == pytest.approx(0.006)  # of any direction of length 1


@pytest.mark.parametrize(
    ("a", "clip", "d", "expected"),
    [("auto", "auto", NOISE, "found"), ("auto", "auto", SIGNAL, None), (0.1, "auto", NOISE, None)]
    + [("auto", 3.0, d, 3.0) for d in (NOISE, SIGNAL)],
)
def test_clip(a, clip, d, expected):
    objective = Linear(lambda prompt: 1 + prompt.sum(), d=d)
    optimizer = SPSAGC(a=a, c=0.1, clip=clip, n_directions=100)  # so many that all estimates are alike
    batches = Batches(np.arange(40), 8, np.random.default_rng(0))
    start(optimizer, objective, batches, 1_000, d)
    if expected == "found":
        length = np.linalg.norm(optimizer.estimate(objective.candidate_losses(optimizer.ask(), np.arange(8))))
        assert optimizer.clip_ == pytest.approx(2 * length, rel=0.3)
    else:
        assert optimizer.clip_ == expected


@pytest.mark.parametrize(
    ("improvement", "n_steps", "a", "w"),
    [
        (0.3, None, 0.3, 0),
        (0.02, None, 0.6, 0),
        (0.0, None, 0.3, 0),
        (-0.02, None, 0.3, 0),
        (-0.2, None, 0.1, 1),
        (0.02, 100, 0.3, 0),  # one that falls stays as it is
        (-0.2, 100, 0.3, 0),
    ],
)
def test_step_size_is_corrected_after_checks(improvement, n_steps, a, w):
    optimizer = SPSAGC(c=0.1)
    optimizer.state = {"a": 0.3, "normalize": False, "n_steps": n_steps}  # as find_gains leaves it
    optimizer.start(np.zeros(100), np.random.default_rng(0))
    given = SPSAGC(a=0.3, c=0.1)
    given.start(np.zeros(100), np.random.default_rng(0))
    for one, expected in ((optimizer, (a, w)), (given, (0.3, 0))):  # a step size that was given stays
        one.adapt(improvement, np.ones(100))
        assert one.a_ == pytest.approx(expected[0])
        np.testing.assert_array_equal(one.w, np.full(100, expected[1]))


@pytest.mark.parametrize("kind", ["orthonormal", "gaussian"])
def test_gains_are_found_and_corrected_within_a_subspace(kind):
    objective = Linear(lambda prompt: 1 + prompt.sum() + 10 * rms(prompt) ** 2, d=500)
    batches = Batches(np.arange(40), 8, np.random.default_rng(0))
    optimizer = Subspace(SPSAGC(), n_dims=200, kind=kind)
    cost = optimizer.gain_cost(500, 2, 40, 500)
    start(optimizer, objective, batches, 500, d=500)
    assert objective.ledger.n_queries == cost > 0
    assert optimizer.a_ > 0
    moved = 2 * np.sqrt(np.mean(np.square(optimizer.ask() - optimizer.w)))
    assert 0.02 < moved < 0.1  # of random directions, whichever they are
    a, best = optimizer.a_, optimizer.ask()[0]
    optimizer.adapt(-0.3, best)
    assert optimizer.a_ == pytest.approx(a / 3)
    np.testing.assert_allclose(optimizer.w, best)
    assert optimizer.optimizer.get_params() == SPSAGC().get_params()


def test_optimizers_that_find_nothing_bill_nothing():
    for optimizer in (RGF(n_steps="auto", c="auto"), CMAES()):
        objective = Linear(lambda prompt: 1.0)
        start(optimizer, objective, Batches(np.arange(40), 8, np.random.default_rng(0)), 960)
        assert optimizer.gain_cost(20, 8, 40, 960) == objective.ledger.n_queries == 0
    rgf = RGF(n_steps="auto", c="auto")
    start(rgf, objective, Batches(np.arange(40), 8, np.random.default_rng(0)), 960)
    assert rgf.n_steps_ == 20
    assert 2 * rgf.c_ / np.sqrt(20) == pytest.approx(1 / 255)
    assert (rgf.n_steps, rgf.c) == ("auto", "auto")
