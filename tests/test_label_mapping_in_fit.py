"""A classifier of a service with labels of its own: the mapping is learned from the images that are scored anyway."""

import pickle

import numpy as np
import pytest
from sklearn.model_selection import cross_val_score
from test_label_mapping import LABELS, LabelService, bright_images

import blackvip
from blackvip import BlackVIPClassifier, SharedBudget
from blackvip.scorers import LabelMappedScorer

pytestmark = pytest.mark.filterwarnings("ignore::blackvip.PromptNotUsedWarning")

needs_callbacks = pytest.mark.skipif(
    not hasattr(BlackVIPClassifier, "set_callbacks"), reason="scikit-learn has callbacks since 1.9"
)


def make_classifier(scorer, **parameters):
    return BlackVIPClassifier(
        scorer, **{"prompter": "basis", "max_queries": 500, "random_state": 0, "verbose": 0, **parameters}
    )


def truncating_service():
    return LabelService(as_dicts=True, n_top=3)


@pytest.mark.parametrize("mapping", ["blm+", "blm", "frequency"])
def test_fit_learns_the_mapping_and_a_journal_repeats_it(mapping, tmp_path):
    X, y = bright_images(60)
    X_test, y_test = bright_images(seed=1)
    service, again = truncating_service(), truncating_service()
    fits = [
        make_classifier(LabelMappedScorer(one, LABELS, mapping), checkpoint=tmp_path / "a.journal").fit(X, y)
        for one in (service, again)
    ]
    assert service.n_images == fits[0].n_queries_ <= 500
    assert again.n_images == 0
    np.testing.assert_array_equal(fits[1].coordinator_.parameters_, fits[0].coordinator_.parameters_)
    np.testing.assert_array_equal(fits[1].label_mapping_.weights, fits[0].label_mapping_.weights)
    assert fits[0].score(X_test, y_test) > 0.9
    twin = pickle.loads(pickle.dumps(fits[0]))
    np.testing.assert_array_equal(twin.predict_proba(X_test), fits[0].predict_proba(X_test))


def test_each_fold_learns_its_own_within_one_budget():
    X, y = bright_images(60)
    service = truncating_service()
    budget = SharedBudget(LabelMappedScorer(service, LABELS), 10_000)
    clf = make_classifier(budget, max_queries=300)
    assert cross_val_score(clf, X, y, cv=3).mean() > 0.9
    assert budget.n_queries == service.n_images


def test_partial_fit_keeps_the_mapping_and_fit_learns_another():
    X, y = bright_images(60)
    clf = make_classifier(LabelMappedScorer(truncating_service(), LABELS), max_queries=2_000)
    learned = clf.partial_fit(X[:30], y[:30]).label_mapping_
    assert clf.partial_fit(X[30:], y[30:]).label_mapping_ is learned
    assert clf.score(X, y) > 0.9
    assert clf.fit(X, y).label_mapping_ is not learned


def test_a_file_has_the_mapping(tmp_path):
    X, y = bright_images(60)
    clf = make_classifier(LabelMappedScorer(LabelService(), LABELS)).fit(X, y)
    clf.save(tmp_path / "clf.blackvip")
    again = blackvip.load(tmp_path / "clf.blackvip", LabelMappedScorer(LabelService(), LABELS))
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
    assert again.label_mapping_.labels == LABELS


@needs_callbacks
def test_a_callback_may_score():
    accuracies = []

    class Scores:
        def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
            if fitted_estimator is not None and context.task_name == "step":
                accuracies.append(fitted_estimator.score(X, y))

        def setup(self, estimator, context): ...

        def teardown(self, estimator, context): ...

        def on_fit_task_begin(self, estimator, context): ...

    X, y = bright_images(60)
    service = LabelService()
    clf = make_classifier(LabelMappedScorer(service, LABELS), max_queries=2_000, validation_fraction=0.25)
    clf.set_callbacks(Scores()).fit(X, y)
    assert accuracies == [row["validation_accuracy"] for row in clf.history_ if "validation_accuracy" in row]
    assert service.n_images == clf.n_queries_
