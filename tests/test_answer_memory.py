"""One fitted estimator never pays for a prompted image twice, and counts what predictions cost."""

import copy
import pickle
import threading
import time

import numpy as np
import pytest
from conftest import ToyService, make_stripes
from sklearn.base import clone

import blackvip
from blackvip import BlackVIPClassifier
from blackvip.scorers import SharedBudget


@pytest.fixture
def fitted():
    service = ToyService(glare=1)
    clf = BlackVIPClassifier(service, prompter="basis", max_queries=400, random_state=0, verbose=0, images_per_call=8)
    return clf.fit(*make_stripes(n=40, seed=1))


def billed(clf, act):
    """Images that the service is sent, each of which counts."""
    before, counted = clf.score_fn.n_images, clf.n_queries_predict_
    act()
    n = clf.score_fn.n_images - before
    assert clf.n_queries_predict_ - counted == n
    return n


def test_predictions_of_the_same_images_are_billed_once(fitted):
    X, y = make_stripes(n=30)
    assert fitted.n_queries_predict_ == 0
    assert billed(fitted, lambda: fitted.predict(X)) == 30
    first = fitted.predict_proba(X)
    for act in (lambda: fitted.predict_proba(X), lambda: fitted.score(X, y), lambda: fitted.decision_function(X[:5])):
        assert billed(fitted, act) == 0
    np.testing.assert_array_equal(fitted.predict_proba(X), first)
    more, _ = make_stripes(n=10, seed=7)
    assert billed(fitted, lambda: fitted.predict(np.concatenate([X[5:], more]))) == 10
    assert max(len(images) for images, _ in fitted.score_fn.calls) <= 8


def test_equal_images_of_one_call_are_sent_once(fitted):
    X, _ = make_stripes(n=6)
    rows = np.array([0, 1, 0, 2, 2, 2, 3, 4, 0, 5, 1])
    proba = []
    assert billed(fitted, lambda: proba.append(fitted.predict_proba(X[rows]))) == 6
    np.testing.assert_array_equal(proba[0], fitted.predict_proba(X)[rows])


def test_baselines_and_the_prompt_are_scored_from_the_same_memory(fitted):
    X, y = make_stripes(n=20)
    fitted.prompter_.prompt_scale_ = 1.0
    fitted.prompt_used_ = True
    assert billed(fitted, lambda: fitted.score_baselines(X, y)) == 20
    assert billed(fitted, lambda: fitted.compare_prompt(X, y)) == 20  # those with the prompt
    assert billed(fitted, lambda: fitted.predict(X)) == 0


def test_another_service_another_fit_and_a_loaded_estimator_start_anew(fitted, tmp_path):
    X, _ = make_stripes(n=12)
    assert billed(fitted, lambda: fitted.predict(X)) == 12
    fitted.save(tmp_path / "clf.blackvip")
    service = fitted.score_fn
    fitted.set_params(score_fn=ToyService(gain=1))
    assert billed(fitted, lambda: fitted.predict(X)) == 12
    fitted.set_params(score_fn=service)
    assert billed(fitted, lambda: fitted.predict(X)) == 12
    loaded = blackvip.load(tmp_path / "clf.blackvip", ToyService())
    assert loaded.n_queries_predict_ == 0
    assert billed(loaded, lambda: loaded.predict(X)) == 12
    fitted.fit(*make_stripes(n=40, seed=2))
    assert fitted.n_queries_predict_ == 0
    assert not hasattr(clone(fitted), "_memory")


def test_pickles_and_deep_copies_start_anew(fitted):
    X, _ = make_stripes(n=12)
    fitted.predict(X)
    twins = [pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)]
    for twin in twins:
        assert twin.n_queries_predict_ == 0
        assert billed(twin, lambda twin=twin: twin.predict(X)) == 12
    assert fitted.n_queries_predict_ == 12


def test_memory_is_bounded_and_forgets_the_oldest(fitted, monkeypatch):
    X, _ = make_stripes(n=40)
    entry = 8 * 2 + 250
    monkeypatch.setattr(fitted._memory._scores, "most_bytes", 20 * entry)
    assert billed(fitted, lambda: fitted.predict(X)) == 40
    assert fitted._memory.n_known == 20
    assert billed(fitted, lambda: fitted.predict(X[20:])) == 0
    assert billed(fitted, lambda: fitted.predict(X[:20])) == 20


def test_threads_and_a_failing_service(fitted):
    X, _ = make_stripes(n=30)
    fitted.score_fn.fail_at = len(fitted.score_fn.calls) + 3
    with pytest.raises(RuntimeError, match="the service is down"):
        fitted.predict(X)
    assert fitted.n_queries_predict_ == 24  # the last eight may have been billed
    fitted.score_fn.fail_at = None
    assert billed(fitted, lambda: fitted.predict(X)) == 14
    threads = [threading.Thread(target=fitted.predict, args=(X[k::3],)) for k in range(3)]
    assert billed(fitted, lambda: [*map(threading.Thread.start, threads), *map(threading.Thread.join, threads)]) == 0


@pytest.mark.parametrize("fails", [False, True])
def test_threads_at_once_pay_for_an_image_once_even_if_one_fails(fitted, fails):
    X, _ = make_stripes(n=16)
    service, lock, failed = fitted.score_fn, threading.Lock(), []

    class Slow(ToyService):
        n_images = 0

        def __call__(self, images, class_prompts):
            time.sleep(0.02)
            with lock:
                if fails and not failed:
                    failed.append(len(images))
                    raise RuntimeError("the service is down")
                self.n_images += len(images)
            return service(images, class_prompts)

    fitted.set_params(score_fn=Slow())
    errors = []

    def predict(rows):
        try:
            fitted.predict(X[rows])
        except RuntimeError as error:
            errors.append(error)

    rows = [np.arange(16), np.arange(16), np.arange(16)[::-1], np.arange(4, 12)]
    threads = [threading.Thread(target=predict, args=(some,)) for some in rows]
    [*map(threading.Thread.start, threads), *map(threading.Thread.join, threads)]
    assert fitted.score_fn.n_images == 16
    assert len(errors) == fails


def test_a_shared_budget_pays_for_what_is_not_remembered():
    budget = SharedBudget(ToyService(glare=1), 440)
    X, y = make_stripes(n=40, seed=1)
    clf = BlackVIPClassifier(budget, prompter="basis", max_queries=400, random_state=0, verbose=0).fit(X, y)
    new, _ = make_stripes(n=30)
    left = budget.remaining
    assert left >= 40
    clf.predict(new)
    assert budget.remaining == left - 30
    clf.predict(np.concatenate([new, 255 - X[:10]]))
    assert budget.remaining == left - 40
    clf.predict(new)
    assert budget.remaining == left - 40


@pytest.mark.parametrize("prompter", ["basis", "autocontrast", "auto"])
def test_training_images_are_not_paid_for_again_after_a_fit(prompter):
    service = ToyService(glare=1)
    X, y = make_stripes(n=40, seed=1)
    clf = BlackVIPClassifier(service, prompter=prompter, max_queries=400, random_state=0, verbose=0).fit(X, y)
    assert service.n_images == clf.n_queries_
    clf.score(X, y)
    clf.score_baselines(X, y)
    clf.predict_proba(X[5:9])
    assert (service.n_images, clf.n_queries_predict_) == (clf.n_queries_, 0)
    new = np.random.default_rng(0).integers(0, 256, (5, *X.shape[1:]), dtype=np.uint8)
    clf.predict(np.concatenate([X[:3], new]))
    assert service.n_images == clf.n_queries_ + 5 == clf.n_queries_ + clf.n_queries_predict_
    loaded = pickle.loads(pickle.dumps(clf))  # the answers stay behind
    np.testing.assert_array_equal(loaded.predict_proba(X[:3]), clf.predict_proba(X[:3]))


def test_scores_that_a_service_writes_into_one_buffer_are_remembered_as_they_were():
    buffer = np.zeros((8, 2))

    def service(images, class_prompts):
        buffer[: len(images)] = ToyService()(images, class_prompts)
        return buffer[: len(images)]

    X, y = make_stripes(n=40, seed=1)
    clf = BlackVIPClassifier(
        service, prompter="basis", max_queries=400, random_state=0, verbose=0, images_per_call=8
    ).fit(X, y)
    first = clf.predict_proba(X)
    np.testing.assert_array_equal(clf.predict_proba(X), first)
