"""Real clusters: two workers of dask and of Ray, one of which is killed in the middle of a fit."""

import builtins
import contextlib
import os
import signal
import sys
import threading
import time

import joblib
import numpy as np
import pytest
from conftest import ToyService, make_stripes
from joblib.pool import PicklingPool
from killing import N_AT_ONCE, BilledService
from servers.dask_workers import two_dask_workers
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from blackvip import SPSAGC, BlackVIPClassifier
from blackvip.scorers import Ledger, SharedBudget
from blackvip.scorers.parallel.scorer import spread

pytestmark = pytest.mark.slow

N_PER_CALL = N_AT_ONCE
STRIPES = make_stripes(n=24, n_classes=3, background=0.6)


class LoadedService(BilledService):
    """It writes down each time that it is unpacked in a process and asked for the first time."""

    def __init__(self, bill, loads):
        super().__init__(bill)
        self.loads = loads

    def __call__(self, images, class_prompts):
        if not vars(self).get("loaded"):
            self.loaded = True
            with open(self.loads, "a") as file:
                file.write(f"{os.getpid()}\n")
        return super().__call__(images, class_prompts)

    def __getstate__(self):
        return {"bill": self.bill, "loads": self.loads, "gain": self.gain, "glare": self.glare, "n_images": 0}

    def __setstate__(self, state):
        self.__init__(state["bill"], state["loads"])


class DiesInWorkers(ToyService):
    def __call__(self, images, class_prompts):
        os._exit(1)


class FailsToUnpack(ToyService):
    def __setstate__(self, state):
        raise ModuleNotFoundError("No module named 'client'")


@pytest.fixture(scope="module")
def shared_cluster():
    """A cluster for the tests that kill no worker. It is not the backend of joblib outside of them."""
    with two_dask_workers() as client:
        yield client


@pytest.fixture
def cluster(shared_cluster):
    with joblib.parallel_config(backend="dask"):
        yield shared_cluster


@pytest.fixture
def own_cluster():
    """A cluster for one test that kills workers: dask does not start one anew that is killed while it starts."""
    with two_dask_workers() as client, joblib.parallel_config(backend="dask"):
        yield client


@pytest.fixture(scope="module")
def shared_ray():
    """Two workers of Ray. Each fit has processes of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # it is on this machine alone, and read when Ray is imported
        # Ray replaces both, and they are restored: `print`, and the base of joblib's backend "multiprocessing".
        patch.setattr(builtins, "print", builtins.print)
        bases = PicklingPool.__bases__
        ray = pytest.importorskip("ray", reason="Ray is not installed; pip install blackvip[distributed]")
        from ray.util.joblib import register_ray

        paths = os.pathsep.join(path for path in sys.path if path)  # Ray's workers do not know those of this process
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
            runtime_env={"env_vars": {"PYTHONPATH": paths}},
        )
        register_ray()
        yield
        ray.shutdown()
        PicklingPool.__bases__ = bases


@pytest.fixture
def ray_workers(shared_ray):
    with joblib.parallel_config(backend="ray", n_jobs=2):
        yield


@pytest.fixture(params=["loky", "ray"])
def two_processes(request):
    if request.param == "ray":
        request.getfixturevalue("shared_ray")
    with joblib.parallel_config(request.param, n_jobs=2):
        yield


@pytest.fixture
def service(tmp_path):
    return LoadedService(str(tmp_path / "bill"), str(tmp_path / "loads"))


def lines_of(path):
    try:
        with open(path) as file:
            return file.read().split()
    except FileNotFoundError:
        return []


@contextlib.contextmanager
def one_killed(service, worker):
    """A block with a fit, in the middle of which the process is killed whose id `worker` returns."""
    killed_at = []

    def kill():
        while len(lines_of(service.bill)) < 200:
            time.sleep(0.001)
        os.kill(worker(), signal.SIGKILL)
        killed_at.append(len(lines_of(service.bill)))

    killer = threading.Thread(target=kill)
    killer.start()
    yield
    killer.join()
    assert 200 <= killed_at[0] < 496


def classifier(score_fn, **parameters):
    defaults = dict(prompter="basis", head="calibrated", max_queries=500, random_state=0, verbose=0)
    return BlackVIPClassifier(score_fn, "stripe {}", **{**defaults, **parameters})


def assert_same_fit(found, expected):
    np.testing.assert_array_equal(found.coordinator_.parameters_, expected.coordinator_.parameters_)
    np.testing.assert_array_equal(found._scored.prompted, expected._scored.prompted)
    np.testing.assert_array_equal(found.head_.coef_, expected.head_.coef_)
    assert found.history_ == expected.history_
    assert found.n_queries_ == expected.n_queries_


@pytest.fixture(scope="module")
def expected():
    return classifier(ToyService(glare=0.7)).fit(*STRIPES)


def test_a_fit_and_a_prediction_are_the_same(cluster, service, expected):
    budget = SharedBudget(service, 1_000)
    found = classifier(budget).fit(*STRIPES)
    X = make_stripes(n=50, n_classes=3, background=0.6, seed=1)[0]
    proba = found.predict_proba(X)
    assert_same_fit(found, expected)
    np.testing.assert_array_equal(proba, expected.predict_proba(X))
    assert len(lines_of(service.bill)) == budget.n_queries == found.n_queries_ + len(X)
    loads = lines_of(service.loads)
    assert len(loads) == len(set(loads)) == 2  # once in each worker, for the fit and the prediction
    assert set(loads) == {str(process) for process in cluster.run(os.getpid).values()}


def test_a_search_is_the_same(cluster, service):
    grid = {"c": [0.05, 0.1], "optimizer": [SPSAGC(momentum=0.0), SPSAGC(momentum=0.9)]}
    X, y = STRIPES
    found = GridSearchCV(classifier(service, max_queries=200), grid, cv=2).fit(X, y)
    loads = lines_of(service.loads)
    with joblib.parallel_config("loky", n_jobs=1):
        expected = GridSearchCV(classifier(ToyService(glare=0.7), max_queries=200), grid, cv=2).fit(X, y)
    np.testing.assert_array_equal(found.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"])
    assert found.best_params_ == expected.best_params_
    assert_same_fit(found.best_estimator_, expected.best_estimator_)
    assert len(loads) == len(set(loads)) == 2  # eight fits and the last one


def test_a_service_that_cannot_be_unpacked_is_an_error(cluster):
    with pytest.raises(Exception, match="No module"):
        classifier(FailsToUnpack()).fit(*STRIPES)


def test_a_worker_is_killed(own_cluster, service, expected, tmp_path):
    """The end of a worker costs what was with it, and nothing else."""
    worker = next(iter(own_cluster.run(os.getpid).values()))
    with one_killed(service, lambda: worker):
        found = classifier(service, checkpoint=tmp_path / "run.journal").fit(*STRIPES)
    assert_same_fit(found, expected)
    paid = len(lines_of(service.bill))
    assert found.n_queries_ <= paid <= found.n_queries_ + N_PER_CALL
    again = classifier(service, checkpoint=tmp_path / "run.journal").fit(*STRIPES)  # all of it is in the journal
    assert_same_fit(again, expected)
    assert len(lines_of(service.bill)) == paid


def test_what_was_answered_is_not_paid_again(own_cluster, service):
    """dask would compute again what a worker that ended had computed."""
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    ledger = Ledger(spread(service, None, N_PER_CALL), ["a", "b", "c"])
    scores = ledger.log_scores(images)
    for process in own_cluster.run(os.getpid).values():
        os.kill(process, signal.SIGKILL)
    np.testing.assert_array_equal(ledger.log_scores(images), scores)
    assert len(lines_of(service.bill)) == ledger.n_queries == 80


def test_workers_that_die_are_an_error(own_cluster):
    at_once = lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", 0)
    own_cluster.run_on_scheduler(at_once)
    with pytest.raises(Exception, match="workers died"):
        classifier(DiesInWorkers()).fit(*STRIPES)


@pytest.mark.exhaustive
def test_a_worker_whose_end_is_an_error_is_killed(two_processes, service, expected, tmp_path):
    """The fit resumes, and pays again at most for the parts that the two workers had."""
    clf = classifier(service, checkpoint=tmp_path / "run.journal")
    worker = lambda: int(lines_of(service.loads)[0])
    with one_killed(service, worker), pytest.raises(Exception, match="actor died|unexpectedly terminated") as raised:
        clf.fit(*STRIPES)
    assert "Call fit again to resume" in raised.value.__notes__[-1]
    assert_same_fit(clf.fit(*STRIPES), expected)
    assert expected.n_queries_ <= len(lines_of(service.bill)) <= expected.n_queries_ + 2 * N_PER_CALL
    loads = lines_of(service.loads)
    assert len(loads) == len(set(loads)) == 4  # two workers of each fit
    assert str(os.getpid()) not in loads


@pytest.mark.exhaustive
def test_ray_gives_the_same_fit(ray_workers, service, expected):
    found = classifier(service).fit(*STRIPES)
    assert_same_fit(found, expected)
    assert len(lines_of(service.bill)) == found.n_queries_


@pytest.mark.exhaustive
def test_a_search_on_ray_is_the_same(ray_workers, service):
    search = GridSearchCV(classifier(service, max_queries=200), {"c": [0.05, 0.1]}, cv=2, refit=False).fit(*STRIPES)
    with joblib.parallel_config("loky", n_jobs=1):
        expected = clone(search).set_params(estimator__score_fn=ToyService(glare=0.7)).fit(*STRIPES)
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"])
