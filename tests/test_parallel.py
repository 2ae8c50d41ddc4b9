"""Scoring in threads and processes: the same results, exact counts, and nothing lost by an error."""

import gc
import os
import threading
import time

import joblib
import numpy as np
import pytest
import torch
from conftest import ToyService, make_stripes
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import GridSearchCV

from blackvip import BlackVIPClassifier
from blackvip.scorers import CachedScorer, LabelMappedScorer, Ledger, ParallelScorer, SharedBudget
from blackvip.scorers.cached import PaidAnswers
from blackvip.scorers.http import HTTPScorer, KServe
from blackvip.scorers.parallel.packing import PickledScorer
from blackvip.scorers.parallel.scorer import spread

PROMPTS = ["one", "two", "three"]
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 6, 9, 3), np.uint8)


def stripe_means(images, class_prompts):
    return images.reshape(len(images), 6, 3, -1).mean(axis=(1, 3))


class Lazy(BaseEstimator):
    """It loads its model at its first call, and writes down in which process."""

    images_per_call = 8

    def __init__(self, log, ballast=b""):
        self.log = log
        self.ballast = ballast

    def __call__(self, images, class_prompts):
        if not hasattr(self, "_model"):
            with open(self.log, "a") as file:
                file.write(f"{os.getpid()}\n")
            self._model = threading.Lock()  # as no pickle can hold
        time.sleep(0.05)  # so that no worker is done before another has begun
        return stripe_means(images, class_prompts)

    def __getstate__(self):
        return {"log": self.log, "ballast": self.ballast}


class OnDevice(BaseEstimator):
    """It is on a device, and cannot be called twice at a time."""

    images_per_call = 4
    calls = []

    def __init__(self, device="none"):
        self.device = device

    def __call__(self, images, class_prompts):
        assert not getattr(self, "busy", False)
        self.busy = True
        self.calls.append((self.device, id(self), len(images)))
        time.sleep(0.01)
        self.busy = False
        return ToyService(glare=0.7)(images, class_prompts)


def take_tensors(images, class_prompts):
    assert isinstance(images, torch.Tensor)
    assert images.untyped_storage().nbytes() == images.nbytes  # no more came than is asked for
    return images.mean(dim=(1, 2))[:, :3] + torch.zeros(len(images), 3)


take_tensors.takes_tensors = True


class FailsInWorker:
    """An error that pickle cannot copy."""

    class Refused(Exception):
        def __init__(self, status, text):
            super().__init__(text)

    def __call__(self, images, class_prompts):
        raise self.Refused(403, "the key is not valid")


def lines_of(path):
    return path.read_text().split() if path.exists() else []


def fitted(score_fn, **parameters):
    defaults = dict(prompter="basis", head="calibrated", max_queries=400, random_state=0, verbose=0)
    X, y = make_stripes(n=24, n_classes=3, background=0.6)
    return BlackVIPClassifier(score_fn, "stripe {}", **{**defaults, **parameters}).fit(X, y)


def assert_same_fit(found, expected):
    np.testing.assert_array_equal(found.coordinator_.parameters_, expected.coordinator_.parameters_)
    np.testing.assert_array_equal(found._scored.prompted, expected._scored.prompted)
    np.testing.assert_array_equal(found.head_.coef_, expected.head_.coef_)
    assert found.history_ == expected.history_
    assert found.n_queries_ == expected.n_queries_


@pytest.mark.parametrize("n_jobs", [2, 3])
def test_a_fit_in_threads_is_the_same(n_jobs):
    service, threads = ToyService(glare=0.7), set()

    def score_fn(images, class_prompts):
        threads.add(threading.get_ident())
        time.sleep(0.001)
        return service(images, class_prompts)

    expected = fitted(ToyService(glare=0.7))
    with joblib.parallel_config("threading"):
        found = fitted(score_fn, n_jobs=n_jobs)
        X = make_stripes(n=30, n_classes=3, background=0.6, seed=1)[0]
        proba = found.predict_proba(X)
    assert_same_fit(found, expected)
    np.testing.assert_array_equal(proba, expected.predict_proba(X))
    assert service.n_images == found.n_queries_ + 30
    assert len(threads) >= 2


def test_the_workers_of_a_fit_end_with_it_and_do_not_wait_for_the_garbage_collector():
    gc.collect()
    n_threads = threading.active_count()
    gc.disable()
    try:
        with joblib.parallel_config("threading", n_jobs=2):
            fitted(ToyService(glare=0.7))
        # They end soon after the fit.
        deadline = time.monotonic() + 20
        while threading.active_count() > n_threads and time.monotonic() < deadline:
            time.sleep(0.05)
        assert threading.active_count() <= n_threads
    finally:
        gc.enable()


def test_context_without_n_jobs():
    service = ToyService()
    assert spread(service, None, None) is service
    with joblib.parallel_config("threading", n_jobs=2):
        assert isinstance(spread(service, None, None), ParallelScorer)
        assert spread(service, 1, None) is service


def test_parts():
    sizes = []

    def score_fn(images, class_prompts):
        sizes.append(len(images))
        return stripe_means(images, class_prompts)

    def asked(scorer, images=IMAGES):
        sizes.clear()
        np.testing.assert_array_equal(scorer(images, PROMPTS), stripe_means(images, PROMPTS))
        return sorted(sizes)

    with joblib.parallel_config("threading"):
        assert asked(ParallelScorer(score_fn, 3)) == [12, 14, 14]
        assert asked(ParallelScorer(score_fn, 2), np.repeat(IMAGES, 5, axis=0)) == [50] * 4
        assert asked(ParallelScorer(score_fn, 2, images_per_part=9)) == [4, 9, 9, 9, 9]
        assert asked(ParallelScorer(score_fn, 1, images_per_part=9)) == [4, 9, 9, 9, 9]
        score_fn.images_per_call = 5
        assert asked(ParallelScorer(score_fn, 2)) == [5] * 8
        assert ParallelScorer(score_fn, 2)(IMAGES[:0], PROMPTS).shape == (0, 3)


def test_images_per_call_makes_the_calls_the_same():
    services = {n_jobs: ToyService() for n_jobs in (1, 3)}
    for n_jobs, service in services.items():
        with joblib.parallel_config("threading"):
            clf = fitted(service, n_jobs=n_jobs, images_per_call=5)
            assert clf.plan(*make_stripes(n=24, n_classes=3)).baselines.calls == 5
    one, three = (sorted(images.tobytes() for images, _ in service.calls) for service in services.values())
    assert one == three


def test_after_an_error_what_is_under_way_is_kept_and_nothing_more_is_sent():
    begun, failed = [], threading.Event()

    def score_fn(images, class_prompts):
        number = int(images[0, 0, 0, 0]) // 10
        begun.append(number)
        if number == 0:
            failed.set()
            raise RuntimeError("down")
        failed.wait(10)
        time.sleep(0.2)  # the error is known by then
        return np.full((len(images), 3), number)

    images = np.repeat(np.arange(40, dtype=np.uint8), 3).reshape(40, 1, 1, 3)
    came = []
    with joblib.parallel_config("threading"):
        ledger = Ledger(ParallelScorer(score_fn, 2, images_per_part=10), PROMPTS, on_queries=came.append)
        with pytest.raises(RuntimeError, match="down"):
            ledger.log_scores(images)
    assert sorted(begun) == [0, 1]
    assert came == [10]
    assert ledger.n_queries == 20


def test_a_journal_in_threads_goes_on_where_it_was(tmp_path):
    lock, path = threading.Lock(), tmp_path / "run.journal"
    service = ToyService(glare=0.7)

    def score_fn(images, class_prompts):
        with lock:
            return service(images, class_prompts)

    with joblib.parallel_config("threading", n_jobs=2):
        service.fail_at = 20
        with pytest.raises(RuntimeError, match="down"):
            fitted(score_fn, checkpoint=path)
        paid = sum(len(images) for images, _ in service.calls[:19])
        service.fail_at, service.n_images = None, 0
        found = fitted(score_fn, checkpoint=path)
        assert service.n_images == found.n_queries_ - paid
    service.n_images = 0
    assert_same_fit(
        fitted(score_fn, checkpoint=path), fitted(ToyService(glare=0.7))
    )  # without n_jobs, from the journal
    assert service.n_images == 0


def test_what_counts_and_keeps_stays_here(tmp_path):
    service = ToyService()
    budget = SharedBudget(CachedScorer(service, tmp_path / "cache"), 1_000)
    with joblib.parallel_config("threading", n_jobs=2):
        asked = spread(budget, None, None)
        assert isinstance(asked, SharedBudget)
        assert isinstance(asked.score_fn, CachedScorer)
        assert isinstance(asked.score_fn.score_fn, ParallelScorer)
        twice = np.concatenate([IMAGES, IMAGES])
        ledger = Ledger(asked, PROMPTS)
        ledger.log_scores(twice)
        ledger.log_scores(IMAGES)
    assert service.n_images == budget.n_queries == ledger.n_queries == 40
    assert isinstance(budget.score_fn.score_fn, ToyService)


def test_label_mapping_is_made_here():
    threads = set()

    def service(images, labels):
        threads.add(threading.get_ident())
        time.sleep(0.001)
        return ToyService()(images, labels)

    scorer = LabelMappedScorer(service, ["a", "b", "c", "d"], text_weight=0)
    expected = fitted(scorer)
    with joblib.parallel_config("threading", n_jobs=2):
        asked = spread(scorer, None, None)
        assert isinstance(asked, LabelMappedScorer)
        found = fitted(scorer)
    assert_same_fit(found, expected)
    assert len(threads) > 1
    assert threading.get_ident() in threads  # when nothing was spread


def test_what_asks_concurrently_by_itself_is_left_alone():
    scorer = HTTPScorer("http://127.0.0.1:9", KServe("m"))
    with joblib.parallel_config("threading", n_jobs=2):
        assert spread(scorer, None, None) is scorer
        assert spread(CachedScorer(scorer, "never made"), None, None).score_fn is scorer
        assert isinstance(spread(ParallelScorer(scorer), None, None), ParallelScorer)  # as its user wishes
        known = PaidAnswers(IMAGES, stripe_means(IMAGES, PROMPTS))  # which asks nobody
        assert spread(known, None, None) is known


def test_budget_inside_is_refused(tmp_path):
    budget = SharedBudget(stripe_means, 100)
    with pytest.raises(TypeError, match="Wrap the SharedBudget around the ParallelScorer"):
        fitted(ParallelScorer(budget, 2))
    assert budget.n_queries == 0


def test_devices():
    OnDevice.calls.clear()
    found = fitted(ParallelScorer(OnDevice(), devices=["cpu:0", "cpu:1"]))
    X = make_stripes(n=24, n_classes=3, background=0.6)[0]
    proba = found.predict_proba(X)
    expected = fitted(ToyService(glare=0.7))
    assert_same_fit(found, expected)
    np.testing.assert_array_equal(proba, expected.predict_proba(X))
    copies = {(device, number) for device, number, _ in OnDevice.calls}
    assert sorted(device for device, _ in copies) == ["cpu:0", "cpu:1"]  # one each, in the fit and the prediction
    with pytest.raises(TypeError, match="no parameter `device`"):
        fitted(ParallelScorer(ToyService(), devices=["cpu"]))


def test_declared_attributes_are_passed_on():
    service = lambda images, class_prompts: stripe_means(images, class_prompts)
    service.score_type, service.price_per_image, service.takes_tensors = "logits", 0.25, True
    scorer = ParallelScorer(service, 2)
    assert (scorer.score_type, scorer.price_per_image, scorer.takes_tensors) == ("logits", 0.25, True)
    assert scorer.images_per_call is None
    assert "n_jobs=2" in repr(scorer)
    assert clone(scorer).score_fn is service


# Processes


def test_what_cannot_be_sent_is_refused_before_anything_is():
    service = ToyService()
    service.lock = threading.Lock()
    clf = BlackVIPClassifier(
        service, "stripe {}", n_jobs=2, prompter="basis", max_queries=400, random_state=0, verbose=0
    )
    X, y = make_stripes(n=24, n_classes=3)
    for ask in (clf.fit, clf.plan):
        with pytest.raises(TypeError, match="a ToyService, cannot be sent to another process"):
            ask(X, y)
    assert service.n_images == 0


def test_a_parcel_is_unpacked_once_and_sent_where_it_lacks(tmp_path):
    log = tmp_path / "loads"
    small, large = PickledScorer.of(Lazy(log)), PickledScorer.of(Lazy(log, os.urandom(2**17)))
    assert small.for_every_task is small
    assert large.for_every_task.content is None
    assert len({small.token, large.token}) == 2
    for parcel in (small, small, large, large.for_every_task):
        with parcel.borrow() as score_fn:
            score_fn(IMAGES[:2], PROMPTS)
    assert len(lines_of(log)) == 2
    with pytest.raises(KeyError), PickledScorer("another", None).borrow():
        pass
    with small.borrow() as one, small.borrow() as other:  # at a time
        assert one is not other
    for number in range(4):
        with PickledScorer.of(Lazy(log, bytes([number]))).borrow():
            pass
    with pytest.raises(KeyError), large.for_every_task.borrow():  # it has made room
        pass


@pytest.mark.slow
def test_processes(new_processes, tmp_path):
    log, gain = tmp_path / "loads", np.arange(1, 4)
    ballast = os.urandom(2**17)  # too much to be sent with each part
    with joblib.parallel_config("loky", n_jobs=2):
        scorer = spread(Lazy(log, ballast), None, None)
        for _ in range(3):
            np.testing.assert_array_equal(scorer(IMAGES, PROMPTS), stripe_means(IMAGES, PROMPTS))
        assert len(lines_of(log)) == len(set(lines_of(log))) == 2  # once each
        closure = spread(lambda images, class_prompts: gain * stripe_means(images, class_prompts), None, None)
        np.testing.assert_array_equal(closure(IMAGES, PROMPTS), gain * stripe_means(IMAGES, PROMPTS))
        tensors = torch.rand(8, 3, 3, 5)
        np.testing.assert_array_equal(
            spread(take_tensors, None, None)(tensors, PROMPTS), take_tensors(tensors, PROMPTS)
        )
        assert_same_fit(fitted(ToyService(glare=0.7), images_per_call=4), fitted(ToyService(glare=0.7), n_jobs=1))


@pytest.mark.slow
def test_a_search_in_processes_loads_once_for_each(tmp_path):
    log = tmp_path / "loads"
    rng = np.random.default_rng(0)
    y = np.arange(24) % 3
    X = rng.integers(0, 150, (24, 6, 9, 3), np.uint8)
    for image, label in zip(X, y):
        image[:, 3 * label : 3 * label + 3] += 80
    clf = BlackVIPClassifier(
        Lazy(log), "stripe {}", prompter="basis", head="calibrated", max_queries=150, random_state=0, verbose=0
    )
    grid = {"c": [0.05, 0.1]}
    expected = GridSearchCV(clf.set_params(score_fn=stripe_means), grid, cv=2, refit=False).fit(X, y)
    clf.set_params(score_fn=Lazy(log))
    with joblib.parallel_config("loky", n_jobs=2):
        found = GridSearchCV(clf, grid, cv=2, refit=False).fit(X, y)
    np.testing.assert_array_equal(found.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"])
    assert 1 <= len(lines_of(log)) == len(set(lines_of(log)))  # joblib may put a new process in an old one's place


@pytest.mark.slow
def test_an_error_in_a_process_says_where_it_was():
    """It is the last of these tests, since joblib ends its processes after an error."""
    with joblib.parallel_config("loky", n_jobs=2):
        failing = Ledger(spread(FailsInWorker(), None, 5), PROMPTS)
        with pytest.raises(RuntimeError, match="Refused: the key is not valid") as caught:
            failing.log_scores(IMAGES)
        assert "in __call__" in "".join(caught.value.__notes__)
        assert failing.n_queries == 10  # the parts that were begun
