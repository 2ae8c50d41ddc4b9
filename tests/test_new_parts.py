"""A new part is one file: each of these defines one, and no other file is told about it."""

import numpy as np
import pytest
from conftest import ToyService, make_stripes
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from blackvip import BlackVIPClassifier
from blackvip.heads import Head

SETTINGS = {"max_queries": 400, "a": 0.02, "c": 0.1, "guard": False, "random_state": 0, "verbose": 0}


class NearestMeans(Head, name="nearest-means"):
    """Classes by the distances of log scores and features from the means of each class."""

    needs_features = True
    min_classes = 2

    def __init__(self, temperature=1.0):
        self.temperature = temperature

    def fit(self, X, y, sample_weight=None):
        self.classes_ = np.unique(y)
        weights = np.ones(len(y)) if sample_weight is None else sample_weight
        rows = [y == label for label in self.classes_]
        self.means_ = np.array([np.average(X[chosen], axis=0, weights=weights[chosen]) for chosen in rows])
        return self

    def predict_log_proba(self, X):
        distances = ((X[:, None] - self.means_) ** 2).sum(axis=2)
        return log_softmax(-distances / self.temperature, axis=1)


@pytest.mark.parametrize("head", ["nearest-means", NearestMeans(temperature=0.1)])
def test_a_new_head(head, tmp_path):
    X, y = make_stripes(n=24)
    service = ToyService(glare=0.7)
    clf = BlackVIPClassifier(service, "{}", head=head, **SETTINGS).fit(X, y)
    assert type(clf.head_) is NearestMeans
    assert clf.head_.means_.shape[1] == 2 + clf.probe_encoder_.n_features_out_
    assert clf.score(X, y) > 0.9

    # It works in a grid search, and its own parameters can be searched.
    grid = {"head": ["calibrated", head]} if isinstance(head, str) else {"head__temperature": [0.1, 10.0]}
    search = GridSearchCV(clone(clf), grid, cv=2, error_score="raise").fit(X, y)
    assert search.best_score_ > 0.8

    # It resumes from a checkpoint: no image is billed twice, and the result is the same.
    service = ToyService(glare=0.7)
    service.fail_at = 4
    stopped = clone(clf).set_params(score_fn=service, checkpoint=tmp_path / "fit.journal")
    with pytest.raises(RuntimeError, match="the service is down"):
        stopped.fit(X, y)
    n_lost, service.fail_at = len(service.calls[-1][0]), None
    assert stopped.fit(X, y).n_queries_ == service.n_images - n_lost
    np.testing.assert_array_equal(stopped.predict_proba(X), clf.predict_proba(X))
