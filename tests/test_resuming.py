"""Checkpoints: fits and predictions that go on after a failure, Ctrl-C or a kill, and pay for nothing twice."""

import json
import os
import pathlib
import sqlite3
import sys
from contextlib import closing

import joblib
import numpy as np
import pytest
from conftest import ToyService, make_stripes
from servers.running import running
from servers.shared import scorer_of
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import GridSearchCV, cross_val_score

import blackvip
from blackvip import (
    SPSAGC,
    BlackVIPClassifier,
    BudgetError,
    Coordinator,
    JournalError,
    PromptBasis,
    ScoreError,
    SharedBudget,
)
from blackvip.journal.journal import Journal
from blackvip.scorers.checkpoint import predictions_path

pytestmark = [
    pytest.mark.filterwarnings("ignore::blackvip.PromptNotUsedWarning"),
    pytest.mark.filterwarnings("ignore::blackvip.FitInterruptedWarning"),
]
TESTS = pathlib.Path(__file__).parent


def make_classifier(service, **parameters):
    defaults = dict(prompter="basis", head="calibrated", max_queries=500, random_state=0, verbose=0)
    return BlackVIPClassifier(service, "stripe {}", **{**defaults, **parameters})


@pytest.fixture
def data():
    return make_stripes(n=24, n_classes=3, background=0.6)


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "run.journal"


def blinded():
    return ToyService(glare=0.7)


def same_fit(clf, other):
    """Whether two fits left the same, to the bit."""
    X = make_stripes(n=9, n_classes=3, background=0.6, seed=1)[0]
    services = clf.score_fn, other.score_fn
    try:
        clf.score_fn = other.score_fn = blinded()
        proba = [fitted.predict_proba(X) for fitted in (clf, other)] if clf.checkpoint is None else [0, 0]
    finally:
        clf.score_fn, other.score_fn = services
    return (
        clf.history_ == other.history_
        and np.array_equal(clf.coordinator_.parameters_, other.coordinator_.parameters_)
        and np.array_equal(clf._scored.prompted, other._scored.prompted, equal_nan=True)
        and np.array_equal(*proba)
        and clf.prompt_used_ == other.prompt_used_
        and (clf.n_queries_, clf.n_iter_, clf.a_, clf.c_) == (other.n_queries_, other.n_iter_, other.a_, other.c_)
        and clf.termination_reason_ == other.termination_reason_
    )


# A fit goes on


def test_a_journal_changes_nothing_and_answers_a_second_fit_alone(data, journal):
    plain = make_classifier(blinded()).fit(*data)
    service = blinded()
    kept = make_classifier(service, checkpoint=journal).fit(*data)
    assert same_fit(kept, plain)
    assert service.n_images == kept.n_queries_ == plain.n_queries_
    again = make_classifier(service, checkpoint=str(journal)).fit(*data)
    assert service.n_images == kept.n_queries_
    assert same_fit(again, plain)
    assert again.seconds_per_image_ is None  # nothing was waited for
    again.save(journal.with_name("again.blackvip"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"head": "auto", "max_queries": 800},
        {"optimizer": "cma-es"},
        {
            "prompter": "coordinator",
            "optimizer": SPSAGC(n_directions=1),
            "max_queries": 400,
            "a": 0.06,
            "c": 0.1,
            "batch_size": 4,
        },
        {"guard": True, "validation_fraction": 0.4, "patience": 1, "a": 0.3},
        {"images_per_call": 20, "optimizer": SPSAGC(share_batch=True)},
        {"on_error": "skip", "class_weight": {0: 1, 1: 2, 2: 0.5}},
    ],
)
def test_a_fit_goes_on_after_each_failure_and_ends_as_if_there_was_none(parameters, data, journal):
    expected = make_classifier(blinded(), **parameters).fit(*data)
    services, clf = [], make_classifier(None, checkpoint=journal, **parameters)
    for _ in range(100):
        services.append(blinded())
        services[-1].fail_at = 7
        try:
            clf.set_params(score_fn=services[-1]).fit(*data)
            break
        except RuntimeError as error:
            notes = error.__notes__
    assert len(services) > 1
    assert notes == [f"The answers so far are in '{journal}'. Call fit again to resume from there."]
    assert same_fit(clf, expected)
    n_failed = sum(len(service.calls[-1][0]) for service in services[:-1])  # without an answer, and asked for again
    assert sum(service.n_images for service in services) - n_failed == expected.n_queries_


@pytest.mark.parametrize("prompter", ["basis", "auto"])
def test_after_a_failure_nothing_more_is_spent_and_the_estimator_is_fitted_without_a_prompt(prompter, data, journal):
    service = blinded()
    service.fail_at = 6
    clf = make_classifier(service, prompter=prompter, checkpoint=journal)
    with pytest.raises(RuntimeError, match="down"):
        clf.fit(*data)
    assert len(service.calls) == 6
    assert (clf.termination_reason_, clf.prompt_used_) == ("error", False)
    service.fail_at = None
    assert clf.set_params(checkpoint=None).predict(data[0]).shape == data[1].shape


@pytest.mark.parametrize("random_state", [None, np.random.RandomState(7)])
def test_a_seed_that_was_drawn_is_used_again(random_state, data, journal):
    first, second, third = blinded(), blinded(), blinded()
    first.fail_at = 6
    with pytest.raises(RuntimeError):
        make_classifier(first, checkpoint=journal, random_state=random_state).fit(*data)
    clf = make_classifier(second, checkpoint=journal, random_state=random_state).fit(*data)
    assert second.n_images == clf.n_queries_ - first.n_images + len(first.calls[-1][0])
    assert same_fit(make_classifier(third, checkpoint=journal, random_state=random_state).fit(*data), clf)
    assert third.n_images == 0


def test_a_random_state_gives_the_same_fit_with_and_without_a_journal(data, journal):
    fits = [
        make_classifier(blinded(), checkpoint=checkpoint, random_state=np.random.RandomState(3)).fit(*data)
        for checkpoint in (None, journal)
    ]
    assert same_fit(fits[1], fits[0])


class MoodyService(ToyService):
    """A service that answers one image differently each time."""

    def __init__(self, seed):
        super().__init__(glare=0.7)
        self.rng = np.random.default_rng(seed)

    def __call__(self, images, class_prompts):
        scores = super().__call__(images, class_prompts)
        return scores + self.rng.normal(scale=0.1, size=scores.shape)


def test_a_service_that_never_says_the_same_is_remembered_answer_by_answer(journal):
    X, y = make_stripes(n=6, n_classes=3, background=0.6)
    X, y = X[[0, 1, 2] * 8], y[[0, 1, 2] * 8]  # equal images get answers of their own
    clf = make_classifier(MoodyService(0), checkpoint=journal).fit(X, y)
    assert len(np.unique(clf._scored.plain, axis=0)) == 24
    service = MoodyService(1)
    assert same_fit(make_classifier(service, checkpoint=journal).fit(X, y), clf)
    assert service.n_images == 0


def test_ctrl_c_and_callbacks_end_a_fit_and_the_next_one_goes_on(data, journal, monkeypatch):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)  # a person is there to go on with the estimator
    expected = make_classifier(blinded()).fit(*data)
    service = blinded()
    service.fail_at, service.failure = 6, KeyboardInterrupt()
    clf = make_classifier(service, checkpoint=journal)

    def relent(images, class_prompts):  # the final scores of a fit that was interrupted are paid for
        try:
            return service(images, class_prompts)
        except KeyboardInterrupt:
            service.fail_at = None
            raise

    last = blinded()
    relent.identity = service.identity = last.identity = "toy"
    clf.set_params(score_fn=relent).fit(*data)
    assert clf.termination_reason_ == "interrupted"
    assert np.isfinite(clf._scored.prompted).all()
    # scikit-learn has callbacks since 1.9.
    if hasattr(BlackVIPClassifier, "set_callbacks"):
        stopped = make_classifier(service, checkpoint=journal).set_callbacks(StopAfter(4)).fit(*data)
        assert (stopped.termination_reason_, stopped.n_iter_) == ("callback", 4)
    ended = make_classifier(last, checkpoint=journal).fit(*data)
    assert same_fit(ended, expected)
    assert 0 < last.n_images < 350


class StopAfter:
    """A callback that ends a fit after so many steps."""

    def __init__(self, n_steps):
        self.n_steps = n_steps

    def setup(self, estimator, context):
        self.n = 0

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        self.n += context.task_name == "step"
        return self.n >= self.n_steps


# Whose journal it is


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_queries": 501}, "max_queries was 500 and is 501 now"),
        ({"random_state": 1}, "random_state was 0 and is 1 now"),
        ({"random_state": None}, "random_state was 0 and is None now"),
        ({"a": 0.1, "c": 0.2}, "a was 'auto' and is 0.1 now; c was 'auto' and is 0.2 now"),
        ({"prompter": Coordinator(src_dim=4)}, r"prompter was 'basis' and is \{.*Coordinator"),
        ({"class_prompts": "a stripe {}"}, r"class_prompts\[0\] was 'stripe 0' and is 'a stripe 0' now"),
        ({"score_fn": len}, "score_fn was 'conftest.ToyService' and is 'builtins.len' now"),
        ({"class_weight": "balanced"}, "class_weight was None and is 'balanced' now"),
    ],
)
def test_a_journal_of_other_parameters_is_refused_by_name(parameters, message, data, journal):
    make_classifier(blinded(), checkpoint=journal).fit(*data)
    clf = make_classifier(blinded(), checkpoint=journal).set_params(**parameters)
    with pytest.raises(JournalError, match=f"belongs to something else: {message}.*give another checkpoint"):
        clf.fit(*data)


def test_a_journal_of_other_data_is_refused_by_name(data, journal):
    X, y = data
    make_classifier(blinded(), checkpoint=journal).fit(X, y)
    service = blinded()
    clf = make_classifier(service, checkpoint=journal)
    changed = X.copy()
    changed[5, 3, 3, 1] += 1
    for other, message in (
        ((changed, y), "training images differ"),
        ((X[::-1], y[::-1]), "labels differ .*; training images differ"),
        ((X, y[::-1]), "something else: labels differ"),
        ((X[1:], y[1:]), "training images.number was 24 and is 23 now"),
        ((X, np.array(["a", "b", "c"])[y]), r"class_prompts\[0\] was 'stripe 0' and is 'stripe a' now; .*classes\[0\]"),
    ):
        with pytest.raises(JournalError, match=message):
            clf.fit(*other)
    with pytest.raises(JournalError, match="something else: weights differ"):
        clf.fit(X, y, sample_weight=1 + y)
    assert service.n_images == 0
    clf.set_params(verbose=1).fit(list(X), y.astype(float).astype(int))  # the same in another form
    assert service.n_images == 0


def test_parameters_of_nested_estimators_and_of_the_service_are_compared(data, journal):
    service = Declared("https://name:pass@service.example/v1?model=a&api_key=hush", key="SERVICE_KEY")
    make_classifier(service, prompter=PromptBasis(), checkpoint=journal).fit(*data)
    other = Declared("https://service.example/v1?model=b", key="OTHER_KEY", n_concurrent=9)
    message = r"prompter.rms was .* now; score_fn.url was 'https://s.*=a' and is"
    with pytest.raises(JournalError, match=message) as caught:
        make_classifier(other, prompter=PromptBasis(rms=0.1), checkpoint=journal).fit(*data)
    assert "n_concurrent" not in str(caught.value)
    for secret in (b"hush", b"pass", b"name:", b"SERVICE_KEY"):
        assert secret not in journal.read_bytes()
    again = Declared("https://other:word@service.example/v1?model=a", key="OTHER_KEY", n_concurrent=9)
    make_classifier(SharedBudget(again, 4), prompter=PromptBasis(), checkpoint=journal).fit(*data)  # all is there


class Declared(BaseEstimator, ToyService):
    """A service with parameters, some of which do not change what it answers."""

    identity_params = ("url", "key")

    def __init__(self, url, key=None, n_concurrent=1):
        ToyService.__init__(self, glare=0.7)
        self.url = url
        self.key = key
        self.n_concurrent = n_concurrent


def test_a_journal_without_answers_belongs_to_whoever_comes(data, journal):
    with pytest.raises(BudgetError, match="does not pay for one step"):
        make_classifier(blinded(), max_queries=50, checkpoint=journal).fit(*data)
    clf = make_classifier(blinded(), checkpoint=journal).fit(*data)
    assert clf.n_queries_ > 50


def test_an_answer_that_breaks_the_contract_is_not_kept(data, journal):
    for broken, message in (
        (lambda images, prompts: [{} for _ in images], "no score at all"),
        (lambda images, prompts: np.zeros((len(images), 2)), "shape"),
    ):
        broken.__qualname__, broken.__module__ = "ToyService", "conftest"
        with pytest.raises(ScoreError, match=message):
            make_classifier(broken, checkpoint=journal).fit(*data)
    clf = make_classifier(blinded(), checkpoint=journal).fit(*data)
    assert np.isfinite(clf._scored.plain).all()


class Drifting(PromptBasis):
    """Prompts that are computed otherwise after an update."""

    shift = 0.0

    def prompts(self, *args, **kwargs):
        return super().prompts(*args, **kwargs) + self.shift


def test_a_fit_that_asks_for_other_images_than_the_last_time_does_not_pay_again(data, journal, monkeypatch):
    first = blinded()
    first.fail_at = 9
    with pytest.raises(RuntimeError):
        make_classifier(first, prompter=Drifting(), checkpoint=journal).fit(*data)
    monkeypatch.setattr(Drifting, "shift", 0.02)
    service = blinded()
    with pytest.raises(JournalError, match=r"has answers for \d+ images that this fit does not request.*Nothing more"):
        make_classifier(service, prompter=Drifting(), checkpoint=journal).fit(*data)
    assert service.n_images == 0


def test_two_fits_on_one_journal_are_refused(data, journal):
    nested = []

    def service(images, class_prompts):
        if not nested:
            with pytest.raises(JournalError, match=f"is in use by process {os.getpid()}") as caught:
                make_classifier(service, checkpoint=journal).fit(*data)
            nested.append(caught.value)
        return blinded()(images, class_prompts)

    make_classifier(service, checkpoint=journal).fit(*data)
    assert len(nested) == 1


def test_what_goes_on_from_an_earlier_fit_is_refused(data, journal):
    with pytest.raises(JournalError, match="warm_start=True continues an earlier fit.*Set checkpoint=None"):
        make_classifier(blinded(), warm_start=True, checkpoint=journal).fit(*data)
    with pytest.raises(JournalError, match="partial_fit continues an earlier fit"):
        make_classifier(blinded(), checkpoint=journal).partial_fit(*data)
    assert not journal.exists()


def test_unusable_checkpoints(data, tmp_path):
    (tmp_path / "notes.txt").write_text("buy milk")
    for checkpoint, message in (
        (tmp_path / "notes.txt", "is not a journal of blackvip"),
        (tmp_path / "none" / "run.journal", "cannot be opened: No such file"),
        (f"{tmp_path}/notes.txt/", "cannot be created"),
    ):
        with pytest.raises(JournalError, match=message):
            make_classifier(blinded(), checkpoint=checkpoint).fit(*data)
    with pytest.raises(ValueError, match="The 'checkpoint' parameter of BlackVIPClassifier must be"):
        make_classifier(blinded(), checkpoint=7).fit(*data)
    assert (tmp_path / "notes.txt").read_text() == "buy milk"


def test_a_saved_model_has_no_checkpoint(data, journal, tmp_path):
    clf = make_classifier(blinded(), checkpoint=journal).fit(*data)
    clf.save(tmp_path / "clf.blackvip")
    assert blackvip.load(tmp_path / "clf.blackvip").checkpoint is None
    assert b"run.journal" not in (tmp_path / "clf.blackvip").read_bytes()
    joblib.dump(clf, tmp_path / "clf.joblib")
    assert joblib.load(tmp_path / "clf.joblib").checkpoint == journal


# Budgets and searches


def test_a_shared_budget_pays_for_what_is_left_alone(data, journal):
    expected = make_classifier(blinded()).fit(*data)
    service = blinded()
    service.fail_at = 8
    budget = SharedBudget(service, 600)
    with pytest.raises(RuntimeError):
        make_classifier(budget, checkpoint=journal).fit(*data)
    spent = budget.n_queries
    assert spent == service.n_images
    assert budget.remaining == 600 - spent < 500
    service.fail_at = None
    clf = make_classifier(budget, checkpoint=journal).fit(*data)  # though 500 are not left
    assert same_fit(clf, expected)
    n_lost = len(service.calls[7][0])
    assert budget.n_queries == service.n_images == expected.n_queries_ + n_lost


@pytest.mark.slow
def test_a_search_goes_on_in_its_folder(data, tmp_path):
    clf = make_classifier(blinded(), max_queries=200)
    expected = GridSearchCV(clf, {"c": [0.05, 0.2]}, cv=2).fit(*data)
    folder = f"{tmp_path}/journals/"
    search = GridSearchCV(clone(clf).set_params(checkpoint=folder), {"c": [0.05, 0.2]}, cv=2, error_score="raise")
    services = []
    for _ in range(20):
        services.append(blinded())
        services[-1].fail_at = 15
        search.estimator.score_fn = services[-1]
        try:
            search.fit(*data)
            break
        except RuntimeError:
            pass
    assert len(services) > 3
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"])
    n_failed = sum(len(service.calls[-1][0]) for service in services[:-1])
    n_images = sum(service.n_images for service in services) - n_failed
    # Of 48 predictions, those of images that two candidates send unprompted are paid for once.
    assert expected.estimator.score_fn.n_images - 48 <= n_images <= expected.estimator.score_fn.n_images
    last = blinded()
    search.estimator.score_fn = last
    search.fit(*data)
    assert last.n_images == 0
    assert len(list((tmp_path / "journals").glob("*.journal"))) == 5 + 1  # four fits and the best again; predictions


@pytest.mark.slow
def test_a_search_in_two_processes_shares_its_folder(data, tmp_path):
    clf = make_classifier(blinded(), max_queries=200)
    expected = cross_val_score(clf, *data, cv=3)
    clf.set_params(checkpoint=tmp_path)
    for _ in range(2):
        np.testing.assert_array_equal(cross_val_score(clf, *data, cv=3, n_jobs=2), expected)
    service = blinded()
    cross_val_score(clf.set_params(score_fn=service), *data, cv=3)
    assert service.n_images == 0


def test_one_file_for_several_fits_is_refused_and_says_what_to_do(data, journal):
    clf = make_classifier(blinded(), checkpoint=journal)
    with pytest.raises(
        JournalError, match="training images.*a folder, whose path ends with a separator, has a journal"
    ):
        cross_val_score(clf, *data, cv=3, error_score="raise")


# Predictions


def test_predictions_are_kept_and_cost_nothing_again(data, journal):
    service = blinded()
    plain = make_classifier(blinded()).fit(*data)
    clf = make_classifier(service, checkpoint=journal).fit(*data)
    X = make_stripes(n=150, n_classes=3, background=0.6, seed=1)[0]
    before = service.n_images
    proba = clf.predict_proba(X)
    assert service.n_images - before == 150
    np.testing.assert_array_equal(proba, plain.predict_proba(X))
    np.testing.assert_array_equal(clf.predict_proba(X[::-1]), proba[::-1])
    np.testing.assert_array_equal(clone(clf).set_params(score_fn=service).fit(*data).predict_proba(X), proba)
    assert service.n_images - before == 150
    assert clf.score_baselines(X, np.arange(150) % 3) == plain.score_baselines(X, np.arange(150) % 3)
    assert predictions_path(journal) == journal.with_name("run.journal.predictions")
    assert predictions_path(journal).exists()


def test_a_long_prediction_that_fails_goes_on(data, journal):
    clf = make_classifier(blinded()).fit(*data)
    X = make_stripes(n=500, n_classes=3, background=0.6, seed=1)[0]
    expected = clf.predict_proba(X)
    paid, n_failed = 0, 0
    for _ in range(100):
        service = blinded()
        service.fail_at = 3
        clf.set_params(checkpoint=journal, score_fn=SharedBudget(service, 500))
        try:
            proba = clf.predict_proba(X)
            break
        except RuntimeError:
            n_failed += len(service.calls[-1][0])
        finally:
            paid += service.n_images
    np.testing.assert_array_equal(proba, expected)
    assert paid - n_failed == 500


# Kills


def test_a_key_is_in_no_file(data, journal, monkeypatch):
    pytest.importorskip("httpx")
    monkeypatch.setenv("PLANTED_KEY", "sk-planted-0123456789")
    with running() as server:
        server.control(key="sk-planted-0123456789", script=["", "", "500"])
        scorer = scorer_of(server, key="PLANTED_KEY", images_per_request=8)
        clf = make_classifier(scorer, checkpoint=journal).fit(*data)
        assert server.counts()["images"] == clf.n_queries_
        clf.predict(255 - data[0])
        n_images = server.counts()["images"]
        make_classifier(scorer_of(server, key="PLANTED_KEY", n_concurrent=3), checkpoint=journal).fit(*data)
        assert server.counts()["images"] == n_images == clf.n_queries_ + 24
    files = [path for path in journal.parent.iterdir() if path.name.startswith(journal.name)]
    assert {journal, predictions_path(journal)} <= set(files)  # and what SQLite has beside them
    for path in files:
        assert b"sk-planted" not in path.read_bytes()
        assert b"PLANTED_KEY" not in path.read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "waitid"), reason="needs fork and waitid")
@pytest.mark.parametrize("how", ["calls", "answers", pytest.param("http", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("kind", ["fit", "predict"])
def test_kills_change_nothing_and_cost_no_more_than_what_was_in_flight(kind, how, programs, tmp_path):
    n_kills = 8
    command = [TESTS / "killing.py", tmp_path, f"{kind}_{how}", n_kills, 0]
    ended = programs.run(*command)
    assert ended.returncode == 0, ended.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert sum(len(chain["kills"]) for chain in report["chains"]) == n_kills
    most = report["at_once"]
    for chain in report["chains"]:
        assert chain["same"], command
        assert 0 <= chain["paid"] - report["n_images"] <= most * len(chain["kills"]), command


def test_a_journal_can_be_read_by_hand(data, journal):
    """What the guide says is in the file."""
    clf = make_classifier(blinded(), checkpoint=journal).fit(*data)
    with closing(sqlite3.connect(journal)) as connection:
        ((header,),) = connection.execute("SELECT content FROM header")
        assert connection.execute("SELECT count(*), sum(billed) FROM answers").fetchone() == (clf.n_queries_,) * 2
    identity = json.loads(header)["identity"]
    assert identity["max_queries"] == 500
    with Journal(journal, identity) as read:
        assert read.n_answers == clf.n_queries_
