"""The fused head, on made-up scores and features with a known answer."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.preprocessing import StandardScaler

from blackvip import CalibratedHead, FusedHead, PersistenceError
from blackvip.heads import LocalProbe, regression
from blackvip.heads.discriminant import fit_discriminant
from blackvip.heads.regression import regression_loss
from blackvip.heads.stack import Stacks
from blackvip.persistence.fields import Reading, Writing
from blackvip.persistence.objects import Object

K = 4


def problem(seed=0, n=400, in_scores=2.5, in_features=2.5, n_classes=K, n_features=6):
    """Score columns and features behind them, each with so much to tell the classes by, and class indices."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    centres = rng.normal(size=(n_classes, n_features)) / np.sqrt(n_features)
    scores = in_scores * np.eye(n_classes)[y] + rng.normal(size=(n, n_classes))
    features = in_features * centres[y] + rng.normal(size=(n, n_features)) / np.sqrt(n_features)
    return np.hstack([scores, features]), y


def loss(head, X, y):
    return -head.predict_log_proba(X)[np.arange(len(y)), np.searchsorted(head.classes_, y)].mean()


def stack_inputs(n=30, n_scores=3, n_experts=2, seed=0):
    rng = np.random.default_rng(seed)
    experts = log_softmax(3 * rng.normal(size=(n_experts, n, K)), axis=2)
    return experts, rng.normal(3, 2, size=(n, n_scores)), rng.integers(K, size=n), rng.uniform(0.1, 3, size=n)


@pytest.mark.parametrize(("n_scores", "n_experts"), [(3, 2), (3, 0), (0, 2), (50, 1)])
def test_the_stack_is_what_a_generic_optimiser_finds(n_scores, n_experts):
    experts, scores, index, weights = stack_inputs(n_scores=n_scores, n_experts=n_experts)
    [(of_experts, coef, intercept)] = Stacks(experts, scores, index, weights[None]).fit(0.5)
    z = scores
    if n_scores:
        scaler = StandardScaler().fit(scores, sample_weight=weights)
        z, intercept, coef = scaler.transform(scores), intercept + coef @ scaler.mean_, coef * scaler.scale_
    # The order of the parameters: the experts, then the intercept and the weights of each class.
    found = np.concatenate([of_experts, np.column_stack([intercept, coef]).ravel()])
    of_class = [1.0, *n_scores * [0.5 * max(1, n_scores / K)]]
    penalty = np.array([*n_experts * [1.0], *K * of_class])
    z1 = np.concatenate([np.ones((1, len(z))), z.T])[None]

    def loss(parameters):
        args = experts.transpose(0, 2, 1), z1, index, weights[None], penalty
        return [part[0] for part in regression_loss(parameters[None], *args)[:2]]

    bounds = [(0, None)] * n_experts + [(None, None)] * (len(found) - n_experts)
    options = {"maxiter": 5000, "maxfun": 50_000, "ftol": 1e-15, "gtol": 1e-9}
    generic = minimize(loss, np.full(len(found), 0.1), jac=True, bounds=bounds, options=options)
    assert loss(found)[0] == pytest.approx(generic.fun, rel=1e-7)
    np.testing.assert_allclose(found, generic.x, atol=1e-3)
    assert (of_experts >= 0).all()


def test_both_are_better_than_either():
    # Of the same classes: the centres are drawn first.
    (X, y), (Xt, yt) = (problem(n=n, in_scores=1.5, in_features=1.2) for n in (160, 4000))
    fused = FusedHead(K).fit(X, y)
    assert fused.tau_ > 0
    assert fused.probes_[0].alpha > 0
    scores, features = CalibratedHead().fit(X[:, :K], y), FusedHead(0).fit(X[:, K:], y)
    assert fused.score(Xt, yt) > scores.score(Xt[:, :K], yt) + 0.02
    assert fused.score(Xt, yt) > features.score(Xt[:, K:], yt) + 0.02
    assert loss(fused, Xt, yt) < loss(scores, Xt[:, :K], yt) - 0.1


@pytest.mark.parametrize("seed", range(3))
def test_useless_scores_or_features_cost_little(seed):
    X, y = problem(seed, n=200, in_scores=0)
    Xt, yt = problem(seed, n=4000, in_scores=0)
    alone = FusedHead(0).fit(X[:, K:], y)
    fused = FusedHead(K).fit(X, y)
    assert fused.score(Xt, yt) > alone.score(Xt[:, K:], yt) - 0.05
    assert loss(fused, Xt, yt) < loss(alone, Xt[:, K:], yt) + 0.1
    X, y = problem(seed, n=200, in_features=0)
    Xt, yt = problem(seed, n=4000, in_features=0)
    alone = CalibratedHead().fit(X[:, :K], y)
    fused = FusedHead(K).fit(X, y)
    assert fused.score(Xt, yt) > alone.score(Xt[:, :K], yt) - 0.05
    assert loss(fused, Xt, yt) < loss(alone, Xt[:, :K], yt) + 0.1


def test_with_many_classes_the_service_counts_beyond_the_directions_that_are_learned(monkeypatch):
    monkeypatch.setattr(regression, "_MOST_WEIGHTS", 300)
    X, y = problem(n=300, n_classes=60, in_features=0.5)
    head = FusedHead(n_scores=60).fit(X[:120], y[:120])
    assert np.linalg.matrix_rank(head.coef_) <= 300 // 60
    own = (X[120:, :60].argmax(axis=1) == y[120:]).mean()
    assert head.score(X[120:], y[120:]) >= own - 0.02


def test_prediction_is_the_formula():
    X, y = problem()
    head = FusedHead(K, (4, 2)).fit(X, y)
    scores, first, second = np.split(X, [K, K + 4], axis=1)
    expected = head.tau_ * log_softmax(scores, axis=1) + scores @ head.coef_.T + head.intercept_
    for probe, block in zip(head.probes_, (first, first, second, second), strict=True):
        logits = block @ probe.coef.T + probe.intercept
        expected += probe.alpha * np.maximum(log_softmax(logits, axis=1), -15)
    np.testing.assert_allclose(head.predict_log_proba(X), log_softmax(expected, axis=1), atol=1e-12)
    np.testing.assert_array_equal(head.block_sizes_, [4, 2])
    apart = np.concatenate([head.predict_log_proba(row[None]) for row in X[:20]])
    np.testing.assert_allclose(apart, head.predict_log_proba(X[:20]), atol=1e-9)
    regression = CalibratedHead(Cs=(30.0,), standardize=False).fit(first, y)
    np.testing.assert_array_equal(head.probes_[0].coef, regression.coef_)
    discriminant, _ = fit_discriminant(second, y, np.ones(len(y)), 5)
    np.testing.assert_array_equal(head.probes_[3].coef, discriminant.coef)


def test_held_out_log_probabilities_are_of_stacks_that_have_not_seen_the_image():
    X, y = problem(n=60, in_scores=0, in_features=0)  # nothing to learn: only what was seen is known
    head = FusedHead(K, strengths=(0.001,))
    held_out = head.fit_held_out(X, y)
    np.testing.assert_allclose(np.exp(held_out).sum(axis=1), 1)
    assert (held_out.argmax(axis=1) == y).mean() < 0.5
    np.testing.assert_array_equal(head.predict(X), FusedHead(K, strengths=(0.001,)).fit(X, y).predict(X))


def test_the_strength_is_that_of_the_least_held_out_loss():
    X, y = problem(n=80, in_scores=1)
    rows = np.arange(len(y))
    losses = {s: -FusedHead(K, strengths=(s,)).fit_held_out(X, y)[rows, y].mean() for s in (0.01, 10, 1000)}
    assert FusedHead(K, strengths=tuple(losses)).fit(X, y).strength_ == min(losses, key=losses.get)


def test_a_weight_of_two_is_two_images():
    experts, scores, index, _ = stack_inputs()
    counts = np.random.default_rng(0).integers(0, 4, size=len(index))
    [weighted] = Stacks(experts, scores, index, counts[None].astype(float)).fit(1.0)
    rows = np.repeat(np.arange(len(index)), counts)
    [repeated] = Stacks(experts[:, rows], scores[rows], index[rows], np.ones((1, len(rows)))).fit(1.0)
    for one, other in zip(weighted, repeated):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_weights_reach_the_probes_and_the_choice():
    X, y = problem(n=200)
    weights = np.random.default_rng(0).uniform(0.1, 2, size=200)
    head = FusedHead(K).fit(X, y, weights)
    regression = CalibratedHead(Cs=(30.0,), standardize=False).fit(X[:, K:], y, weights)
    np.testing.assert_array_equal(head.probes_[0].coef, regression.coef_)
    wrong = np.where(np.arange(200) < 100, y, (y + 1) % K)  # half of the labels are another rule's
    for chosen in (np.arange(200) < 100, np.arange(200) >= 100):
        weighted = FusedHead(K).fit(X, wrong, np.where(chosen, 1.0, 1e-6))
        assert weighted.score(X[chosen], wrong[chosen]) > 0.85
        assert weighted.score(X[~chosen], wrong[~chosen]) < 0.1


def test_two_classes():
    X, y = problem(n_classes=2, n=80)
    head = FusedHead(2).fit(X, np.array(["no", "yes"])[y])
    assert head.coef_.shape == (2, 2)
    assert [probe.coef.shape for probe in head.probes_] == [(2, 6), (2, 6)]
    assert head.tau_ == 0  # columns of texts' scores are not known
    assert head.score(X, np.array(["no", "yes"])[y]) > 0.9
    assert FusedHead(2).fit(X, y).tau_ > 0


def test_classes_that_were_not_seen_leave_their_columns_aside():
    X, y = problem(n_classes=5, n=200)
    Xt, yt = problem(n_classes=5, n=1000)
    seen, seen_t = np.isin(y, [1, 2, 4]), np.isin(yt, [1, 2, 4])
    head = FusedHead(5).fit(X[seen], y[seen])
    np.testing.assert_array_equal(head.classes_, [1, 2, 4])
    assert head.tau_ > 0.3
    assert head.score(Xt[seen_t], yt[seen_t]) > 0.9
    assert FusedHead(5, scores_of_classes=False).fit(X[seen], y[seen]).tau_ == 0
    assert FusedHead(5).fit(X[seen], y[seen] + 1).tau_ == 0  # there is no column 5


@pytest.mark.parametrize("size", [27.0, 1e3, 1e5])
def test_extreme_scores(size):
    X, y = problem(n=80)
    X[:, :K] = np.where(X[:, :K] == X[:, :K].max(axis=1, keepdims=True), 0, -size)
    head = FusedHead(K)
    assert np.isfinite(head.fit_held_out(X, y)).all()
    for scores in (X[:, :K], 100 * X[:, :K], np.zeros((80, K))):
        assert np.isfinite(head.predict_log_proba(np.hstack([scores, 1e3 * X[:, K:]]))).all()
    assert head.score(X, y) > 0.85


def test_columns():
    X, y = problem(n=80)
    assert FusedHead().fit(X, y).coef_.shape == (K, 10)
    assert FusedHead(block_sizes=(2, 3)).fit(X, y).coef_.shape == (K, 5)
    assert [probe.coef.shape[1] for probe in FusedHead(0, (4, 6)).fit(X, y).probes_] == [4, 4, 6, 6]
    for wrong in (FusedHead(11), FusedHead(4, (5,)), FusedHead(None, (11,)), FusedHead(4, (6, 0))):
        with pytest.raises(ValueError, match="X has 10 columns, but n_scores="):
            wrong.fit(X, y)


@pytest.mark.parametrize(
    "head", [FusedHead(), FusedHead(0), FusedHead(K, (4, 2)), FusedHead(K, strengths=(1.0,)), LocalProbe()]
)
def test_a_loaded_head_is_the_saved_one(head):
    X, y = problem(n=40)
    head.fit(X, y)
    file, field = Writing(), Object(type(head))
    packed = field.pack(head, file, "head")
    same = field.unpack(packed, Reading(file.tensors), "head")
    assert repr(same) == repr(head)
    assert vars(same).keys() == vars(head).keys()
    np.testing.assert_array_equal(same.predict_log_proba(X), head.predict_log_proba(X))
    file.tensors["head.block_sizes_"] = file.tensors["head.block_sizes_"] + 1
    if len(head.block_sizes_):
        with pytest.raises(PersistenceError, match="n_features_in_ does not fit"):
            field.unpack(packed, Reading(file.tensors), "head")
        file.tensors["head.block_sizes_"] = file.tensors["head.block_sizes_"] - 1
        packed["fitted"]["probes_"].pop()
        with pytest.raises(PersistenceError, match="probes_ has the shapes"):
            field.unpack(packed, Reading(file.tensors), "head")


def test_a_class_of_one_image():
    X, y = problem(n=21, n_classes=K)
    y[-1] = 7
    with pytest.raises(ValueError, match=r'The class 7 has 1 image; expected 2 .*head="calibrated"'):
        FusedHead(K).fit(X, y)
    X, y = problem(n=8)  # two of each: as many folds
    assert FusedHead(K).fit(X, y).predict(X).shape == (8,)
