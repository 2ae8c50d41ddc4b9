"""Several class prompts per class: one request per image, their mean without training, and weights in the head."""

import pickle

import numpy as np
import pandas as pd
import pytest
from conftest import ToyService, make_stripes
from scipy.optimize import approx_fprime, minimize
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from blackvip import BlackVIPClassifier, ClassPromptError, FusedHead, SharedBudget, compare, load
from blackvip.heads.prompt_weights import fit_prompt_weights
from blackvip.heads.stack import Examples
from blackvip.inputs.class_prompts import make_prompt_groups
from blackvip.inputs.prompt_groups import PromptGroups
from blackvip.scorers import LabelMappedScorer, ScoreFormat
from blackvip.scorers.recognition import recognise

NAMES = np.array(["a", "b", "c"])
TEMPLATES = ["good {}", "poor {}", "bad {}"]


class Noisy:
    """A service that reads three pixels; the noise of its scores depends on the first word of a prompt."""

    score_type = "logits"

    def __init__(self, noise=(0.3, 4.0, 8.0), offset=0.0):
        self.noise = dict(zip(("good", "poor", "bad"), noise))
        self.offset = offset
        self.n_images, self.calls = 0, []

    def __call__(self, images, class_prompts):
        self.n_images += len(images)
        self.calls.append(list(class_prompts))
        words, names = zip(*(prompt.split() for prompt in class_prompts))
        places = np.searchsorted(NAMES, names)
        noise = [np.random.default_rng(int(image.astype(int).sum())).normal(size=len(words)) for image in images]
        scores = images[:, places, 0, 0] / 32 + np.array([self.noise[word] for word in words]) * np.array(noise)
        scores -= self.offset * np.array([len(word) for word in words])
        return scores


def noisy_images(n, seed=0):
    """Noise, which nothing local can classify, with the class in three pixels."""
    rng, y = np.random.default_rng(seed), np.arange(n) % 3
    X = rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    X[:, :3, 0, 0] = np.clip(32 * (3 + rng.normal(0, 0.7, (n, 3)) + 2.5 * np.eye(3)[y]), 0, 255)
    return X, NAMES[y]


def make_classifier(service, class_prompts=TEMPLATES, **parameters):
    defaults = {"prompter": "autocontrast", "max_queries": 400, "random_state": 0, "verbose": 0}
    return BlackVIPClassifier(service, class_prompts, **{**defaults, **parameters})


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (["{}"], ["a", "b", "c"]),
        (["x {}", "y {}"], [["x a", "y a"], ["x b", "y b"], ["x c", "y c"]]),
        (np.array(["x {}", "y {}"]), [["x a", "y a"], ["x b", "y b"], ["x c", "y c"]]),
        ({"a": ["u", "v"], "b": "w", "c": ("x",), "d": ["y"]}, [["u", "v"], ["w"], ["x"]]),
        (pd.Series([["u", "v"], "w", ["x"]], index=["c", "b", "a"]), [["x"], ["w"], ["u", "v"]]),
        ([["u", "v"], "w", ["x"]], [["u", "v"], ["w"], ["x"]]),
        ({"a": ["u"], "b": ["v"], "c": "w"}, ["u", "v", "w"]),
    ],
)
def test_templates_dicts_and_lists(spec, expected):
    assert make_prompt_groups(spec, NAMES).class_prompts == expected


def test_the_score_of_a_class_is_the_mean_over_the_prompts_that_have_one():
    rng = np.random.default_rng(0)
    groups = PromptGroups.of([["u", "v", "w"], ["x"], ["y", "z"]])
    scores, owner = rng.normal(size=(20, 6)), np.array([0, 0, 0, 1, 2, 2])
    gaps = rng.random((20, 6)) < 0.3
    gaps[0, 3] = gaps[1, 4:] = True
    columns = groups.columns(scores, gaps)
    for image in range(20):
        means = np.empty(3)
        for k in range(3):
            there = [j for j in range(6) if owner[j] == k and not gaps[image, j]] or list(np.flatnonzero(owner == k))
            means[k] = sum(scores[image, j] for j in there) / len(there)
        deviations = [0 if gaps[image, j] else scores[image, j] - means[owner[j]] for j in (0, 1, 2, 4, 5)]
        np.testing.assert_allclose(columns[image], [*means, *deviations], atol=1e-12)
    assert groups.prompt_classes == (0, 0, 0, 2, 2)
    single = PromptGroups.of(["u", "v"])
    assert single.columns(scores, gaps) is scores
    assert not single.several


def test_probabilities_give_the_same_classes_as_the_logits_that_they_come_from():
    logits = np.random.default_rng(0).normal(size=(40, 5), scale=3)
    groups, none = PromptGroups.of([["u", "v", "w"], ["x", "y"]]), np.zeros((40, 5), bool)
    of_logits = groups.columns(logits, none)[:, :2]
    log_proba = ScoreFormat("probabilities").log_scores(np.exp(log_softmax(logits, axis=1)))
    of_probabilities = groups.columns(log_proba, none)[:, :2]
    np.testing.assert_allclose(log_softmax(of_probabilities, axis=1), log_softmax(of_logits, axis=1))


def test_what_a_service_leaves_out_is_low_if_it_returns_its_top_scores_and_else_unknown():
    rng = np.random.default_rng(0)
    full = np.exp(log_softmax(rng.normal(size=(50, 8), scale=3), axis=1))
    top, lost, never = full.copy(), full.copy(), full.copy()
    top[full.argsort(axis=1).argsort(axis=1) < 5] = np.nan
    lost[rng.random(full.shape) < 0.2] = np.nan
    never[:, 2] = np.nan
    for scores, is_top in ((top, True), (lost, False), (never, False), (full, False)):
        found = recognise(scores, "probabilities")
        assert found.top_only == is_top
        np.testing.assert_array_equal(found.gaps(scores), np.isnan(scores) & (not is_top))


def test_prompt_weights_solve_their_regression():
    """The same minimum as by a plain optimizer on the formula, written out with loops."""
    rng = np.random.default_rng(0)
    index, owner = np.arange(60) % 3, np.array([0, 0, 1, 1, 1])
    scores = rng.normal(size=(60, 8)) + np.hstack([2 * np.eye(3)[index], np.zeros((60, 5))])
    weights = rng.uniform(0.5, 2, 60)
    examples = Examples(np.empty(0), scores, np.arange(60), index, weights)
    found, held_out = fit_prompt_weights(examples, np.arange(3), owner, 5)
    assert held_out.shape == (60, 3)
    mean = np.average(scores, axis=0, weights=weights)
    z = (scores - mean) / np.sqrt(np.average((scores - mean)[:, :3] ** 2, axis=0, weights=weights).mean())

    def loss(parameters, strength):
        u = parameters[0] * z[:, :3] + parameters[1:4]
        for j, k in enumerate(owner):
            u[:, k] += parameters[4 + j] * z[:, 3 + j]
        fit = -weights @ log_softmax(u, axis=1)[np.arange(60), index]
        return fit + 0.005 * np.sum(parameters[:4] ** 2) + strength / 2 * np.sum(parameters[4:] ** 2)

    expected = np.inf
    for strength in (0.3, 1, 3, 10, 30, 100, 300):
        solution = minimize(loss, np.r_[1, np.zeros(8)], (strength,), options={"gtol": 1e-4})
        u = solution.x[0] * z[:, :3] + solution.x[1:4] + (solution.x[4:] * z[:, 3:]) @ np.eye(3)[owner]
        expected = min(expected, np.abs(found.log_proba(scores) - log_softmax(u, axis=1)).max())
    assert expected < 1e-3
    assert np.abs(approx_fprime(solution.x, loss, 1e-6, 300)).max() < 0.1


@pytest.fixture(scope="module")
def fitted():
    service = Noisy()
    X, y = noisy_images(48)
    return make_classifier(service).fit(X, y), service, X, y


def test_one_request_per_image_with_all_prompts_and_the_mean_without_training(fitted):
    clf, service, X, _ = fitted
    assert service.n_images == clf.n_queries_ == 2 * len(X)
    assert clf.class_prompts_ == [[f"{word} {name}" for word in ("good", "poor", "bad")] for name in NAMES]
    assert {tuple(prompts) for prompts in service.calls} == {tuple(sum(clf.class_prompts_, []))}
    scores = Noisy()(X, sum(clf.class_prompts_, [])).reshape(len(X), 3, 3)
    np.testing.assert_allclose(clf.scored_images_.plain, scores.mean(axis=2))
    zero_shot = clf.baselines_["zero_shot"]
    np.testing.assert_allclose(zero_shot.held_out, log_softmax(scores.mean(axis=2), axis=1))
    assert zero_shot.head.n_deviations == 0


def test_the_head_weights_the_prompts(fitted):
    clf, _, _, _ = fitted
    fused = clf.baselines_["fused_zero_shot"]
    assert fused.head.prompt_classes == (0, 0, 0, 1, 1, 1, 2, 2, 2)
    own = fused.head.prompt_expert_.coef[np.arange(3)[:, None], 3 + np.arange(9).reshape(3, 3)]
    assert (own[:, 0] > own[:, 1:].max(axis=1)).all()
    data = clf.scored_images_.without_prompt()
    means = FusedHead(n_scores=3, block_sizes=data.block_sizes)
    held_out = means.fit_scored(data)
    losses = -held_out[np.arange(len(data.y)), data.y]
    assert fused.log_loss < losses.mean() - 0.1
    # Deviations that only shift all prompts of a kind change no prediction.
    X, y = noisy_images(48)
    shifted = make_classifier(Noisy(offset=1.0)).fit(X, y)
    np.testing.assert_allclose(shifted.predict_proba(X), clf.predict_proba(X), atol=1e-4)


def test_equally_good_prompts_keep_their_mean():
    X, y = noisy_images(48, seed=2)
    clf = make_classifier(Noisy((1.0, 1.0, 1.0)), max_queries=96).fit(X, y)
    assert clf.baselines_["fused_zero_shot"].head.n_deviations == 0


@pytest.mark.parametrize("copied", [pickle.dumps, None])
def test_saved_loaded_and_continued(fitted, copied, tmp_path):
    clf, _, X, _ = fitted
    if copied is None:
        clf.save(tmp_path / "clf")
        twin = load(tmp_path / "clf", Noisy())
    else:
        twin = pickle.loads(pickle.dumps(clf))
    assert twin.class_prompts_ == clf.class_prompts_
    np.testing.assert_array_equal(twin.predict_proba(X), clf.predict_proba(X))
    assert twin.score_baselines(X, NAMES[twin.scored_images_.y]) == clf.score_baselines(X, NAMES[clf.scored_images_.y])
    found = twin.compare_prompt(X, heads=True)
    np.testing.assert_array_equal(found.labels["classifier"], clf.predict(X))
    assert found.plain.shape == found.prompted.shape == (len(X), 3)
    given = [Noisy()(images, sum(clf.class_prompts_, [])) for images in (X, (255 * clf.prompter_.transform(X)))]
    again = twin.compare_prompt(X, scores=(given[0], given[0]))
    np.testing.assert_allclose(again.plain, found.plain)


def test_a_journal_resumes_and_partial_fit_and_training_go_on(tmp_path):
    X, y = noisy_images(18)
    prompts = {"a": ["good a", "bad a"], "b": "good b", "c": ["good c"]}
    settings = {"prompter": "basis", "head": None, "max_queries": 150, "checkpoint": tmp_path / "j"}
    run = lambda service: make_classifier(service, prompts, **settings).fit(X, y)
    first, service = run(Noisy()), Noisy()
    second = run(service)
    assert service.n_images == 0
    assert second.n_queries_ == first.n_queries_ > 60
    np.testing.assert_array_equal(first.prompter_.parameters_, second.prompter_.parameters_)
    online = make_classifier(Noisy(), head=None)
    online.partial_fit(X, y).partial_fit(X, y)
    assert online.scored_images_.plain_further.shape == (36, 9)
    assert online.predict(X).shape == (18,)


def test_one_template_in_a_list_is_that_template_and_a_search_takes_lists():
    X, y = make_stripes(n=16)
    labels = np.array(["x", "y"])[y]
    one, other = (
        make_classifier(ToyService(), prompts, prompter="basis", head=None, max_queries=120).fit(X, labels)
        for prompts in ("the {}", ["the {}"])
    )
    assert one.class_prompts_ == other.class_prompts_ == ["the x", "the y"]
    np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))
    X, y = noisy_images(12)
    clf = make_classifier(Noisy(), head=None, max_queries=100)
    search = GridSearchCV(clf, {"class_prompts": [["good {}", "bad {}"], "good {}"]}, cv=2).fit(X, y)
    assert search.best_params_["class_prompts"] in ("good {}", ["good {}", "bad {}"])
    assert clone(clf).class_prompts == TEMPLATES
    plan = clf.plan(X, y, n_predict=5)
    assert (plan.fit.images, plan.predict.images) == (24, 5)


def test_limits_and_label_mappings_are_refused_before_anything_is_billed(fitted, tmp_path):
    X, y = noisy_images(24)
    service = Noisy()
    service.max_class_prompts = 8
    for scorer in (service, SharedBudget(service, 1000)):
        for act in ("fit", "plan"):
            with pytest.raises(ClassPromptError, match="There are 9 class prompts, but .* takes 8 per request"):
                getattr(make_classifier(scorer), act)(X, y)
    fitted[0].save(tmp_path / "clf")
    with pytest.raises(ClassPromptError, match="takes 8 per request"):
        load(tmp_path / "clf", service).predict(X)
    service.max_class_prompts = 0
    with pytest.raises(ValueError, match="max_class_prompts .* is 0; expected a whole number"):
        make_classifier(service).fit(X, y)
    service.max_class_prompts = None
    for mapping in ("blm+", "text"):
        scorer = LabelMappedScorer(service, ["good a", "good b", "good c"], mapping)
        for wrapped in (scorer, SharedBudget(scorer, 1000)):
            with pytest.raises(ClassPromptError, match="LabelMappedScorer maps a service's own labels.*one prompt per"):
                make_classifier(wrapped).fit(X, y)
    for method in ("ares", "frequency"):
        with pytest.raises(ClassPromptError, match="only BlackVIPClassifier takes several"):
            compare([method], service, X, y, X, y, class_prompts=TEMPLATES, max_queries=100, seeds=[0])
    assert service.n_images == 0
    found = compare(["zero-shot"], service, X, y, X, y, class_prompts=TEMPLATES, max_queries=100, seeds=[0])
    plain = Noisy()(X, sum(fitted[0].class_prompts_, [])).reshape(24, 3, 3).mean(axis=2)
    assert found.summary()[0]["accuracy"] == pytest.approx(np.mean(NAMES[plain.argmax(axis=1)] == y))
