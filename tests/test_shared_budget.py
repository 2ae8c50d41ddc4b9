"""One budget over many fits, threads and processes."""

import copy
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import ToyService, make_stripes
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV, cross_val_score

from blackvip import SPSAGC, BlackVIPClassifier, BudgetError
from blackvip.journal import Journal
from blackvip.model_selection import search_cost
from blackvip.scorers import SharedBudget

IMAGES = np.zeros((5, 2, 2, 3), np.uint8)
PROMPTS = ["left", "right"]

pytestmark = [
    pytest.mark.filterwarnings("ignore::blackvip.PromptNotUsedWarning"),
    pytest.mark.filterwarnings("ignore:One or more of the test scores:UserWarning"),
]


class FileService(ToyService):
    """A service that writes down each call's images in a file, as a bill that all processes share."""

    def __init__(self, path):
        super().__init__()
        self.path = str(path)

    def __call__(self, images, class_prompts):
        with open(self.path, "a") as bill:
            bill.write(f"{len(images)}\n")
        return super().__call__(images, class_prompts)

    def billed(self):
        return sum(map(int, open(self.path).read().split())) if os.path.exists(self.path) else 0


def make_classifier(service, **parameters):
    defaults = dict(
        prompter="basis", head=None, a=0.01, c=0.1, optimizer=SPSAGC(n_directions=2), batch_size=4, max_queries=300
    )
    return BlackVIPClassifier(service, PROMPTS, verbose=0, random_state=0, **{**defaults, **parameters})


def spend(budget, n_calls):
    """Calls until the budget is spent; how many were made."""
    for done in range(n_calls):
        try:
            budget(IMAGES, PROMPTS)
        except BudgetError:
            return done
    return n_calls


# By itself


def test_it_is_a_score_function_that_counts(service):
    budget = SharedBudget(service, 12)
    np.testing.assert_array_equal(budget(IMAGES, PROMPTS), service(IMAGES, PROMPTS))
    budget(IMAGES, PROMPTS)
    assert (budget.n_queries, budget.remaining, budget.max_queries) == (10, 2, 12)
    with pytest.raises(BudgetError, match="may need 5 images, but of the shared budget of 12 only 2 are left"):
        budget(IMAGES, PROMPTS)
    assert service.n_images == 15
    assert repr(budget) == "SharedBudget(ToyService, max_queries=12)"


def test_declarations_are_passed_on(service):
    assert SharedBudget(service, 1).images_per_call is None
    assert SharedBudget(lambda images, prompts: 0, 1).score_type == "auto"
    service.images_per_call, service.score_type = 7, "logits"
    assert SharedBudget(service, 1).images_per_call == 7
    assert SharedBudget(service, 1).score_type == "logits"


@pytest.mark.parametrize(
    ("arguments", "error"), [(("service", 5), TypeError), ((len, 0), ValueError), ((len, 1.5), ValueError)]
)
def test_wrong_arguments(arguments, error):
    with pytest.raises(error, match="expected a"):
        SharedBudget(*arguments)


def test_a_lease_sets_aside_and_gives_back(service):
    budget = SharedBudget(service, 20)
    with budget.lease(12) as lease:
        assert (budget.n_queries, budget.remaining) == (0, 8)
        lease(IMAGES, PROMPTS)
        assert (budget.n_queries, budget.remaining, lease.n_queries) == (5, 8, 5)
        with pytest.raises(BudgetError, match=r"only 8 are left \(5 are sent and 7 reserved.*search_cost shows"):
            budget.lease(9)
        lease(IMAGES, PROMPTS)
        with pytest.raises(BudgetError, match="of the 12 that were reserved 2 are left"):
            lease(IMAGES, PROMPTS)
    assert (budget.n_queries, budget.remaining) == (10, 10)
    lease.release()
    assert budget.remaining == 10
    with pytest.raises(BudgetError):
        lease(IMAGES, PROMPTS)
    assert service.n_images == 10


def test_a_lease_is_given_back_after_an_error(service):
    service.fail_at = 1
    budget = SharedBudget(service, 20)
    with pytest.raises(RuntimeError, match="down"), budget.lease(12) as lease:
        lease(IMAGES, PROMPTS)
    assert (budget.n_queries, budget.remaining) == (5, 15)  # what was sent is billed, whatever came back


def test_copies_share(service):
    budget = SharedBudget(service, 20)
    copies = [copy.copy(budget), copy.deepcopy(budget), clone(make_classifier(budget)).score_fn]
    assert all(other.score_fn is service for other in copies)
    for other in [*copies, pickle.loads(pickle.dumps(budget))]:
        other(IMAGES, PROMPTS)
    assert budget.remaining == 0


# The file


def test_a_path_outlasts_restarts(service, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    SharedBudget(service, 12, path="budget")(IMAGES, PROMPTS)
    monkeypatch.chdir("/")
    again = SharedBudget(service, 12, tmp_path / "budget")
    assert (again.n_queries, again.remaining) == (5, 7)
    assert SharedBudget(service, 4, tmp_path / "budget").remaining == 0
    assert SharedBudget(service, 40, tmp_path / "budget").remaining == 35


def test_files_that_are_none_or_gone(service, tmp_path):
    (tmp_path / "notes.txt").write_text("buy milk")
    with pytest.raises(BudgetError, match="is not a shared budget of blackvip, and was not changed"):
        SharedBudget(service, 12, tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "buy milk"
    budget = SharedBudget(service, 12, tmp_path / "budget")
    (tmp_path / "budget").unlink()
    with pytest.raises(BudgetError, match="does not exist any more; nothing was sent"):
        budget(IMAGES, PROMPTS)
    assert service.n_images == 0


def test_a_damaged_file_is_named_and_a_journal_is_no_budget(tmp_path):
    path = tmp_path / "budget"
    SharedBudget(len, 12, path)._store.close()
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(BudgetError, match="is damaged"):
        SharedBudget(len, 12, path)
    Journal(tmp_path / "journal", {}).close()
    with pytest.raises(BudgetError, match="is not a shared budget of blackvip"):
        SharedBudget(len, 12, tmp_path / "journal")


def test_a_pickled_budget_whose_file_is_gone_says_so_when_it_is_used(tmp_path):
    budget = SharedBudget(len, 12, tmp_path / "budget")
    pickled = pickle.dumps(budget)
    budget._store.close()
    (tmp_path / "budget").unlink()
    with pytest.raises(BudgetError, match="does not exist any more; nothing was sent"):
        pickle.loads(pickled)(IMAGES, PROMPTS)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_a_killed_process_had_set_aside_stays_so_and_the_temporary_file_goes(service, tmp_path, programs):
    code = """
import os, signal, sys
from blackvip.scorers import SharedBudget
temporary = SharedBudget(len, 100)
child = os.fork()
if not child:
    SharedBudget(len, 100, sys.argv[1]).lease(60)
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(child, 0)
if not os.fork():
    sys.exit()  # a child that ends leaves its parent's file
os.wait()
print(temporary.remaining, temporary.path)
"""
    done = programs.run("-c", code, tmp_path / "budget")
    assert done.returncode == 0, done.stderr
    remaining, path = done.stdout.split()
    assert remaining == "100"
    assert not os.path.exists(path)
    budget = SharedBudget(service, 100, tmp_path / "budget")
    assert (budget.n_queries, budget.remaining) == (0, 40)


def test_threads_and_processes_never_pass_it(tmp_path):
    service = FileService(tmp_path / "bill")
    budget = SharedBudget(service, 503)
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda _: spend(budget, 15), range(4)))
    assert made == [15] * 4
    made = Parallel(n_jobs=2)(delayed(spend)(budget, 50) for _ in range(2))
    assert sum(made) == 40
    assert service.billed() == budget.n_queries == 500
    assert budget.remaining == 3


# As searches use it


def test_a_search_sends_nothing_that_it_cannot_pay_for(stripes):
    service = ToyService()
    budget = SharedBudget(service, 750)
    search = GridSearchCV(make_classifier(budget), {"a": [0.01, 0.02]}, cv=2, refit=False)
    assert search_cost(search, *stripes).total > 750
    with pytest.warns(FitFailedWarning, match="2 fits failed out of a total of 4"):
        search.fit(*stripes)
    assert np.isfinite(search.cv_results_["mean_test_score"][0])
    assert np.isnan(search.cv_results_["mean_test_score"][1])
    assert service.n_images == budget.n_queries <= 750
    first = ToyService()
    cross_val_score(make_classifier(first), *stripes, cv=2)
    assert service.n_images == first.n_images  # the fits that failed sent nothing


def test_a_search_within_its_cost_is_paid_for(stripes):
    service = ToyService()
    search = GridSearchCV(make_classifier(service), {"a": [0.01, 0.02]}, cv=2)
    cost = search_cost(search, *stripes).total
    budget = SharedBudget(service, cost)
    search.set_params(estimator__score_fn=budget).fit(*stripes)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert service.n_images == budget.n_queries == cost - budget.remaining


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
def test_a_search_in_two_processes_keeps_to_it(tmp_path, stripes):
    service = FileService(tmp_path / "bill")
    budget = SharedBudget(service, 1300)
    search = GridSearchCV(make_classifier(budget), {"a": [0.005, 0.01, 0.02]}, cv=2, refit=False, n_jobs=2)
    search.fit(*stripes)
    scores = np.stack([search.cv_results_[f"split{split}_test_score"] for split in range(2)])
    assert np.isfinite(scores).sum() == 4  # whichever of the six came first
    assert service.n_images == 0  # none in this process
    assert service.billed() == budget.n_queries <= 1300
    assert budget.remaining == 1300 - budget.n_queries


def test_a_fit_that_fails_gives_back(stripes):
    service = ToyService()
    service.fail_at = 3
    budget = SharedBudget(service, 1000)
    with pytest.raises(RuntimeError, match="the service is down"):
        make_classifier(budget).fit(*stripes)
    assert budget.n_queries == service.n_images > 0
    assert budget.remaining == 1000 - service.n_images


def test_prediction_is_paid_for_as_a_whole(stripes):
    service = ToyService()
    clf = make_classifier(service).fit(*stripes)
    clf.score_fn = budget = SharedBudget(service, 99)
    many, _ = make_stripes(n=200, seed=9)
    before = service.n_images
    with pytest.raises(BudgetError, match="may need 200 images, but of the shared budget of 99"):
        clf.predict(many)
    assert service.n_images == before
    assert len(clf.predict(many[:99])) == 99
    assert budget.remaining == 0


def test_cross_validation_shares_it(stripes):
    service = ToyService()
    budget = SharedBudget(service, 640)
    assert cross_val_score(make_classifier(budget), *stripes, cv=2).mean() > 0.9
    assert budget.n_queries == service.n_images <= 640
