"""The estimator's public behaviour on toy services."""

import io
import re
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ToyService, make_stripes
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from blackvip import (
    SPSA,
    SPSAGC,
    BlackVIPClassifier,
    BudgetError,
    CalibratedHead,
    ClassPromptError,
    Coordinator,
    FitInterruptedWarning,
    FusedHead,
    GradientEncoder,
    ImageError,
    PromptBasis,
    PromptNotUsedWarning,
    ScoreError,
    presets,
)
from blackvip.heads import ClassifierHead, ServiceHead

pytestmark = pytest.mark.filterwarnings("ignore::blackvip.PromptNotUsedWarning")


def make_classifier(service, **parameters):
    defaults = dict(prompter="basis", max_queries=1500, random_state=0, verbose=0)
    return BlackVIPClassifier(service, "stripe {}", **{**defaults, **parameters})


@pytest.fixture
def fitted(service, stripes):
    return make_classifier(service).fit(*stripes)


# What is learned


@pytest.mark.parametrize(("prompter", "a"), [("coordinator", 0.06), ("basis", 0.01)])
def test_a_prompt_is_learned_where_the_service_is_blinded(prompter, a):
    X, y = make_stripes(n=60, n_classes=3, side=12, background=0.6)
    X_test, y_test = make_stripes(n=90, n_classes=3, side=12, background=0.6, seed=1)
    service = ToyService(gain=10, glare=0.7)
    clf = make_classifier(service, prompter=prompter, head=None, max_queries=12_000, a=a, c=0.1).fit(X, y)
    assert clf.score_baselines(X_test, y_test)["zero_shot"] < 0.5
    assert clf.prompt_used_
    assert clf.score(X_test, y_test) > 0.9
    few = max(1, len(clf.history_) // 10)
    first, last = ([row["accuracy"] for row in rows] for rows in (clf.history_[:few], clf.history_[-few:]))
    assert np.mean(last) > np.mean(first)


def test_a_head_repairs_permuted_scores(stripes):
    X, y = make_stripes(n=60, n_classes=3, side=9)
    swapped = lambda images, prompts: ToyService()(images, prompts)[:, ::-1]
    auto = make_classifier(swapped).fit(X, y)
    assert auto.score(X, y) == 1
    assert auto.baselines_["zero_shot"].accuracy < 0.5
    assert auto.baselines_["calibrated_zero_shot"].accuracy > 0.9


def test_a_useless_prompt_is_not_used_and_said_so(stripes):
    X, y = stripes

    def easily_disturbed(images, prompts):  # sure of images that it knows, and less the more they were changed
        change = np.abs(images[:, None].astype(float) - X).mean(axis=(2, 3, 4)).min(axis=1) / 255
        return 30 * np.exp(-20 * change)[:, None] * ToyService(gain=1)(images, prompts)

    with pytest.warns(
        PromptNotUsedWarning,
        match=r"did not help \(log loss .* with it, .* without\), so it is not used. [\d,]+ images were",
    ):
        clf = make_classifier(easily_disturbed, head=None, a=0.3, c=0.1).fit(X, y)
    assert not clf.prompt_used_
    np.testing.assert_array_equal(clf.coordinator_.transform(X), X)


def test_a_service_without_a_fault_is_left_alone(stripes):
    X, y = stripes
    clf = make_classifier(ToyService(gain=1000)).fit(X, y)  # so sure that its loss is exactly zero
    assert clf.baselines_["zero_shot"].log_loss == 0
    assert clf.termination_reason_ == "budget"
    assert clf.score(X, y) == 1


def test_without_guard_the_prompt_is_always_used(service, stripes):
    with warnings.catch_warnings():
        warnings.simplefilter("error", PromptNotUsedWarning)
        clf = make_classifier(service, guard=False).fit(*stripes)
    assert clf.prompt_used_
    assert (clf.coordinator_.transform(stripes[0]) != stripes[0]).any()
    assert not any("validation_loss" in row for row in clf.history_)


def test_head_none_is_the_services_own_softmax(service, stripes):
    X, y = stripes
    clf = make_classifier(service, head=None).fit(X, y)
    assert isinstance(clf.head_, ServiceHead)
    scores = np.exp(service(clf.coordinator_.transform(X), clf.class_prompts_))
    np.testing.assert_allclose(clf.predict_proba(X), scores / scores.sum(axis=1, keepdims=True), rtol=1e-6)


def test_probabilities_are_taken_as_such(stripes):
    def probabilities(images, prompts):
        scores = np.exp(ToyService()(images, prompts))
        return scores / scores.sum(axis=1, keepdims=True)

    clf = make_classifier(probabilities, head=None).fit(*stripes)
    assert clf.score_type_ == "probabilities"
    logits = make_classifier(ToyService(), head=None).fit(*stripes)
    assert logits.score_type_ == "logits"
    np.testing.assert_allclose(clf.predict_proba(stripes[0]), logits.predict_proba(stripes[0]), atol=1e-6)


# Heads

CHEAP = {"max_queries": 400, "a": 0.02, "c": 0.1, "optimizer": SPSAGC(n_directions=2)}


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        ("fused", FusedHead),
        ("calibrated", CalibratedHead),
        (None, ServiceHead),
        (FusedHead(C=3.0, strengths=(1,)), FusedHead),
        (FusedHead(n_scores=0), FusedHead),
        (LogisticRegression(C=3.0), ClassifierHead),
    ],
)
def test_any_head_survives_weights_further_classes_and_warm_starts(head, kind):
    X, y = make_stripes(n=36, n_classes=3, side=9)
    weights = np.r_[0, 2, np.ones(34)]
    two = y < 2
    clf = make_classifier(ToyService(), **{**CHEAP, "max_queries": 1_000}, head=head, guard=False, warm_start=True)
    clf.partial_fit(X[two], y[two], classes=[0, 1, 2], sample_weight=weights[two])
    assert type(clf.head_) is kind
    np.testing.assert_allclose(clf.predict_proba(X).sum(axis=1), 1)
    clf.partial_fit(X[~two], y[~two], sample_weight=weights[~two])
    assert clf.score(X, y) > 0.9
    clf.set_params(max_queries=400).fit(X, y, sample_weight=weights)  # goes on
    assert type(clf.head_) is kind
    assert clf.score(X, y) > 0.9


@pytest.mark.parametrize("head", ["fused", FusedHead(C=3.0)])
def test_a_fused_head_falls_back_where_a_class_has_one_image(head, stripes):
    X, y = stripes
    one = np.r_[0, np.flatnonzero(y == 1)]  # one image of class 0
    clf = make_classifier(ToyService(), **CHEAP, head=head).fit(X[one], y[one])
    assert type(clf.head_) is CalibratedHead
    assert set(clf.baselines_) == {"zero_shot", "calibrated_zero_shot"}
    assert clf.predict_proba(X).shape == (40, 2)


def test_a_fused_head_of_ones_own_knows_scores_from_features(stripes):
    clf = make_classifier(ToyService(), **CHEAP, head=FusedHead(C=3.0), local_encoder="pca").fit(*stripes)
    assert clf.head_.C == 3
    assert clf.head_.coef_.shape == (2, 2)
    assert clf.head_.probes_[0].coef.shape == (2, clf.probe_encoder_.n_features_out_)


def test_predictions_of_a_fused_head_do_not_depend_on_the_batch(stripes):
    X, y = stripes
    clf = make_classifier(ToyService(), **CHEAP, head="fused").fit(X, y)
    alone = np.concatenate([clf.predict_proba(image[None]) for image in X])
    np.testing.assert_allclose(alone, clf.predict_proba(X), atol=1e-9, rtol=0)


def test_baselines_are_what_score_baselines_scores(stripes):
    X, y = stripes
    service = ToyService(glare=0.7)
    clf = make_classifier(service, **CHEAP).fit(X, y)
    before = service.n_images
    scored = clf.score_baselines(X, y)
    assert service.n_images == before  # these are training images
    assert set(scored) == set(clf.baselines_)
    assert set(scored) == {"zero_shot", "calibrated_zero_shot", "local_probe", "fused_zero_shot"}
    plain = service(X, clf.class_prompts_)
    features = GradientEncoder().fit(X).transform(X)
    inputs = {"local_probe": features, "fused_zero_shot": np.hstack([plain, features])}
    for name, control in clf.baselines_.items():
        assert scored[name] == (control.head.predict(inputs.get(name, plain)) == y).mean(), name


# The loss


def test_a_service_that_is_sure_of_wrong_answers_is_not_silenced():
    X, y = make_stripes(n=60, n_classes=3, side=12, background=0.6)
    service = ToyService(gain=500, glare=0.7)
    clf = make_classifier(service, head=None, max_queries=6_000).fit(X, y)
    assert clf.baselines_["zero_shot"].accuracy < 0.5
    assert clf.score(X, y) > 0.9


# Queries


def test_the_papers_settings_and_what_a_step_of_them_bills(stripes):
    service = ToyService()
    clf = make_classifier(service).set_params(**presets.cvpr2023(), max_queries=80 + 2 * 2 * 5 * 40 + 399)
    clf.fit(*stripes)  # 40 images, less than a batch of 128
    assert clf.n_iter_ == 2
    assert clf.history_[1]["n_queries"] - clf.history_[0]["n_queries"] == 2 * 5 * 40
    assert clf.n_queries_ == service.n_images == 80 + 2 * 2 * 5 * 40
    assert type(clf.head_) is ServiceHead
    assert clf.prompt_used_


@pytest.mark.parametrize(("share_batch", "billed"), [(False, 2 * 16), (True, 2 * 4 * 16)])
def test_a_step_bills_its_batch_once_or_for_each_direction(share_batch, billed, stripes):
    clf = make_classifier(ToyService(), a=0.02, c=0.1, guard=False, head=None, max_queries=500)
    clf.set_params(optimizer=SPSAGC(share_batch=share_batch))
    clf.fit(*stripes)
    assert (np.diff([row["n_queries"] for row in clf.history_]) == billed).all()
    assert len(clf.history_) == (500 - 80) // billed


@pytest.mark.parametrize("max_queries", [777, 1000, 1501])
@pytest.mark.parametrize("parameters", [{}, {"guard": False, "a": 0.1, "c": 0.1}, {"images_per_call": 7}])
def test_queries_are_counted_to_the_image_and_within_the_budget(max_queries, parameters, stripes):
    service = ToyService()
    clf = make_classifier(service, max_queries=max_queries, **parameters).fit(*stripes)
    assert clf.n_queries_ == service.n_images <= max_queries
    assert clf.n_queries_ > max_queries - 2 * 5 * 16 - 10 * 10  # less than a step, and checks, are left
    assert clf.history_[-1]["n_queries"] <= clf.n_queries_
    before = service.n_images
    clf.predict(255 - stripes[0][:7])
    assert service.n_images == before + 7


def test_a_budget_too_small_says_which_one_works_and_that_one_does(stripes):
    service = ToyService()
    with pytest.raises(BudgetError, match="does not pay for one step") as error:
        make_classifier(service, max_queries=50).fit(*stripes)
    assert service.n_images == 0
    smallest = int(re.search(r"budget that works here is (\d+)", str(error.value))[1])
    with pytest.raises(BudgetError):
        make_classifier(service, max_queries=smallest - 1).fit(*stripes)
    assert service.n_images == 0
    clf = make_classifier(service, max_queries=smallest).fit(*stripes)
    assert clf.n_iter_ == 1
    assert clf.n_queries_ == service.n_images <= smallest


def test_images_are_sent_as_promised(fitted, service):
    for images, prompts in service.calls:
        assert images.dtype == np.uint8
        assert images.shape[1:] == (8, 8, 3)
        assert len(images) <= 64
        assert prompts == ["stripe 0", "stripe 1"]
    assert fitted.class_prompts_ == ["stripe 0", "stripe 1"]


# Reproducibility


@pytest.mark.parametrize("prompter", ["coordinator", "basis"])
def test_same_seed_same_bits_and_untouched_global_states(prompter, stripes):
    X, y = stripes
    numpy_before, torch_before = np.random.get_state(), torch.get_rng_state()
    first, second = (make_classifier(ToyService(), prompter=prompter).fit(X, y) for _ in range(2))
    first.predict(X)
    for one, other in zip(numpy_before, np.random.get_state()):
        np.testing.assert_array_equal(one, other)
    assert torch.equal(torch.get_rng_state(), torch_before)
    np.testing.assert_array_equal(first.coordinator_.parameters_, second.coordinator_.parameters_)
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    assert first.history_ == second.history_
    other = make_classifier(ToyService(), prompter=prompter, random_state=1).fit(X, y)
    assert (other.coordinator_.parameters_ != first.coordinator_.parameters_).any()


def test_no_seed_does_not_read_the_global_state(stripes):
    before = np.random.get_state()[1].copy()
    make_classifier(ToyService(), random_state=None).fit(*stripes)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    one, other = (
        make_classifier(ToyService(), random_state=np.random.RandomState(3)).fit(*stripes).coordinator_.parameters_
        for _ in range(2)
    )
    np.testing.assert_array_equal(one, other)


def test_prediction_depends_on_the_image_alone_and_changes_nothing(fitted, stripes):
    X, _ = stripes
    before = joblib.hash({name: value for name, value in vars(fitted).items() if name != "score_fn"})
    together = fitted.predict_proba(X)
    alone = np.concatenate([fitted.predict_proba(image[None]) for image in X])
    np.testing.assert_allclose(together, alone, atol=1e-12, rtol=0)
    assert joblib.hash({name: value for name, value in vars(fitted).items() if name != "score_fn"}) == before


# Inputs


def test_images_in_other_forms_give_the_same_classifier(stripes, tmp_path):
    X, y = stripes
    paths = [tmp_path / f"{i}.png" for i in range(len(X))]
    for path, image in zip(paths, X):
        Image.fromarray(image).save(path)
    expected = make_classifier(ToyService()).fit(X, y).predict_proba(X)
    forms = {
        "planes": (X.transpose(0, 3, 1, 2), {}),
        "rows": (X.reshape(len(X), -1), {"image_shape": (8, 8, 3)}),
        "floats": (X / 255, {}),
        "PIL": ([Image.fromarray(image) for image in X], {}),
        "paths": (paths, {}),
        "column": (pd.Series([str(path) for path in paths]), {}),
    }
    for name, (form, parameters) in forms.items():
        clf = make_classifier(ToyService(), **parameters).fit(form, y)
        np.testing.assert_allclose(clf.predict_proba(form), expected, atol=1e-12, err_msg=name)
        assert clf.n_features_in_ == 8 * 8 * 3


def test_labels_of_any_type(stripes):
    X, y = stripes
    for labels in (np.array(["left", "right"])[y], y.astype(bool), y * 10 + 5, np.array(["b", "a"], dtype=object)[y]):
        clf = make_classifier(ToyService()).fit(X, labels)
        np.testing.assert_array_equal(clf.classes_, np.unique(labels))
        assert (clf.predict(X) == labels).all()
        assert clf.class_prompts_ == [f"stripe {label}" for label in np.unique(labels)]


def test_class_prompts_by_dict_and_sequence(stripes):
    X, y = stripes
    service = ToyService()
    BlackVIPClassifier(service, {1: "right", 0: "left", 2: "top"}, max_queries=1500, verbose=0).fit(X, y)
    assert service.calls[-1][1] == ["left", "right"]
    BlackVIPClassifier(service, ["first", "second"], max_queries=1500, verbose=0).fit(X, y)
    assert service.calls[-1][1] == ["first", "second"]


def test_binary_decision_function_and_many_classes(fitted):
    X, y = make_stripes(n=60, n_classes=3, side=9)
    proba = fitted.predict_proba(X[:5, :8, :8])
    np.testing.assert_allclose(fitted.decision_function(X[:5, :8, :8]), np.log(proba[:, 1] / proba[:, 0]), atol=1e-9)
    clf = make_classifier(ToyService()).fit(X, y)
    assert clf.decision_function(X).shape == (60, 3)
    np.testing.assert_allclose(clf.predict_proba(X).sum(axis=1), 1)


# Errors: each before anything is paid for


@pytest.mark.parametrize(
    ("X", "y", "parameters", "error", "message"),
    [
        (None, [0] * 40, {}, ValueError, "1 class, 0; expected at least two"),
        (None, [0, 1] * 10, {}, ValueError, "inconsistent numbers of samples"),
        (None, None, {"class_prompts": ["a", "b", "c"]}, ClassPromptError, "3 prompts, but y has 2 classes"),
        (None, None, {"class_prompts": {0: "a"}}, ClassPromptError, r"no prompt for the classes \[1\]"),
        (["nowhere.png"] * 40, None, {}, ImageError, r"Image 0 \(nowhere.png\) cannot be read"),
        (np.full((40, 4, 4), np.nan), None, {}, ImageError, "Image 0 contains NaN"),
        (None, None, {"a": -1.0}, ValueError, "'a' parameter of BlackVIPClassifier must be"),
        (None, None, {"prompter": "frame"}, ValueError, "'prompter' parameter of BlackVIPClassifier must be"),
        (
            None,
            None,
            {"prompter": Coordinator("no_such_model")},
            ValueError,
            "nor a model that timm knows",
        ),
        (None, None, {"local_encoder": "scratch"}, ValueError, "'scratch' is trained .*; expected a frozen encoder"),
        (None, np.linspace(0, 1, 40), {}, ValueError, "Unknown label type"),
        (None, [0, 1, np.nan, 1] * 10, {}, ValueError, "NaN"),
    ],
)
def test_bad_input_is_refused_before_anything_is_paid_for(X, y, parameters, error, message, stripes):
    service = ToyService()
    clf = make_classifier(service).set_params(**parameters)
    with pytest.raises(error, match=message):
        clf.fit(stripes[0] if X is None else X, stripes[1] if y is None else y)
    assert service.n_images == 0


def test_images_of_another_size_are_refused_at_prediction(fitted, service):
    before = service.n_images
    with pytest.raises(ImageError, match="fitted to 8 x 8"):
        fitted.predict(np.zeros((2, 9, 8, 3), np.uint8))
    assert service.n_images == before


def test_not_fitted():
    with pytest.raises(NotFittedError):
        make_classifier(ToyService()).predict(np.zeros((2, 8, 8)))


# Faults


def test_a_wrong_first_answer_is_explained_at_once(stripes):
    calls = []

    def one_score_too_few(images, prompts):
        calls.append(len(images))
        return np.zeros((len(images), 1))

    with pytest.raises(ScoreError, match=r"shape \(40, 1\); expected numbers of shape \(40, 2\)"):
        make_classifier(one_score_too_few).fit(*stripes)
    assert calls == [40]


def test_interruption_leaves_a_usable_classifier(stripes):
    class Interrupted(ToyService):
        def __call__(self, images, prompts):
            self.fail_at = 14 if len(self.calls) == 13 else None
            return super().__call__(images, prompts)

    service = Interrupted()
    service.failure = KeyboardInterrupt()
    with pytest.warns(FitInterruptedWarning, match="was interrupted after .* steps .* The estimator is fitted"):
        clf = make_classifier(service, guard=False, max_queries=100_000, a=0.01, c=0.1).fit(*stripes)
    assert clf.termination_reason_ == "interrupted"
    assert clf.n_iter_ == len(clf.history_) > 0
    assert clf.n_queries_ == service.n_images < 100_000
    assert clf.prompt_used_
    assert clf.score(*stripes) > 0.9


def test_errors_before_anything_is_sent_keep_an_earlier_fit(stripes):
    """Others leave no mixture of two fits, which would predict other labels."""
    (X, y), (others, labels) = stripes, make_stripes(42, n_classes=3)
    service = ToyService()
    clf = make_classifier(service, max_queries=300).fit(X, y)
    before, n_billed = clf.predict_proba(X), service.n_images
    for parameters, images, targets in (
        ({"class_prompts": ["a", "b"]}, others, labels),
        ({"max_queries": 5}, others / 127.5 - 1, labels),
        ({}, None, labels),
    ):
        with pytest.raises(ValueError, match="2 prompts|max_queries=5|NoneType"):
            clf.set_params(**{"class_prompts": "{}", "max_queries": 300} | parameters).fit(images, targets)
        np.testing.assert_array_equal(clf.predict_proba(X), before)
    assert service.n_images == n_billed
    service.fail_at = len(service.calls) + 1
    for fitted, warm_start in ((clf, False), (clf, True), (make_classifier(service, max_queries=300), False)):
        with pytest.raises(RuntimeError, match="down"):
            fitted.set_params(warm_start=warm_start).fit(others, labels)
        with pytest.raises(NotFittedError):
            fitted.predict(X)
    assert clf.n_queries_ == 42


@pytest.mark.parametrize("fail_at", [4, 14])
def test_a_failing_service_loses_nothing(fail_at, stripes):
    service = ToyService()
    service.fail_at = fail_at
    clf = make_classifier(service)
    with pytest.raises(RuntimeError, match="the service is down"):
        clf.fit(*stripes)
    assert clf.termination_reason_ == "error"
    assert clf.n_queries_ == service.n_images
    service.fail_at = None
    assert clf.score(*stripes) > 0.9  # with the head that plain scores had paid for


def test_patience_stops_early(stripes):
    level = lambda images, prompts: np.repeat(images.mean(axis=(1, 2, 3))[:, None], 2, axis=1)
    clf = make_classifier(level, patience=1, max_queries=20_000)
    clf.fit(*stripes)
    assert clf.termination_reason_ == "no_improvement"
    assert clf.n_queries_ < 10_000
    assert clf.coordinator_.transform(stripes[0]).shape == stripes[0].shape


# As scikit-learn's tools use it


def test_clone_and_pickle(fitted, stripes):
    X, _ = stripes
    parameters = fitted.get_params()
    assert {**clone(fitted).get_params(), "score_fn": None} == {**parameters, "score_fn": None}
    buffer = io.BytesIO()
    joblib.dump(fitted, buffer)
    buffer.seek(0)
    np.testing.assert_array_equal(joblib.load(buffer).predict_proba(X), fitted.predict_proba(X))


def test_coordinator_pickles_alone(service, stripes, tmp_path):
    fitted = make_classifier(service, guard=False).fit(*stripes)
    joblib.dump(fitted.coordinator_, tmp_path / "coordinator.joblib")
    coordinator = joblib.load(tmp_path / "coordinator.joblib")
    assert (coordinator.transform(stripes[0]) != stripes[0]).any()
    np.testing.assert_array_equal(coordinator.transform(stripes[0]), fitted.coordinator_.transform(stripes[0]))


def test_pipeline_cross_validation_and_search(stripes):
    X, y = stripes
    rows = X[..., 0].reshape(len(X), -1) / 255.0
    clf = make_classifier(
        ToyService(), image_shape=(8, 8), max_queries=600, optimizer=SPSAGC(n_directions=2), batch_size=8
    )
    pipeline = make_pipeline(FunctionTransformer(np.sqrt), clf)
    assert cross_val_score(pipeline, rows, y, cv=3).mean() > 0.9
    search = GridSearchCV(clf, {"a": [0.01, 0.1], "c": [0.05, "auto"]}, cv=2).fit(rows, y)
    assert search.best_score_ > 0.9
    assert len(search.cv_results_["params"]) == 4
    fits = [clone(clf).set_params(a=a, c=0.05).fit(rows, y) for a in (0.01, 0.1)]
    assert [fit.a_ for fit in fits] == [0.01, 0.1]


def test_a_fold_may_lack_a_class():
    X, y = make_stripes(n=30, n_classes=3)
    for prompts in ("stripe {}", {0: "a", 1: "b", 2: "c"}):
        clf = BlackVIPClassifier(ToyService(), prompts, max_queries=1500, verbose=0).fit(X[y < 2], y[y < 2])
        assert len(clf.class_prompts_) == 2


def test_instances_of_the_parts(stripes):
    optimizer, prompter = SPSA(a=0.02, c=0.1, n_directions=2), Coordinator(last_layer="random")
    clf = make_classifier(ToyService(), optimizer=optimizer, prompter=prompter, head=ServiceHead(), guard=False)
    clf.fit(*stripes)
    assert (clf.a_, clf.c_) == (0.02, 0.1)
    assert not hasattr(optimizer, "state")
    assert not hasattr(prompter, "parameters_")
    assert clf.coordinator_.last_layer == "random"
    basis = make_classifier(ToyService(), prompter=PromptBasis(rms=0.1)).fit(*stripes)
    assert basis.coordinator_.rms == 0.1


def test_history_makes_a_table(fitted, stripes):
    table = pd.DataFrame(fitted.history_)
    assert len(table) == fitted.n_iter_
    assert {"n_iter", "n_queries", "loss", "accuracy", "a", "a_k", "c_k", "estimate_norm", "step_norm"} <= set(table)
    assert table["n_queries"].is_monotonic_increasing
    made = (table["n_iter"] - 1) / len(table)  # gains that cost nothing to find fall linearly over the run
    np.testing.assert_allclose(table["a_k"], fitted.a_ * (1 - made))
    np.testing.assert_allclose(table["c_k"], fitted.c_ * (1 - 0.9 * made))
    table = pd.DataFrame(make_classifier(ToyService(), a=0.02, c=0.1).fit(*stripes).history_)
    np.testing.assert_allclose(table["a_k"], 0.02 / (table["n_iter"] + 1) ** 0.4)
    np.testing.assert_allclose(table["c_k"], 0.1 / table["n_iter"] ** 0.1)


def test_progress_bar_counts_billed_images(stripes, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("LINES", "50")
    clf = make_classifier(ToyService(), verbose=2).fit(*stripes)
    bar = capsys.readouterr().err
    assert "/1500" in bar
    assert re.search(rf"100%\|█+\| {clf.n_queries_}/{clf.n_queries_}", bar)
    assert "loss=" in bar
    assert "accuracy=" in bar
    make_classifier(ToyService(), verbose=1).fit(*stripes)  # the standard error is no terminal here
    assert capsys.readouterr().err == ""


def test_of_many_images_a_share_is_scored_before_and_after_and_all_train(monkeypatch):
    monkeypatch.setattr("blackvip.training.setup._JUDGED_IMAGES", 40)
    X, y = make_stripes(n=120)
    service = ToyService(glare=0.7)
    clf = BlackVIPClassifier(service, "{}", prompter="basis", max_queries=600, patience=3, random_state=0, verbose=0)
    plan = clf.plan(X, y)
    assert plan.baselines.images == 40
    clf.fit(X, y)
    assert clf.n_queries_ == service.n_images == plan.fit.images
    assert len(clf.baselines_["zero_shot"].losses) == 40
    sent = np.concatenate([images for images, _ in service.calls])
    assert len({image.tobytes() for image in sent[:40]} & {image.tobytes() for image in X}) == 40
    assert sum(row["n_queries"] - before["n_queries"] for before, row in zip(clf.history_, clf.history_[1:])) > 120
    assert clf.score(X, y) > 0.9
