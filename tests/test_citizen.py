"""What a scikit-learn user expects beyond the common checks: weights, warm starts, partial fits, routing, callbacks."""

import copy
import logging
import pickle
from email.message import Message

import numpy as np
import pandas as pd
import pytest
import sklearn
from conftest import ToyService, make_stripes
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import LinearSVC

from blackvip import SPSAGC, BlackVIPClassifier, BlackVIPPrompter, BudgetError, Coordinator, PCAEncoder, PromptBasis

pytestmark = pytest.mark.filterwarnings("ignore::blackvip.PromptNotUsedWarning")

needs_callbacks = pytest.mark.skipif(
    not hasattr(BlackVIPClassifier, "set_callbacks"), reason="scikit-learn has callbacks since 1.9"
)


def make_classifier(service=None, **parameters):
    defaults = dict(prompter="basis", max_queries=600, optimizer=SPSAGC(n_directions=2), random_state=0, verbose=0)
    return BlackVIPClassifier(service or ToyService(), "stripe {}", **{**defaults, **parameters})


# Weights


def test_images_of_weight_zero_are_not_sent_and_change_nothing(stripes):
    X, y = stripes
    mislabelled = np.r_[y, 1 - y[:10]]
    weights = np.r_[np.ones(40), np.zeros(10)]
    without = make_classifier().fit(X, y)
    service = ToyService()
    clf = make_classifier(service).fit(np.concatenate([X, X[:10]]), mislabelled, sample_weight=weights)
    np.testing.assert_array_equal(clf.coordinator_.parameters_, without.coordinator_.parameters_)
    np.testing.assert_array_equal(clf.predict_proba(X), without.predict_proba(X))
    assert clf.n_queries_ == without.n_queries_


def test_weights_move_losses_heads_and_controls(stripes):
    X, y = stripes
    y = y.copy()
    y[:10] = 1 - y[:10]  # a quarter is labelled wrongly
    good = np.r_[np.full(10, 1e-3), np.ones(30)]
    plain = make_classifier().fit(X, y)
    weighted = make_classifier().fit(X, y, sample_weight=good)
    assert weighted.baselines_["zero_shot"].accuracy > 0.99 > 0.8 > plain.baselines_["zero_shot"].accuracy
    assert weighted.predict_proba(X[10:])[np.arange(30), y[10:]].mean() > 0.9
    assert plain.predict_proba(X[10:])[np.arange(30), y[10:]].mean() < 0.8
    scaled = make_classifier().fit(X, y, sample_weight=np.full(40, 7.0))
    np.testing.assert_allclose(scaled.coordinator_.parameters_, plain.coordinator_.parameters_, rtol=1e-6)


def test_class_weight_is_a_sample_weight(stripes):
    X, y = stripes
    some = np.r_[np.arange(0, 40, 2), np.arange(1, 20, 2)]  # twenty of the first class, ten of the second
    X, y = X[some], np.array(["left", "right"])[y[some]]
    by_class = make_classifier(class_weight="balanced").fit(X, y)
    by_hand = make_classifier(class_weight={"left": 0.75, "right": 1.5}).fit(X, y)
    by_sample = make_classifier().fit(X, y, sample_weight=np.where(y == "left", 0.75, 1.5))
    for other in (by_hand, by_sample):
        np.testing.assert_array_equal(other.predict_proba(X), by_class.predict_proba(X))
    assert (by_class.predict_proba(X) != make_classifier().fit(X, y).predict_proba(X)).any()


def test_all_weights_zero_is_an_error_before_anything_is_paid_for(stripes):
    service = ToyService()
    with pytest.raises(ValueError, match="[wW]eight.*zero"):
        make_classifier(service).fit(*stripes, sample_weight=np.zeros(40))
    with pytest.raises(ValueError, match=r"[nN]egative"):
        make_classifier(service).fit(*stripes, sample_weight=np.linspace(-1, 1, 40))
    assert service.n_images == 0


@pytest.mark.parametrize("head", [LogisticRegression(C=10), RandomForestClassifier(20, random_state=0)])
def test_any_classifier_can_be_the_head(head, stripes):
    X, y = stripes
    clf = make_classifier(head=head).fit(X, y, sample_weight=np.linspace(1, 2, 40))
    assert type(clf.head_.classifier_) is type(head)
    assert clf.head_.title == type(head).__name__
    assert not hasattr(head, "classes_")
    assert clf.score(X, y) > 0.9
    np.testing.assert_allclose(clf.predict_proba(X).sum(axis=1), 1)


def test_a_classifier_without_probabilities_is_no_head(stripes):
    service = ToyService()
    with pytest.raises(ValueError, match="'head' parameter of BlackVIPClassifier must be"):
        make_classifier(service, head=LinearSVC()).fit(*stripes)
    assert service.n_images == 0


# Going on


def test_partial_fit_goes_on_within_one_budget():
    service = ToyService(glare=0.7, gain=10)
    clf = make_classifier(service, max_queries=2_000)
    accuracies = []
    for seed in range(4):
        X, y = make_stripes(n=24, n_classes=3, side=9, background=0.6, seed=seed)
        before = clf.n_queries_ if seed else 0
        k = clf.optimizer_.state["k"] if seed else 1
        assert clf.partial_fit(X, y, classes=[0, 1, 2]) is clf
        assert clf.n_queries_ == service.n_images <= 2_000
        steps = clf.optimizer_.state["k"] - k
        assert steps == 2  # one pass over 18 images, of which 16 are drawn in a step
        if seed:
            assert clf.n_queries_ - before == 2 * 24 + steps * 4 * 8
        assert clf.n_iter_ == len(clf.history_) == 2 * (seed + 1)
        assert [row["n_iter"] for row in clf.history_] == list(range(1, clf.n_iter_ + 1))
        # Of all calls so far, but for the prompted training images at the end of the last.
        assert clf.history_[-1]["n_queries"] == clf.n_queries_ - 24
        assert len(clf.baselines_["zero_shot"].losses) == 24 * (seed + 1)
        accuracies.append(clf.baselines_["calibrated_zero_shot"].accuracy)
    assert accuracies[-1] > 0.9


def test_partial_fit_may_start_with_a_class_or_two_missing():
    X, y = make_stripes(n=36, n_classes=3, side=9)
    clf = make_classifier(max_queries=3_000)
    only = y == 1
    clf.partial_fit(X[only], y[only], classes=[0, 1, 2])
    assert clf.predict_proba(X).shape == (36, 3)
    clf.partial_fit(X[~only], y[~only])
    assert clf.score(X, y) > 0.9
    with pytest.raises(ValueError, match=r"the labels \[3\], which are not among the classes"):
        clf.partial_fit(X, y + 1)
    with pytest.raises(ValueError, match="not the same as on the last call"):
        clf.partial_fit(X, y, classes=[0, 1])


def test_partial_fit_without_budget_sends_nothing(stripes):
    service = ToyService()
    clf = make_classifier(service).fit(*stripes)
    spent, before = service.n_images, pickle.dumps(clf.coordinator_)
    with pytest.raises(BudgetError, match=r"max_queries=600, of which \d+ are left, does not pay for one step"):
        clf.partial_fit(*stripes)
    assert service.n_images == spent
    assert pickle.dumps(clf.coordinator_) == before
    clf.set_params(max_queries=1_200).partial_fit(*stripes)
    assert spent < service.n_images == clf.n_queries_ <= 1_200


@pytest.mark.parametrize("fail_at", range(2, 10))
def test_a_service_that_failed_early_can_be_gone_on_with(fail_at, stripes):
    service = ToyService()
    service.fail_at = fail_at
    clf = make_classifier(service, max_queries=1_000)
    with pytest.raises(RuntimeError, match="the service is down"):
        clf.fit(*stripes)
    service.fail_at = None
    clf.set_params(max_queries=3_000).partial_fit(*stripes)
    assert clf.optimizer_.started
    assert clf.score(*stripes) > 0.9
    assert clf.n_queries_ <= service.n_images <= 3_000 + 40


def test_a_pickled_classifier_goes_on_as_the_original_does(stripes):
    X, y = stripes
    clf = make_classifier(max_queries=1_500).partial_fit(X, y)
    twin = pickle.loads(pickle.dumps(clf))
    for one in (clf, twin):
        one.partial_fit(X[::-1], y[::-1])
    np.testing.assert_array_equal(clf.coordinator_.parameters_, twin.coordinator_.parameters_)
    assert clf.history_ == twin.history_


@pytest.mark.parametrize(("prompter", "is_searched"), [("basis", False), ("coordinator", True)])
def test_warm_start_goes_on_with_a_new_budget(prompter, is_searched, stripes):
    X, y = stripes
    service = ToyService(glare=0.7, gain=10)  # which leaves something to be learned
    clf = make_classifier(service, prompter=prompter, warm_start=True, max_queries=1_000).fit(X, y)
    k, a, w, sent = clf.optimizer_.state["k"], clf.optimizer_.a_, clf.coordinator_.parameters_, service.n_images
    clf.set_params(max_queries=500).fit(X, y)
    assert clf.n_queries_ == service.n_images - sent <= 500
    # Gains that fall to the end of a run start from the top again in the next one.
    assert clf.optimizer_.state["k"] == (k if is_searched else 1) + clf.n_iter_
    assert clf.history_[0]["a"] == a  # which is not searched for again
    assert (clf.coordinator_.parameters_ != w).any()
    cold = make_classifier(prompter=prompter, max_queries=500).fit(X, y)
    assert (clf.n_iter_ > cold.n_iter_) if is_searched else (clf.n_iter_ == cold.n_iter_)
    clf.set_params(a=0.123).fit(X, y)
    assert clf.history_[0]["a"] == 0.123
    with pytest.raises(ValueError, match="not among the classes"):
        clf.fit(X, y + 1)


# Metadata routing


def test_sample_weight_is_routed(stripes):
    X, y = stripes
    weights = np.r_[np.zeros(8), np.ones(32)]
    with sklearn.config_context(enable_metadata_routing=True):
        service = ToyService()
        clf = make_classifier(service).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        assert clone(clf).get_metadata_routing().fit.requests["sample_weight"] is True
        pipeline = make_pipeline(FunctionTransformer(), clf).fit(X, y, sample_weight=weights)
        direct = make_classifier().fit(X, y, sample_weight=weights)
        np.testing.assert_array_equal(pipeline.predict_proba(X), direct.predict_proba(X))
        result = cross_validate(clf, X, y, cv=2, params={"sample_weight": weights})
        assert np.isfinite(result["test_score"]).all()
        prompter = BlackVIPPrompter(clf).fit(X, y, sample_weight=weights)
        np.testing.assert_array_equal(prompter.transform(X), direct.coordinator_.transform(X))
        with pytest.raises(TypeError, match="unexpected argument.*groups"):
            BlackVIPPrompter(make_classifier()).fit(X, y, groups=weights)


# Callbacks, logs, notebooks


class Recorder:
    """A callback that counts the hooks it is told, and may ask to stop."""

    def __init__(self, stop_at=None):
        self.stop_at, self.steps, self.events, self.accuracies = stop_at, 0, [], []

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
        self.events.append(f"end {context.task_name}")
        if context.task_name != "step":
            return False
        assert context.parent.max_subtasks >= self.steps
        self.steps += 1
        if fitted_estimator is not None:
            self.accuracies.append((fitted_estimator.score(X, y), len(X)))
        return self.steps == self.stop_at


@needs_callbacks
def test_callbacks_see_every_step_and_bill_nothing(stripes):
    recorder, service = Recorder(), ToyService()
    clf = make_classifier(service, max_queries=2_000, validation_fraction=0.25).set_callbacks(recorder)
    clf.fit(*stripes)
    assert recorder.events[:3] == ["setup", "begin fit", "begin step"]
    assert recorder.events[-3:] == ["end step", "end fit", "teardown"]
    assert recorder.steps == clf.n_iter_
    checks = [row["validation_accuracy"] for row in clf.history_ if "validation_accuracy" in row]
    assert [accuracy for accuracy, _ in recorder.accuracies] == checks
    assert {n for _, n in recorder.accuracies} == {10}
    assert clf.n_queries_ == service.n_images <= 2_000
    unwatched = make_classifier(max_queries=2_000, validation_fraction=0.25).fit(*stripes)
    np.testing.assert_array_equal(clf.predict_proba(stripes[0]), unwatched.predict_proba(stripes[0]))


@needs_callbacks
def test_a_callback_may_end_training_and_is_torn_down_after_an_error(stripes):
    recorder, service = Recorder(stop_at=3), ToyService()
    clf = make_classifier(service).set_callbacks(recorder).fit(*stripes)
    assert (clf.n_iter_, clf.termination_reason_) == (3, "callback")
    assert clone(clf)._skl_callbacks[0] is recorder
    service.fail_at = len(service.calls) + 1
    with pytest.raises(RuntimeError, match="the service is down"):
        clf.fit(*stripes)
    assert recorder.events[-1] == "teardown"
    with pytest.raises(TypeError, match="callbacks must"):
        clf.set_callbacks(print)


@needs_callbacks
def test_a_callback_may_not_send_other_images(stripes):
    class Curious(Recorder):
        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            if fitted_estimator is not None:
                fitted_estimator.predict(stripes[0] + 1)

    service = ToyService()
    with pytest.raises(BudgetError, match="were never sent to the service"):
        make_classifier(service, validation_fraction=0.25).set_callbacks(Curious()).fit(*stripes)


def test_scikit_learns_own_callbacks(stripes):
    callback = pytest.importorskip("sklearn.callback")
    monitor = callback.ScoringMonitor(scoring=["accuracy", "neg_log_loss"])
    clf = make_classifier(max_queries=2_000, validation_fraction=0.25).set_callbacks(monitor).fit(*stripes)
    rows = monitor.get_logs().data
    scores = [row["accuracy"] for row in rows if row.get("accuracy") is not None and row["accuracy"] == row["accuracy"]]
    assert scores == [row["validation_accuracy"] for row in clf.history_ if "validation_accuracy" in row]


def test_scikit_learns_progress_bar_in_a_search(stripes, capsys):
    callback = pytest.importorskip("sklearn.callback")
    pytest.importorskip("rich")
    search = GridSearchCV(make_classifier(), {"a": [0.01, 0.1]}, cv=2).set_callbacks(callback.ProgressBar())
    search.fit(*stripes)
    assert capsys.readouterr().out.count("BlackVIPClassifier - fit") == 5  # a bar for each fit


def test_a_fit_is_logged(stripes, caplog):
    with caplog.at_level(logging.INFO, logger="blackvip"):
        clf = make_classifier(max_queries=2_000, validation_fraction=0.25).fit(*stripes)
    text = caplog.text
    assert "40 images of 2 classes, 10 of them held out; 14 parameters; at most 2000 images to send" in text
    assert text.count("validation_loss") == sum("validation_loss" in row for row in clf.history_)
    assert f"ended with {clf.n_queries_} images sent" in text


def test_notebook_diagram_and_documentation_link(stripes, monkeypatch):
    clf = make_classifier(prompter="coordinator", head=None)
    html = clf._repr_html_()
    for part in ("BlackVIPClassifier", "Coordinator", "service: ToyService", "softmax", "max_queries"):
        assert part in html
    # The documentation has no public address before the first release.
    page = "https://docs.example/api/blackvip.BlackVIPClassifier.html"
    for kind, linked in ("Homepage", False), ("Documentation", True):
        told = Message()
        told["Project-URL"] = f"{kind}, https://docs.example/"
        monkeypatch.setattr("importlib.metadata.metadata", {"blackvip": told}.__getitem__)
        assert (page in clf._repr_html_()) == ("api/blackvip." in clf._repr_html_()) == linked
    assert "BlackVIPPrompter" in make_pipeline(BlackVIPPrompter(clf), "passthrough")._repr_html_()
    assert "fitted" in clf.fit(*stripes)._repr_html_()


def test_feature_names(stripes):
    X, y = stripes
    rows = X.reshape(40, -1)
    table = pd.DataFrame(rows, columns=[f"p{i}" for i in range(192)])
    clf = make_classifier(image_shape=(8, 8, 3)).fit(table, y)
    assert clf.n_features_in_ == 192
    np.testing.assert_array_equal(clf.feature_names_in_, table.columns)
    np.testing.assert_array_equal(clf.predict_proba(table), make_classifier().fit(X, y).predict_proba(X))
    with pytest.raises(ValueError, match="feature names should match"):
        clf.predict(table[table.columns[::-1]])
    assert not hasattr(clf.fit(X, y), "feature_names_in_")


# Transformers


def test_prompter_in_front_of_another_client(stripes):
    X, y = stripes

    class Client(LogisticRegression):
        def fit(self, X, y):
            assert X.shape == (40, 8, 8, 3)
            assert X.dtype == np.uint8
            return super().fit(X.reshape(len(X), -1) / 255, y)

        def predict(self, X):
            return super().predict(X.reshape(len(X), -1) / 255)

    service = ToyService()
    clf = make_classifier(service, guard=False)
    pipeline = make_pipeline(BlackVIPPrompter(clf), Client()).fit(X, y)
    sent = service.n_images
    assert sent == pipeline[0].estimator_.n_queries_ > 0
    assert pipeline.score(X, y) > 0.9
    assert service.n_images == sent
    assert not hasattr(clf, "coordinator_")
    np.testing.assert_array_equal(pipeline[0].transform(X), pipeline[0].coordinator_.transform(X))


def test_a_fitted_classifier_as_a_transformer_bills_nothing(stripes):
    X, y = stripes
    service = ToyService()
    clf = make_classifier(service, guard=False).fit(X, y)
    sent = service.n_images
    prompter = BlackVIPPrompter(FrozenEstimator(clf))
    np.testing.assert_array_equal(prompter.transform(X), clf.coordinator_.transform(X))  # without a fit
    np.testing.assert_array_equal(prompter.fit(X).transform(X), clf.coordinator_.transform(X))
    assert make_pipeline(prompter, FunctionTransformer()).fit_transform(X, y).shape == (40, 8, 8, 3)
    assert service.n_images == sent


def test_set_output_where_it_has_a_meaning(stripes):
    X, y = stripes
    rows = X.reshape(40, -1)
    clf = make_classifier(image_shape=(8, 8, 3), guard=False)
    prompter = BlackVIPPrompter(clf).set_output(transform="pandas").fit(rows, y)
    table = prompter.transform(rows)
    assert list(table.columns) == [f"blackvipprompter{i}" for i in range(192)]
    np.testing.assert_array_equal(table.to_numpy().reshape(X.shape), prompter.estimator_.coordinator_.transform(X))
    with pytest.raises(ValueError, match="do not fit its columns"):
        prompter.transform(X)
    features = PCAEncoder(5).set_output(transform="pandas").fit_transform(X)
    assert list(features.columns) == [f"pcaencoder{i}" for i in range(5)]


@pytest.mark.parametrize("prompter", [Coordinator(), PromptBasis()])
def test_an_untrained_prompter_changes_nothing(prompter, stripes):
    np.testing.assert_array_equal(prompter.fit(stripes[0]).transform(stripes[0]), stripes[0])


# Sharing


class Uncopyable(ToyService):
    def __deepcopy__(self, memo):
        raise AssertionError("a service was copied")

    __reduce_ex__ = __deepcopy__


def test_a_clone_shares_the_service_and_copies_everything_else():
    service = Uncopyable()
    encoder = PCAEncoder(7)
    clf = make_classifier(service, prompter=Coordinator(encoder))
    twin = clone(clf)
    assert twin.score_fn is service
    assert twin.prompter.encoder is not encoder
    assert twin.prompter.encoder.n_components == 7
    assert clf.score_fn is service
    assert copy.copy(clf).score_fn is service
