"""scikit-learn's tools of model selection on the classifier, and what they bill."""

import numpy as np
import pytest
from conftest import ToyService, make_stripes
from scipy.stats import poisson, randint, uniform
from sklearn.calibration import CalibratedClassifierCV
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
    KFold,
    RandomizedSearchCV,
    ShuffleSplit,
    StratifiedGroupKFold,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    permutation_test_score,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeClassifier

from blackvip import SPSAGC, BlackVIPClassifier, BlackVIPPrompter
from blackvip.model_selection import SearchCost, search_cost

pytestmark = pytest.mark.filterwarnings("ignore::blackvip.PromptNotUsedWarning")

STEP = 2 * 2 * 4  # images that a step of these classifiers bills
SLACK = STEP + 2 * 10  # a fit leaves less: a step, and checks that do not fit in


def make_classifier(service=None, **parameters):
    defaults = dict(
        prompter="basis",
        head=None,
        a=0.01,
        c=0.1,
        optimizer=SPSAGC(n_directions=2),
        batch_size=4,
        max_queries=300,
        random_state=0,
    )
    return BlackVIPClassifier(service or ToyService(), ["left", "right"], verbose=0, **{**defaults, **parameters})


def flattened(images):
    return images.reshape(len(images), -1)


@pytest.fixture
def strings(stripes):
    X, y = stripes
    return X, np.array(["port", "starboard"])[y]


def assert_bound(cost, billed, n_fits):
    assert cost.total - n_fits * SLACK < billed <= cost.total


# Searches


def test_a_grid_in_nested_pipelines(service, stripes):
    inner = Pipeline([("same", FunctionTransformer()), ("clf", make_classifier(service, image_shape=(8, 8, 3)))])
    outer = Pipeline([("flat", FunctionTransformer(flattened)), ("inner", inner)])
    grid = {"inner__clf__a": [0.005, 0.02], "inner__clf__max_queries": [200, 300]}
    search = GridSearchCV(outer, grid, cv=2, return_train_score=True)
    cost = search_cost(search, *stripes)
    assert cost == SearchCost(n_fits=8, fit=4 * 200 + 4 * 300, score=4 * 2 * 40, refit=300)
    assert service.n_images == 0
    search.fit(*stripes)
    assert_bound(cost, service.n_images, n_fits=9)
    assert search.best_params_["inner__clf__a"] in grid["inner__clf__a"]
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_score_ > 0.9


def test_a_random_search_costs_as_if_all_candidates_were_the_dearest(service, stripes):
    distributions = {"a": [0.005, 0.01, 0.02], "max_queries": randint(150, 400)}
    search = RandomizedSearchCV(make_classifier(service), distributions, n_iter=3, cv=2, random_state=3, refit=False)
    cost = search_cost(search, *stripes)
    search.fit(*stripes)
    assert cost == SearchCost(n_fits=6, fit=6 * 399, score=3 * 40)
    assert len(search.cv_results_["params"]) == 3
    assert service.n_images <= cost.total


def test_a_random_search_without_a_seed_is_bounded_or_refused(stripes):
    search = RandomizedSearchCV(make_classifier(), {"a": randint(1, 3), "max_queries": [150, 200]}, n_iter=4, cv=2)
    state = np.random.get_state()[1].copy()
    assert search_cost(search, *stripes) == SearchCost(n_fits=8, fit=8 * 200, score=4 * 40, refit=200)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    search.set_params(param_distributions=[{"a": [0.1]}, {"max_queries": randint(150, 200)}])
    assert search_cost(search, *stripes) == SearchCost(n_fits=8, fit=8 * 300, score=4 * 40, refit=300)
    search.set_params(param_distributions={"max_queries": poisson(150)})
    with pytest.raises(ValueError, match="draws max_queries from a distribution without an upper end"):
        search_cost(search, *stripes)


def test_a_random_search_over_classifiers_costs_as_if_all_were_the_dearest(stripes):
    pipeline = Pipeline([("clf", make_classifier())])
    choices = [make_classifier(max_queries=150), make_classifier(max_queries=250)]
    search = RandomizedSearchCV(pipeline, {"clf": choices, "clf__a": uniform(0.01, 0.1)}, n_iter=2, cv=2)
    assert search_cost(search, *stripes) == SearchCost(n_fits=4, fit=4 * 250, score=2 * 40, refit=250)


class CountingTree(DecisionTreeClassifier):
    """A tree that has a budget, which each of its fits bills."""

    def __init__(self, max_queries=100, max_depth=None, max_leaf_nodes=None, random_state=None):
        super().__init__(max_depth=max_depth, max_leaf_nodes=max_leaf_nodes, random_state=random_state)
        self.max_queries = max_queries

    def fit(self, X, y, sample_weight=None, check_input=True):
        BILLED["fits"] += 1
        BILLED["images"] += self.max_queries
        return super().fit(X, y, sample_weight, check_input)

    def predict(self, X, check_input=True):
        BILLED["images"] += len(X)
        return super().predict(X, check_input)


BILLED = {"fits": 0, "images": 0}


@pytest.mark.parametrize("min_resources", ["exhaust", "smallest", 100])
@pytest.mark.parametrize(("factor", "aggressive"), [(2, False), (3, True), (2.5, True)])
@pytest.mark.parametrize("resource", ["max_queries", "n_samples"])
def test_halving_never_bills_more_than_its_bound(min_resources, factor, aggressive, resource, stripes):
    X, y = flattened(stripes[0]), stripes[1]
    X, y = np.repeat(X, 10, axis=0), np.repeat(y, 10)
    settings = dict(
        resource=resource,
        max_resources="auto" if resource == "n_samples" else 350,
        min_resources=min_resources,
        factor=factor,
        aggressive_elimination=aggressive,
        cv=2,
        random_state=0,
    )
    tree = CountingTree(random_state=0)
    grid = HalvingGridSearchCV(tree, {"max_leaf_nodes": [2, 3, 4, 5, 6, 7, 8]}, **settings)
    random = HalvingRandomSearchCV(tree, {"max_leaf_nodes": randint(2, 100)}, **settings)
    random.set_params(n_candidates=5 if min_resources == "exhaust" else "exhaust")
    if min_resources == "smallest" and resource != "n_samples":
        random.set_params(n_candidates=9)  # and not 350
    for search in (grid, random):
        cost = search_cost(search, X, y)
        BILLED.update(fits=0, images=0)
        search.fit(X, y)
        assert cost.n_fits >= BILLED["fits"] - 1 == 2 * sum(search.n_candidates_)
        assert cost.total >= BILLED["images"]
        assert cost.n_fits == BILLED["fits"] - 1
        if resource == "max_queries":
            assert cost.total == BILLED["images"]


def test_halving_with_max_queries_as_the_resource(service, stripes):
    search = HalvingGridSearchCV(
        make_pipeline(make_classifier(service)),
        {"blackvipclassifier__a": [0.005, 0.01, 0.02, 0.05]},
        resource="blackvipclassifier__max_queries",
        max_resources=400,
        factor=2,
        cv=2,
        min_resources=150,
    )
    cost = search_cost(search, *stripes)
    search.fit(*stripes)
    assert (search.n_candidates_, search.n_resources_) == ([4, 2], [150, 300])
    assert cost == SearchCost(n_fits=12, fit=8 * 150 + 4 * 300, score=(4 + 2) * 2 * 40, refit=300)
    assert_bound(cost, service.n_images, n_fits=13)
    assert search.best_estimator_[-1].n_queries_ > 300 - SLACK
    assert search.best_score_ > 0.9


def test_halving_with_images_as_the_resource(service, stripes):
    search = HalvingGridSearchCV(
        make_classifier(service), {"max_queries": [150, 250, 200]}, factor=3, cv=2, refit=False, min_resources=13
    )
    cost = search_cost(search, *stripes)
    search.fit(*stripes)
    assert search.n_candidates_ == [3, 1]
    assert cost.n_fits == 2 * (3 + 1)
    assert cost.fit == 2 * (150 + 250 + 200) + 2 * 250
    assert service.n_images <= cost.total


def test_a_search_copies_no_service(stripes):
    class Client(ToyService):
        def __deepcopy__(self, memo):
            raise AssertionError("the client was copied")

        def __reduce_ex__(self, protocol):
            raise AssertionError("the client was pickled")

    client = Client()
    grid = {"a": [0.005, 0.02], "c": [0.1], "prompt_scale": [0.5, 1.0]}
    search = GridSearchCV(make_pipeline(make_classifier(client)), {f"blackvipclassifier__{k}": grid[k] for k in grid})
    cost = search_cost(search.set_params(cv=2), *stripes)
    assert search.fit(*stripes).best_score_ > 0.9
    assert search.best_estimator_[-1].score_fn is client
    assert_bound(cost, client.n_images, n_fits=9)


# Cross-validation


def predicts_twice(estimator, X, y):
    return (estimator.predict(X) == y).mean()


@pytest.mark.parametrize("train_scores", [False, True])
@pytest.mark.parametrize(
    "scoring",
    [
        None,
        "roc_auc",
        {"a": "accuracy", "b": "neg_log_loss", "c": "roc_auc", "d": "average_precision", "e": predicts_twice},
    ],
)
def test_scorers_bill_what_was_foretold(scoring, train_scores, service, stripes):
    clf = make_classifier(service, max_queries=150)
    cost = search_cost(clf, *stripes, cv=2, scoring=scoring, return_train_score=train_scores)
    result = cross_validate(
        clf, *stripes, cv=2, scoring=scoring, return_train_score=train_scores, return_estimator=True
    )
    fitting = sum(fitted.n_queries_ for fitted in result["estimator"])
    # Each fit remembers its own images.
    assert service.n_images - fitting == 40
    assert cost.score == 40 * (2 if train_scores else 1)
    assert cost.fit - 2 * SLACK < fitting <= cost.fit == 300
    assert all(np.isfinite(values).all() for name, values in result.items() if "_score" in name)


def test_groups_are_kept_apart(service):
    X, y = make_stripes(n=48)
    groups = np.arange(48) // 4 % 6  # of eight images, with both classes
    cv = StratifiedGroupKFold(3, shuffle=True, random_state=0)
    clf = make_classifier(service)
    cost = search_cost(clf, X, y, cv=cv, groups=groups)
    result = cross_validate(clf, X, y, cv=cv, groups=groups, return_indices=True)
    for train, test in zip(result["indices"]["train"], result["indices"]["test"]):
        assert not set(groups[train]) & set(groups[test])
    assert result["test_score"].mean() > 0.9
    assert_bound(cost, service.n_images, n_fits=3)
    search = GridSearchCV(clf, {"a": [0.01]}, cv=cv)
    assert search_cost(search, X, y, groups=groups).score == 48
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        search_cost(search, X, y, groups=groups[:-1])


@pytest.mark.parametrize("train_sizes", [[0.5, 0.75, 1.0], [13, 26]])
def test_learning_curve(train_sizes, service, stripes):
    clf = make_classifier(service, max_queries=200)
    cost = search_cost(clf, *stripes, cv=3, train_sizes=train_sizes)
    sizes, train_scores, test_scores = learning_curve(clf, *stripes, cv=3, train_sizes=train_sizes, shuffle=True)
    assert train_scores.shape == test_scores.shape == (len(train_sizes), 3)
    assert test_scores.mean() > 0.9
    assert cost == SearchCost(
        n_fits=3 * len(sizes), fit=3 * len(sizes) * 200, score=len(sizes) * 40 + 3 * int(sizes.sum())
    )
    assert_bound(cost, service.n_images, n_fits=3 * len(sizes))


def test_permutation_test_score(service, stripes):
    X, y = stripes
    clf = make_classifier(service, head="calibrated", max_queries=150)
    score, permuted, p_value = permutation_test_score(clf, X, y, cv=2, n_permutations=4, random_state=0)
    assert score > 0.9
    assert p_value == 1 / 5
    assert permuted.max() < score
    assert service.n_images <= 5 * search_cost(clf, X, y, cv=2).total


def test_two_processes_give_the_same(stripes):
    clf = make_classifier(max_queries=150)
    one, two = (cross_val_score(clf, *stripes, cv=2, n_jobs=n_jobs, scoring="neg_log_loss") for n_jobs in (1, 2))
    np.testing.assert_array_equal(one, two)
    search = GridSearchCV(make_pipeline(clf), {"blackvipclassifier__a": [0.005, 0.02]}, cv=2, n_jobs=2)
    assert search.fit(*stripes).best_score_ > 0.9


def test_cross_val_predict_and_nested_cross_validation(service, stripes):
    clf = make_classifier(service, max_queries=150)
    cost = search_cost(clf, *stripes, cv=2)
    proba = cross_val_predict(clf, *stripes, cv=2, method="predict_proba")
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert_bound(cost, service.n_images, n_fits=2)
    before = service.n_images
    search = GridSearchCV(clf, {"a": [0.005, 0.02]}, cv=2)
    cost = search_cost(search, *stripes, cv=2)
    assert cost == SearchCost(n_fits=2, fit=2 * (5 * 150 + 2 * 20), score=40)
    assert cross_val_score(search, *stripes, cv=2).mean() > 0.9
    assert_bound(cost, service.n_images - before, n_fits=10)


# Meta-estimators


def test_calibration_of_a_frozen_classifier(service, strings):
    X, y = strings
    fitted = make_classifier(service).fit(X, y)
    before = service.n_images
    calibrated = CalibratedClassifierCV(FrozenEstimator(fitted), cv=2)
    cost = search_cost(calibrated, X, y, cv=[(np.arange(40), np.arange(10))])
    new, _ = make_stripes(n=10, seed=9)
    proba = calibrated.fit(X, y).predict_proba(new)
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert calibrated.score(X, y) > 0.9
    assert cost.total == 50
    assert service.n_images - before == 10  # the training images are remembered


@pytest.mark.parametrize("ensemble", [True, False])
def test_calibration_with_folds(ensemble, service, strings):
    X, y = strings
    calibrated = CalibratedClassifierCV(make_classifier(service), cv=2, ensemble=ensemble)
    cost = search_cost(calibrated, X, y, cv=[(np.arange(40), np.arange(10))])
    assert cost == SearchCost(n_fits=1, fit=(2 if ensemble else 3) * 300 + 40, score=20 if ensemble else 10)
    proba = calibrated.fit(X, y).predict_proba(X[:10])
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert (calibrated.classes_[proba.argmax(axis=1)] == y[:10]).all()
    assert_bound(cost, service.n_images, n_fits=3)


@pytest.mark.parametrize("voting", ["hard", "soft"])
def test_voting(voting, service, strings):
    X, y = strings
    parts = [("one", make_classifier(service)), ("other", make_classifier(service, a=0.02)), ("none", "drop")]
    vote = VotingClassifier([*parts, ("dummy", DummyClassifier())], voting=voting)
    cost = search_cost(vote, X, y, cv=2)
    assert cost == SearchCost(n_fits=2, fit=2 * 2 * 300, score=2 * 40)
    assert cross_val_score(vote, X, y, cv=2).mean() > 0.9
    assert_bound(cost, service.n_images, n_fits=4)


def test_stacking(service, strings):
    X, y = strings
    stack = StackingClassifier([("one", make_classifier(service)), ("other", make_classifier(service, c=0.05))], cv=2)
    cost = search_cost(stack, X, y, cv=2)
    assert cost == SearchCost(n_fits=2, fit=2 * 2 * (3 * 300 + 20), score=2 * 40)
    assert cross_val_score(stack, X, y, cv=2).mean() > 0.9
    assert_bound(cost, service.n_images, n_fits=12)
    fitted = make_classifier(service).fit(X, y)
    before = service.n_images
    prefit = StackingClassifier([("one", fitted)], cv="prefit")
    cost = search_cost(prefit, X, y, cv=[(np.arange(40), np.arange(10))])
    new, y_new = make_stripes(n=10, seed=9)
    assert prefit.fit(X, y).score(new, np.array(["port", "starboard"])[y_new]) == 1
    assert cost.total == 50
    assert service.n_images - before == 10  # the training images are remembered


def test_a_prompter_bills_only_its_fit(service, stripes):
    readers = (FunctionTransformer(flattened), LogisticRegression())
    pipeline = make_pipeline(BlackVIPPrompter(make_classifier(service)), *readers)
    cost = search_cost(pipeline, *stripes, cv=2)
    assert cost == SearchCost(n_fits=2, fit=600, score=0)
    assert cross_val_score(pipeline, *stripes, cv=2).mean() > 0.9
    assert_bound(cost, service.n_images, n_fits=2)
    assert search_cost(readers[1], *stripes).total == 0


# What asking leaves alone, and what it cannot tell


def test_asking_changes_nothing(stripes):
    cv = ShuffleSplit(3, random_state=np.random.RandomState(0))
    before = np.random.get_state()[1].copy()
    cost = search_cost(make_classifier(), *stripes, cv=cv)
    assert cost.score == 3 * 4
    assert search_cost(make_classifier(), *stripes, cv=KFold(4, shuffle=True)).score == 40
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.testing.assert_array_equal(cv.random_state.get_state()[1], np.random.RandomState(0).get_state()[1])


def test_what_cannot_be_told(stripes):
    with pytest.raises(TypeError, match="BaggingClassifier contains a BlackVIPClassifier, but search_cost"):
        search_cost(BaggingClassifier(make_pipeline(FrozenEstimator(make_pipeline(make_classifier())))), *stripes)
    with pytest.raises(ValueError, match=r"can be iterated only once.* pass list\(cv\)"):
        search_cost(make_classifier(), *stripes, cv=KFold(2).split(stripes[0]))


def test_a_cost_can_be_read():
    assert str(SearchCost(6, 12_000, 120)) == "at most 12,120 images: 12,000 for 6 fits, 120 to score"
