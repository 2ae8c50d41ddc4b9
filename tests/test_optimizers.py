"""The optimizers against literal loops over the formulas, and on functions with known minima."""

import copy
import pickle
from functools import partial

import cmaes
import numpy as np
import pytest
from conftest import ToyService, make_stripes
from sklearn.base import clone

import blackvip
from blackvip import CMAES, RGF, SPSA, SPSAGC, AdamSPSA, BlackVIPClassifier, FusedHead, Subspace
from blackvip.optimizers import Optimizer, make_optimizer, segmented_uniform
from blackvip.persistence.fields import Reading, Writing
from blackvip.persistence.objects import Object

#: One of each kind.
ALL = [
    SPSA(a=0.05, c=0.1, n_directions=5),
    SPSA(a=0.05, c=0.01, sides=1, n_directions=5),
    SPSAGC(a=0.01, c=0.1, n_directions=5),
    SPSAGC(a=0.01, c=0.01, sides=1, n_directions=5),
    SPSAGC(a=0.05, c=0.1, normalize=True, n_steps=300, n_directions=5),
    AdamSPSA(a=0.1, c=0.1),
    RGF(a=0.1, n_steps=300, n_directions=3),
    CMAES(sigma=0.5),
    Subspace(SPSAGC(a=0.01, c=0.1, n_directions=5), n_dims=3),
    Subspace(CMAES(sigma=0.5), n_dims=3, kind="gaussian"),
]
EACH = pytest.mark.parametrize("optimizer", ALL, ids=repr)


def loss(w):
    return np.sum((w - np.arange(len(w))) ** 2 * (1 + np.arange(len(w)))) + np.sin(w).sum()


def run(optimizer, n_steps, loss=loss):
    """`n_steps` further steps of an optimizer that has started; its parameter vector after them."""
    for _ in range(n_steps):
        optimizer.tell(np.array([loss(w) for w in optimizer.ask()]))
    return optimizer.w


def started(optimizer, w, seed=0):
    optimizer = copy.deepcopy(optimizer)
    optimizer.start(w, np.random.default_rng(seed))
    return optimizer


def literal_loop(w, seed, steps, *, a, c, o, alpha, gamma, draws, rule, sides=2, beta=0.8):
    """SPSA, SPSA-GC and Adam number by number, as METHOD and the papers write them, with the same perturbations."""
    rng = np.random.default_rng(seed)
    w, m, v = list(w), None, [0.0] * len(w)
    for k in range(1, steps + 1):
        a_k, c_k = a / (k + o) ** alpha, c / k**gamma
        deltas = segmented_uniform(rng, (draws, len(w)))
        g = [0.0] * len(w)
        for delta in deltas:
            plus = loss(np.array([w[i] + c_k * delta[i] for i in range(len(w))]))
            minus = loss(np.array([w[i] - c_k * delta[i] for i in range(len(w))]))
            for i in range(len(w)):
                two_sided = (plus - minus) / (2 * c_k * delta[i])
                one_sided = (plus - loss(np.array(w))) / (c_k * delta[i])
                g[i] += (two_sided if sides == 2 else one_sided) / draws
        if rule == "plain":
            w = [w[i] - a_k * g[i] for i in range(len(w))]
        elif rule == "gc":
            m = list(g) if m is None else [beta * m[i] + g[i] for i in range(len(w))]
            w = [w[i] - a_k * (g[i] + beta * m[i]) for i in range(len(w))]
        else:
            m = m or [0.0] * len(w)
            for i in range(len(w)):
                m[i] = beta * m[i] + (1 - beta) * g[i]
                v[i] = 0.95 * v[i] + (1 - 0.95) * g[i] ** 2
                w[i] -= a_k * (m[i] / (1 - beta**k)) / ((v[i] / (1 - 0.95**k)) ** 0.5 + 1e-3)
    return np.array(w)


@pytest.mark.parametrize("sides", [2, 1])
@pytest.mark.parametrize(
    ("rule", "cls", "a", "own"),
    [
        ("plain", SPSA, 0.002, {}),
        ("gc", SPSAGC, 0.002, {"momentum": 0.8}),
        ("adam", AdamSPSA, 0.05, {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-3}),
    ],
)
def test_equals_the_formulas_for_50_steps(rule, cls, a, own, sides):
    gains = dict(a=a, c=0.05, alpha=0.4, gamma=0.1)
    start = np.linspace(-1, 1, 7)
    optimizer = started(cls(stability=3.0, n_directions=5, sides=sides, **own, **gains), start, seed=4)
    expected = literal_loop(start, 4, 50, o=3.0, draws=5, rule=rule, sides=sides, **gains)
    np.testing.assert_allclose(run(optimizer, 50), expected, atol=1e-6, rtol=0)
    assert np.abs(expected - start).max() > 0.1


@pytest.mark.parametrize("clip", [None, 30.0])
def test_normalized_spsa_gc_equals_a_literal_loop_for_50_steps(clip):
    start = np.linspace(-1, 1, 7)
    settings = dict(a=0.02, c=0.3, momentum=0.8, n_directions=4, n_steps=50)
    optimizer = started(SPSAGC(normalize=True, clip=clip, **settings), start, seed=4)
    rng, w, m, square, n_clipped = np.random.default_rng(4), list(start), [0.0] * 7, None, 0
    for k in range(50):
        a_k, c_k = 0.02 * (1 - k / 50), 0.3 * (1 - 0.9 * k / 50)
        assert (optimizer.a_k, optimizer.c_k) == pytest.approx((a_k, c_k), rel=1e-12)
        g = [0.0] * 7
        for delta in segmented_uniform(rng, (4, 7)):
            plus = loss(np.array([w[i] + c_k * delta[i] for i in range(7)]))
            minus = loss(np.array([w[i] - c_k * delta[i] for i in range(7)]))
            g = [g[i] + (plus - minus) / (2 * c_k * delta[i]) / 4 for i in range(7)]
        length = sum(number**2 for number in g) ** 0.5
        if clip is not None and length > clip:
            g, n_clipped = [number * clip / length for number in g], n_clipped + 1
        square_now = sum(number**2 for number in g)
        square = square_now if square is None else 0.95 * square + 0.05 * square_now
        g = [number / square**0.5 for number in g]
        m = [0.8 * m[i] + g[i] for i in range(7)]
        w = [w[i] - a_k * (g[i] + 0.8 * m[i]) for i in range(7)]
        np.testing.assert_allclose(run(optimizer, 1), w, atol=1e-10, rtol=0)
    assert np.abs(w - start).max() > 0.1
    assert (n_clipped > 0) == (clip is not None)


@pytest.mark.parametrize("cls", [SPSA, SPSAGC])
@pytest.mark.parametrize("factor", [1000.0, 1e-6])
def test_normalized_steps_do_not_depend_on_the_scale_of_the_losses(cls, factor):
    settings = dict(a=0.05, c=0.1, n_steps=40, n_directions=5)
    one, other = (started(cls(normalize=True, **settings), np.linspace(-1, 1, 5)) for _ in range(2))
    np.testing.assert_allclose(run(one, 40), run(other, 40, lambda w: factor * loss(w)), rtol=1e-8)
    assert np.abs(one.w - np.linspace(-1, 1, 5)).max() > 0.1
    plain, scaled = (started(cls(a=1e-5, c=0.1, n_directions=5), np.linspace(-1, 1, 5)) for _ in range(2))
    assert np.abs(run(plain, 5) - run(scaled, 5, lambda w: factor * loss(w))).max() > 1e-5


def test_normalized_steps_bear_losses_that_are_all_alike():
    optimizer = started(SPSA(a=0.1, c=0.1, normalize=True), np.zeros(4))
    with np.errstate(all="raise"):
        run(optimizer, 3, lambda w: 0.0)
        np.testing.assert_array_equal(optimizer.w, np.zeros(4))
        assert optimizer.figures()["step_norm"] == 0
        run(optimizer, 1)
        length = optimizer.figures()["step_norm"]
        assert length == pytest.approx(optimizer.figures()["a_k"])  # the first that says anything has length 1
        before = optimizer.w
        run(optimizer, 400, lambda w: 7.0)
        np.testing.assert_array_equal(optimizer.w, before)
        run(optimizer, 1)
    assert np.isfinite(optimizer.w).all()
    assert (optimizer.w != before).all()


def gains_of(optimizer, n_steps):
    """(a_k, c_k) of each of so many further steps."""
    gains = []
    for _ in range(n_steps):
        gains.append((optimizer.a_k, optimizer.c_k))
        run(optimizer, 1)
    return np.array(gains)


def test_gains_fall_linearly_and_a_further_run_begins_anew():
    optimizer = started(SPSAGC(a=0.5, c=0.2, n_steps=10, alpha=0.9, gamma=0.9, normalize=True), np.zeros(3))
    left = 1 - np.arange(10) / 10
    np.testing.assert_allclose(gains_of(optimizer, 10), np.stack([0.5 * left, 0.2 * (0.1 + 0.9 * left)], axis=1))
    np.testing.assert_allclose(gains_of(optimizer, 3), [[0.05, 0.038]] * 3)  # beyond the end all steps are as the last
    m, square, w = optimizer.state["m"], optimizer.state["square"], optimizer.w
    optimizer.begin_run(4)
    assert (optimizer.n_steps_, optimizer.n_steps) == (4, 10)
    np.testing.assert_array_equal(optimizer.w, w)
    assert (optimizer.state["m"] is m, optimizer.state["square"]) == (True, square)
    np.testing.assert_allclose(gains_of(optimizer, 4), [[0.5, 0.2], [0.375, 0.155], [0.25, 0.11], [0.125, 0.065]])
    optimizer.begin_run(0)
    np.testing.assert_allclose(gains_of(optimizer, 1), [[0.5, 0.2]])


@pytest.mark.parametrize(
    "optimizer", [SPSAGC(0.01, 0.01), AdamSPSA(), RGF(n_steps=5), CMAES(), Subspace(SPSA(0.01, 0.01), n_dims=2)]
)
def test_optimizers_whose_steps_do_not_depend_on_their_number_go_on_in_a_further_run(optimizer):
    one, other = (started(optimizer, np.linspace(-1, 1, 3)) for _ in range(2))
    run(one, 3), run(other, 3)
    other.begin_run(20)
    np.testing.assert_array_equal(run(one, 3), run(other, 3))
    assert repr(one) == repr(other)


def test_a_further_run_begins_anew_within_a_subspace():
    inner = SPSA(a=0.5, c=0.2, n_steps=10)
    optimizer = started(Subspace(inner, n_dims=2), np.zeros(3))
    run(optimizer, 10)
    optimizer.begin_run(4)
    a_k = []
    for _ in range(4):
        run(optimizer, 1)
        a_k.append(optimizer.figures()["a_k"])
    np.testing.assert_allclose(a_k, [0.5, 0.375, 0.25, 0.125])
    assert inner.n_steps == 10


def test_rgf_equals_the_formulas_for_50_steps():
    start = np.linspace(-1, 1, 7)
    settings = dict(a=0.004, a_end=0.001, n_steps=40, power=0.9, n_directions=3)
    optimizer = started(RGF(c=0.02, **settings), start, seed=4)
    rng, w = np.random.default_rng(4), list(start)
    for k in range(1, 51):
        a_k = 0.001 + 0.003 * (1 - (k - 1) / 40) ** 0.9 if k <= 40 else 0.001
        g = [0.0] * 7
        for u in rng.normal(size=(3, 7)):
            u = u / sum(number**2 for number in u) ** 0.5
            slope = (loss(np.array([w[i] + 0.02 * u[i] for i in range(7)])) - loss(np.array(w))) / 0.02
            g = [g[i] + 7 / 3 * slope * u[i] for i in range(7)]
        w = [w[i] - a_k * g[i] for i in range(7)]
    np.testing.assert_allclose(run(optimizer, 50), w, atol=1e-6, rtol=0)
    assert np.abs(w - start).max() > 0.1


def hansen(mean, sigma, size, draw, steps):
    """CMA-ES as Hansen's tutorial writes it (arXiv 1604.00772, figure 6); `draw` gives a step's normal numbers."""
    n, mean = len(mean), np.array(mean)
    raw = np.array([np.log((size + 1) / 2) - np.log(i) for i in range(1, size + 1)])  # eq. 49
    mu = size // 2
    mu_eff, mu_eff_minus = (part.sum() ** 2 / (part**2).sum() for part in (raw[:mu], raw[mu:]))
    c_c = (4 + mu_eff / n) / (n + 4 + 2 * mu_eff / n)
    c_1 = 2 / ((n + 1.3) ** 2 + mu_eff)
    c_mu = min(1 - c_1, 2 * (mu_eff - 2 + 1 / mu_eff) / ((n + 2) ** 2 + mu_eff))
    c_s = (mu_eff + 2) / (n + mu_eff + 5)
    d_s = 1 + 2 * max(0, np.sqrt((mu_eff - 1) / (n + 1)) - 1) + c_s
    alpha = min(1 + c_1 / c_mu, 1 + 2 * mu_eff_minus / (mu_eff + 2), (1 - c_1 - c_mu) / (n * c_mu))
    positive, negative = raw[raw > 0].sum(), -raw[raw < 0].sum()
    weights = np.where(raw >= 0, raw / positive, alpha * raw / negative)  # eq. 53
    chi = np.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))
    C, p_s, p_c = np.eye(n), np.zeros(n), np.zeros(n)
    for g in range(1, steps + 1):
        D2, B = np.linalg.eigh(C)
        x = np.array([mean + sigma * (B * np.sqrt(D2)) @ z for z in draw(size)])
        y = (x[np.argsort([loss(one) for one in x])] - mean) / sigma
        y_w = sum(weights[i] * y[i] for i in range(mu))
        root = B @ np.diag(D2**-0.5) @ B.T
        mean = mean + sigma * y_w
        p_s = (1 - c_s) * p_s + np.sqrt(c_s * (2 - c_s) * mu_eff) * root @ y_w
        length = np.linalg.norm(p_s)
        h = float(length / np.sqrt(1 - (1 - c_s) ** (2 * (g + 1))) < (1.4 + 2 / (n + 1)) * chi)
        p_c = (1 - c_c) * p_c + h * np.sqrt(c_c * (2 - c_c) * mu_eff) * y_w
        scaled = [w if w >= 0 else w * n / np.linalg.norm(root @ one) ** 2 for w, one in zip(weights, y)]
        C = (1 + c_1 * (1 - h) * c_c * (2 - c_c) - c_1 - c_mu * weights.sum()) * C + c_1 * np.outer(p_c, p_c)
        C = C + c_mu * sum(w * np.outer(one, one) for w, one in zip(scaled, y))
        sigma = sigma * np.exp(c_s / d_s * (length / chi - 1))
    return mean, sigma, C


@pytest.mark.parametrize("size", [None, 11])
def test_cma_es_equals_the_formulas_for_30_steps(size):
    start, rng = np.linspace(-1, 1, 7), np.random.default_rng(4)
    optimizer = started(CMAES(sigma=0.3, population_size=size), start, seed=4)
    w = run(optimizer, 30)
    draw = lambda n: np.random.RandomState(rng.integers(2**32)).randn(n, 7)
    mean, sigma, C = hansen(start, 0.3, optimizer.n_candidates, draw, 30)
    np.testing.assert_allclose(w, mean, atol=1e-6, rtol=0)  # the package adds 1e-8 to what it divides by
    np.testing.assert_allclose(optimizer.state["sigma"], sigma, rtol=1e-6)
    np.testing.assert_allclose(optimizer.state["C"], C, atol=1e-6, rtol=0)
    assert np.abs(w - start).max() > 0.1


def test_cma_es_is_made_anew_as_the_package_goes_on():
    """What is rebuilt at each step does, to the last bit, what one object of the package does."""
    rng, start = np.random.default_rng(4), np.linspace(-1, 1, 7)
    theirs = cmaes.CMA(start, 0.3)
    for _ in range(30):
        theirs.reseed_rng(int(rng.integers(2**32)))
        population = [theirs.ask() for _ in range(theirs.population_size)]
        theirs.tell([(w, loss(w)) for w in population])
    np.testing.assert_array_equal(run(started(CMAES(sigma=0.3), start, seed=4), 30), theirs.mean)


@pytest.mark.parametrize("d", [1, 2, 12, 100, 1000])
def test_the_population_is_the_packages(d):
    assert CMAES().n_candidates_for(d) == cmaes.CMA(np.zeros(d), 1.0).population_size


def test_defaults():
    assert SPSAGC().get_params() == dict(
        **dict(a="auto", c="auto", alpha=0.4, gamma=0.1, stability=1.0, momentum=0.9, n_directions=4, clip="auto"),
        **dict(sides=2, normalize=False, n_steps=None, share_batch=False),
    )
    assert CMAES().get_params() == dict(sigma=0.3, population_size=None)
    assert SPSA().get_params().items() <= SPSAGC().get_params().items()
    adam, rgf = AdamSPSA().get_params(), RGF().get_params()
    assert (adam["beta1"], adam["beta2"], adam["epsilon"]) == (0.9, 0.999, 1e-8)
    assert (rgf["c"], rgf["power"], rgf["n_directions"]) == (0.01, 0.9, 5)


def test_segmented_uniform_fills_both_segments_evenly():
    delta = segmented_uniform(np.random.default_rng(0), 40_000)
    assert np.abs(delta).min() >= 0.5
    assert np.abs(delta).max() <= 1
    np.testing.assert_allclose(np.quantile(np.abs(delta), [0.25, 0.5, 0.75]), [0.625, 0.75, 0.875], atol=0.01)
    assert abs((delta > 0).mean() - 0.5) < 0.01


@pytest.mark.parametrize(
    "optimizer",
    [SPSA(0.01, 0.01, n_directions=40_000), SPSA(0.01, 0.01, n_directions=40_000, sides=1), RGF(n_directions=40_000)],
)
def test_estimate_is_unbiased_for_a_linear_loss(optimizer):
    slope = np.array([1.0, -2.0, 0.5])
    optimizer = started(optimizer, np.ones(3))
    np.testing.assert_allclose(optimizer.estimate(optimizer.ask() @ slope), slope, atol=0.06)


def test_clip_bounds_the_estimate_and_survives_equal_losses():
    optimizer = SPSAGC(a=1.0, c=0.01, clip=0.5, momentum=0.0, n_directions=5)
    optimizer.start(np.zeros(4), np.random.default_rng(0))
    optimizer.tell(1e6 * np.arange(len(optimizer.ask())))
    assert optimizer.figures()["estimate_norm"] == pytest.approx(0.5)
    before = optimizer.w
    optimizer.ask()
    optimizer.tell(np.ones(10))  # a saturated service answers all alike
    np.testing.assert_array_equal(optimizer.w, before)


@pytest.mark.parametrize("falling", [{}, {"n_steps": 20, "normalize": True}])
def test_accumulated_noise_is_the_spread_of_a_random_walk(falling):
    optimizer = SPSAGC(a=0.3, momentum=0.7, n_directions=1, **falling)
    n_steps, ends = 20, []
    rng = np.random.default_rng(0)
    for _ in range(4000):
        walker = SPSAGC(a=0.3, c=0.01, momentum=0.7, **falling)
        walker.start(np.zeros(1), rng)
        for sign in rng.choice([-1.0, 1.0], n_steps):
            walker._step(np.array([sign]))
        ends.append(walker.w[0])
    assert np.std(ends) == pytest.approx(0.3 * optimizer.accumulated_noise(n_steps), rel=0.05)


@EACH
def test_finds_the_minimum_of_a_quadratic(optimizer):
    target = np.array([1.0, -1.0, 2.0])  # the subspaces here have all three dimensions
    w = run(started(optimizer, np.zeros(3)), 300, lambda w: np.square(w - target).sum())
    np.testing.assert_allclose(w, target, atol=0.02)


@pytest.mark.parametrize(
    ("optimizer", "bound"),
    [
        (SPSA(a=0.002, c=0.01, alpha=0.1, n_directions=5), 0.1),
        (SPSA(a=0.002, c=0.01, alpha=0.1, n_directions=5, sides=1), 0.1),
        (SPSAGC(a=0.001, c=0.01, alpha=0.1, n_directions=5), 0.01),
        (SPSAGC(a=0.001, c=0.01, alpha=0.1, n_directions=5, sides=1), 0.01),
        (AdamSPSA(a=0.2, c=0.01), 0.01),
        (RGF(a=0.002, n_steps=2_000), 0.1),
        (CMAES(sigma=0.3), 1e-12),
        (Subspace(CMAES(sigma=0.3), n_dims=2), 1e-12),
    ],
    ids=repr,
)
def test_descends_the_valley_of_rosenbrock(optimizer, bound):
    rosenbrock = lambda w: 100 * (w[1] - w[0] ** 2) ** 2 + (1 - w[0]) ** 2
    w = run(started(optimizer, np.array([-1.2, 1.0])), 2_000, rosenbrock)  # from a loss of 24.2
    assert rosenbrock(w) < bound


@pytest.mark.parametrize("kind", ["orthonormal", "gaussian"])
def test_a_subspace_has_the_minimum_that_is_within_it(kind):
    start, target = np.linspace(0, 1, 30), np.linspace(2, -1, 30)
    optimizer = started(Subspace(CMAES(sigma=0.5), n_dims=4, kind=kind), start)
    P = optimizer.state["P"]
    np.testing.assert_allclose(np.linalg.norm(P, axis=0), 1, atol=1e-12 if kind == "orthonormal" else 0.5)
    within = start + P @ np.linalg.lstsq(P, target - start, rcond=None)[0]
    w = run(optimizer, 200, lambda w: np.square(w - target).sum())
    np.testing.assert_allclose(w, within, atol=1e-6)
    optimizer.restart_from(target + 1)  # which is outside of it
    np.testing.assert_array_equal(optimizer.w, target + 1)
    optimizer.state["inner"]["sigma"] = 0.5
    w = run(optimizer, 200, lambda w: np.square(w - target).sum())
    np.testing.assert_allclose(w, target + 1 - P @ np.linalg.lstsq(P, np.ones(30), rcond=None)[0], atol=1e-6)


def test_a_subspace_of_all_dimensions_is_a_rotation():
    """In coordinates of P, the optimizer does what it would do alone."""
    gains = dict(a=0.01, c=0.01, n_directions=5)
    optimizer = started(Subspace(SPSAGC(**gains), n_dims=5), np.zeros(5))
    P = optimizer.state["P"]
    alone = SPSAGC(**gains)
    alone.start(np.zeros(5), copy.deepcopy(optimizer.rng))
    w = run(optimizer, 20)
    np.testing.assert_allclose(w, P @ run(alone, 20, lambda z: loss(P @ z)), atol=1e-9)


@EACH
def test_goes_on_from_a_pickled_state(optimizer):
    start = np.linspace(-1, 1, 5)
    whole = run(started(optimizer, start, seed=3), 20)
    first = started(optimizer, start, seed=3)
    run(first, 8)
    candidates = first.ask()  # what `tell` needs to know of them is in the state, too
    other = copy.deepcopy(optimizer)
    other.state, other.rng = pickle.loads(pickle.dumps((first.state, first.rng)))
    other.tell(np.array([loss(w) for w in candidates]))
    np.testing.assert_array_equal(run(other, 11), whole)
    assert not optimizer.started
    assert_plain(first.state)


def assert_plain(value):
    """Assert that a state is made of plain values and arrays alone."""
    if isinstance(value, dict):
        assert all(type(key) is str for key in value)
        for item in value.values():
            assert_plain(item)
    else:
        assert value is None or type(value) in (bool, int, float, np.ndarray), type(value)


@EACH
def test_the_number_of_candidates_is_known_before_the_start(optimizer):
    n = optimizer.n_candidates_for(5)
    optimizer = started(optimizer, np.zeros(5))
    assert optimizer.n_candidates == optimizer.n_candidates_for(5) == len(optimizer.ask()) == n
    assert optimizer.comparisons.shape == (n,)
    assert optimizer.comparisons.dtype == int


@EACH
def test_comparisons_are_the_images_that_an_optimizer_needs(optimizer):
    """A loss that another group has more of, as another batch of images would give it, does not change the step."""
    one, other = (started(optimizer, np.linspace(-1, 1, 5), seed=1) for _ in range(2))
    for _ in range(3):
        losses = np.array([loss(w) for w in one.ask()])
        harder = np.random.default_rng(0).normal(size=len(losses))[other.comparisons]
        other.ask()
        one.tell(losses)
        other.tell(losses + harder)
    np.testing.assert_allclose(one.w, other.w, atol=1e-9)


def test_comparisons():
    assert SPSA(n_directions=3).comparisons.tolist() == [0, 1, 2, 0, 1, 2]
    assert SPSAGC(n_directions=3, sides=1).comparisons.tolist() == [0, 0, 0, 0]
    assert SPSA(n_directions=3, share_batch=True).comparisons.tolist() == [0] * 6
    assert RGF(n_directions=2).comparisons.tolist() == [0, 0, 0]
    assert CMAES(population_size=4).comparisons.tolist() == [0, 0, 0, 0]
    assert Subspace(SPSA(n_directions=2), n_dims=2).comparisons.tolist() == [0, 1, 0, 1]


@EACH
def test_an_optimizer_has_no_settings_but_its_parameters(optimizer):
    assert set(vars(optimizer)) == set(optimizer.get_params(deep=False))


@EACH
def test_restarts_from_another_vector(optimizer):
    optimizer = started(optimizer, np.zeros(3))
    run(optimizer, 5)
    w = np.array([2.0, 1.0, -1.0])
    optimizer.restart_from(w)
    np.testing.assert_array_equal(optimizer.w, w)
    w += 1  # the optimizer has its own
    assert optimizer.w[0] == 2
    distances = np.linalg.norm(optimizer.ask() - optimizer.w, axis=1)
    assert distances.max() < 5
    optimizer.tell(distances)


class Walk(Optimizer):
    """The least that an optimizer must have."""

    n_candidates = 3

    def start(self, w, rng):
        self.rng, self.state = rng, {"w": w}

    def ask(self):
        self.state["asked"] = self.w + self.rng.normal(size=(3, len(self.w)))
        return self.state["asked"]

    def tell(self, losses):
        self.state["w"] = self.state["asked"][np.argmin(losses)]


def test_a_strangers_optimizer_needs_no_more_than_before():
    assert Walk().n_candidates_for(7) == 3
    assert Walk().comparisons.tolist() == [0, 0, 0]
    optimizer = started(Subspace(Walk(), n_dims=2), np.zeros(4))
    assert loss(run(optimizer, 10)) < loss(np.zeros(4))
    assert optimizer.figures() == {}


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (SPSA(sides=3), "sides=3; expected 1 or 2"),
        (AdamSPSA(a="auto"), "a='auto'; expected a number"),
        (RGF(a="auto"), "a='auto'; expected a number"),
        (CMAES(sigma=0.0), "sigma=0.0; expected more than 0"),
        (CMAES(population_size=3), "population_size=3; expected 4 or more"),
        (Subspace(SPSA(), n_dims=6), "n_dims=6, for 5 parameters; expected 1 to 5"),
        (Subspace(SPSA(), n_dims=2, kind="sparse"), "kind='sparse'; expected one of orthonormal, gaussian"),
        (Subspace(CMAES(sigma=-1), n_dims=2), "sigma=-1; expected more than 0"),
    ],
    ids=repr,
)
def test_parameters_that_cannot_work_are_refused_before_the_start(optimizer, message):
    with pytest.raises(ValueError, match=message):
        optimizer.n_candidates_for(5)
    with pytest.raises(ValueError, match=message):
        optimizer.start(np.zeros(5), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [
        (SPSA(), "SPSA has a='auto'"),
        (SPSAGC(a=0.1), "SPSAGC has c='auto'"),
        (AdamSPSA(c="auto"), "AdamSPSA has c='auto'"),
        (RGF(n_steps="auto"), "RGF has n_steps='auto'"),
        (Subspace(SPSAGC(a=0.1), n_dims=2), "SPSAGC has c='auto'"),
    ],
    ids=repr,
)
def test_gains_must_be_found_before_the_start(optimizer, name):
    optimizer.n_candidates_for(5)
    with pytest.raises(ValueError, match=f"{name}, and no value was found for it. Call find_gains before start"):
        optimizer.start(np.zeros(5), np.random.default_rng(0))
    assert not optimizer.started


def test_optimizers_have_short_names():
    made = {name: type(make_optimizer(name)) for name in ("spsa-gc", "spsa", "cma-es")}
    assert made == {"spsa-gc": SPSAGC, "spsa": SPSA, "cma-es": CMAES}
    assert made.items() <= Optimizer.named.items()
    assert make_optimizer("spsa", a=0.1, c="auto").get_params() == SPSA(a=0.1).get_params()
    with pytest.raises(ValueError, match="momentum=0.5 was given, but SPSA has no parameter 'momentum'"):
        make_optimizer("spsa", momentum=0.5)
    own = started(SPSA(a=0.2, c=0.1), np.zeros(2))
    assert (make_optimizer(own, a="auto").a, make_optimizer(own, a=0.1).a, own.a) == (0.2, 0.1, 0.2)
    assert not make_optimizer(own).started
    with pytest.raises(ValueError, match="optimizer='sgd'; expected one of .*'spsa-gc'.*, or an Optimizer"):
        make_optimizer("sgd")


@EACH
def test_another_optimizer_continues_where_one_stands(optimizer):
    start = np.linspace(-1, 1, 5)
    whole = run(started(optimizer, start, seed=3), 12)
    first = started(optimizer, start, seed=3)
    run(first, 5)
    before = copy.deepcopy(first.state)
    further = clone(optimizer)
    further.continue_from(first)
    np.testing.assert_array_equal(run(further, 7), whole)
    np.testing.assert_array_equal(first.w, before["w"])  # the first one stays where it was
    assert first.state.keys() == before.keys()
    assert further.a_ == first.a_
    other = clone(optimizer)
    other.continue_from(Walk())
    assert not other.started


def test_what_is_given_replaces_what_was_found():
    found = SPSAGC()
    found.state = {"a": 0.3, "c": 0.2, "clip": 5.0, "normalize": True, "n_steps": 10}  # as find_gains leaves it
    found.start(np.zeros(3), np.random.default_rng(0))
    assert (found.a_, found.c_, found.clip_, found.normalize_, found.n_steps_) == (0.3, 0.2, 5.0, True, 10)
    for given, expected in (
        (SPSAGC(), (0.3, 0.2, 5.0, True, 10)),
        (SPSAGC(c=0.1, clip=None), (0.3, 0.1, None, True, 10)),
        (SPSAGC(a=0.1), (0.1, 0.2, 5.0, False, None)),  # a step size of normalized steps is none of others
    ):
        given.continue_from(found)
        assert (given.a_, given.c_, given.clip_, given.normalize_, given.n_steps_) == expected
    params = SPSAGC().get_params()
    assert found.get_params() == clone(found).get_params() == params
    assert not clone(found).started


def test_a_subspace_whose_optimizer_is_of_another_kind_starts_anew():
    first, further = started(Subspace(CMAES(), n_dims=2), np.zeros(4)), Subspace(SPSA(0.1, 0.1), n_dims=2)
    further.continue_from(first)
    assert not further.started
    assert first.started


def test_found_gains_go_on_as_they_were_found(monkeypatch):
    """A step size of normalized estimates is none of others, so that both are kept in a further run."""
    monkeypatch.setattr("blackvip.heads.baselines.FusedHead", partial(FusedHead, strengths=(3.0,)))  # to save time
    X, y = make_stripes(n=24)
    settings = dict(
        prompter="basis",
        guard=False,
        head=None,
        max_queries=800,
        batch_size=8,
        random_state=0,
        verbose=0,
        warm_start=True,
    )
    clf = BlackVIPClassifier(ToyService(), **settings).fit(X, y)
    optimizer, n_steps = clf.optimizer_, clf.n_iter_
    a, w = optimizer.a_, optimizer.w
    assert (optimizer.normalize_, optimizer.n_steps_) == (True, n_steps)
    clf.set_params(max_queries=1_200).fit(X, y)
    assert optimizer.w is w  # the new optimizer continues, and the last one stays where it was
    optimizer = clf.optimizer_
    assert (optimizer.a_, optimizer.normalize_, optimizer.n_steps_) == (a, True, clf.n_iter_)
    assert (optimizer.a, optimizer.normalize, optimizer.n_steps) == ("auto", False, None)
    assert clf.n_iter_ > n_steps
    a_k = [row["a_k"] for row in clf.history_]
    np.testing.assert_allclose(a_k, a * (1 - np.arange(clf.n_iter_) / clf.n_iter_))  # from the start to the end
    clf.set_params(a=0.01).fit(X, y)  # a step size of one's own is one of estimates as they are
    optimizer = clf.optimizer_
    assert (optimizer.a_, optimizer.normalize_, optimizer.n_steps_) == (0.01, False, None)


def test_a_classifier_with_such_an_optimizer_sends_nothing():
    service, (X, y) = ToyService(), make_stripes(n=24)
    with pytest.raises(ValueError, match="a='auto'; expected a number"):
        BlackVIPClassifier(service, prompter="basis", optimizer=AdamSPSA(a="auto"), verbose=0).fit(X, y)
    assert service.n_images == 0


@EACH
def test_a_saved_classifier_goes_on_with_the_same_steps(optimizer, tmp_path, monkeypatch):
    monkeypatch.setattr("blackvip.heads.baselines.FusedHead", partial(FusedHead, strengths=(3.0,)))  # to save time
    X, y = make_stripes(n=24)
    settings = dict(
        prompter="basis", max_queries=600, guard=False, batch_size=8, head="calibrated", random_state=0, verbose=0
    )
    service = ToyService()
    clf = BlackVIPClassifier(service, optimizer=optimizer, **settings).fit(X, y)
    clf.save(tmp_path / "clf")
    same = blackvip.load(tmp_path / "clf", service)
    assert repr(same.optimizer_) == repr(clf.optimizer_)
    assert same.history_ == clf.history_
    same.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "clf").read_bytes()
    n_before = clf.n_iter_
    for one in (clf, same):
        one.set_params(max_queries=2_000).partial_fit(X, y)
    assert clf.n_iter_ > n_before
    np.testing.assert_array_equal(same.optimizer_.w, clf.optimizer_.w)
    np.testing.assert_array_equal(same.predict_proba(X), clf.predict_proba(X))


def test_a_file_whose_subspace_has_another_optimizers_state_is_refused():
    optimizer = started(Subspace(SPSA(0.1, 0.1), n_dims=2), np.zeros(4))
    file = Writing()
    place = Object(Optimizer, fitted="maybe")
    packed = place.pack(optimizer, file, "optimizer")
    assert repr(place.unpack(packed, Reading(file.tensors), "optimizer")) == repr(optimizer)
    packed["params"]["optimizer"] = {"kind": "CMAES", "params": {"sigma": 0.1, "population_size": None}}
    with pytest.raises(blackvip.PersistenceError, match="optimizer.state.inner has .* does not know"):
        place.unpack(packed, Reading(file.tensors), "optimizer")
