"""Predictions into a table: what it holds, that it goes on, and what it refuses."""

import copy
import csv
import os
import weakref

import numpy as np
import pandas as pd
import pytest
from conftest import ToyService, make_stripes
from PIL import Image
from sklearn.linear_model import LogisticRegression

import blackvip
from blackvip import BlackVIPClassifier, BlackVIPError


@pytest.fixture(scope="module")
def fitted():
    X, y = make_stripes(n=40)
    labels = np.array(["left, or so", 'the "right"'])[y]
    return BlackVIPClassifier(
        ToyService(glare=0.7), "{}", prompter="basis", max_queries=600, random_state=0, verbose=0
    ).fit(X, labels)


def with_service(fitted, service):
    """The same estimator with a service of its own."""
    return copy.copy(fitted).set_params(score_fn=service)


def test_the_table_has_what_predict_proba_returns(fitted, tmp_path):
    X, _ = make_stripes(n=100, seed=1)
    path = tmp_path / "predictions.csv"
    service = ToyService(glare=0.7)
    clf = with_service(fitted, service)
    clf.predict_to(path, X, verbose=0)
    assert service.n_images == 100
    table = pd.read_csv(path)
    probabilities = ["proba_left, or so", 'proba_the "right"']
    assert list(table.columns) == ["image", "label", *probabilities, "pixels", "model"]
    np.testing.assert_allclose(table.iloc[:, 2:4], clf.predict_proba(X), rtol=1e-5, atol=1e-12)
    assert table["label"].tolist() == clf.predict(X).tolist()
    assert table["image"].tolist() == list(range(100))


@pytest.mark.parametrize("torn", [0, 7])
def test_it_goes_on_where_it_was_stopped(fitted, tmp_path, torn):
    X, _ = make_stripes(n=200, seed=1)
    whole, path = tmp_path / "whole.csv", tmp_path / "stopped.csv"
    with_service(fitted, ToyService(glare=0.7)).predict_to(whole, X, verbose=0)
    failing = ToyService(glare=0.7)
    failing.fail_at = 3
    with pytest.raises(RuntimeError, match="the service is down"):
        with_service(fitted, failing).predict_to(path, X, verbose=0)
    assert len(path.read_bytes().splitlines()) == 1 + 128
    if torn:
        os.truncate(path, path.stat().st_size - torn)
    service = ToyService(glare=0.7)
    with_service(fitted, service).predict_to(path, X, verbose=0)
    assert service.n_images == 72 + bool(torn)
    assert path.read_bytes() == whole.read_bytes()
    with_service(fitted, service).predict_to(path, X, verbose=0)  # nothing is left to do
    assert service.n_images == 72 + bool(torn)


def test_labels_of_any_number_of_images_are_predicted_without_keeping_their_probabilities(fitted, monkeypatch):
    parts, score = [], BlackVIPClassifier._log_probas

    def watched(self, images, rows):
        for log_proba in score(self, images, rows):
            assert sum(part() is not None for part in parts) <= 1
            parts.append(weakref.ref(log_proba))
            yield log_proba

    X, _ = make_stripes(n=300, seed=1)
    expected = fitted.classes_[fitted.predict_log_proba(X).argmax(axis=1)]
    monkeypatch.setattr(BlackVIPClassifier, "_log_probas", watched)
    np.testing.assert_array_equal(fitted.predict(X), expected)
    assert len(parts) == 5


def test_images_that_are_paths_are_named_by_them(fitted, tmp_path):
    X, _ = make_stripes(n=3, seed=1)
    paths = [tmp_path / name for name in ("a.png", 'b, "b".png', "c\nc.png")]
    for image, path in zip(X, paths):
        Image.fromarray(image).save(path)
    for again in range(2):
        with_service(fitted, ToyService(glare=0.7)).predict_to(tmp_path / "p.csv", paths[: 2 + again], verbose=0)
    with open(tmp_path / "p.csv", newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == [str(path) for path in paths]


def test_tables_of_something_else_are_refused_and_nothing_is_sent(fitted, tmp_path):
    X, y = make_stripes(n=20, seed=1)
    path, other = tmp_path / "p.csv", tmp_path / "other.csv"
    service = ToyService(glare=0.7)
    clf = with_service(fitted, service)
    clf.predict_to(path, X, verbose=0)
    before, kept = service.n_images, path.read_bytes()
    other.write_text("name,price\ntea,3\n")
    with pytest.raises(BlackVIPError, match="not a table of predictions for these classes"):
        clf.predict_to(other, X, verbose=0)
    assert other.read_text() == "name,price\ntea,3\n"
    other.write_text("buy milk")  # a line without its end is not taken for a torn one
    with pytest.raises(BlackVIPError, match="not a table of predictions for these classes"):
        clf.predict_to(other, X, verbose=0)
    assert other.read_text() == "buy milk"
    other.write_text("image,la")  # but the header's beginning is
    clf.predict_to(other, X, verbose=0)
    assert other.read_bytes() == kept
    with pytest.raises(BlackVIPError, match="row 10, but X has only 10 images; pass the same images"):
        clf.predict_to(path, X[:10], verbose=0)
    another = BlackVIPClassifier(service, "{}", prompter="basis", max_queries=900, random_state=1, verbose=0)
    another.fit(*make_stripes(n=40)).classes_ = clf.classes_
    before = service.n_images
    with pytest.raises(BlackVIPError, match="predicted by another model"):
        another.predict_to(path, X, verbose=0)
    assert service.n_images == before
    assert path.read_bytes() == kept


def test_a_saved_estimator_goes_on_with_the_table(fitted, tmp_path):
    X, _ = make_stripes(n=20, seed=1)
    path = tmp_path / "p.csv"
    with_service(fitted, ToyService(glare=0.7)).predict_to(path, X[:10], verbose=0)
    fitted.save(tmp_path / "clf.blackvip")
    service = ToyService(glare=0.7)
    blackvip.load(tmp_path / "clf.blackvip", service).predict_to(path, X, verbose=0)
    assert service.n_images == 10
    assert len(path.read_bytes().splitlines()) == 21


def test_any_head_has_a_fingerprint(tmp_path):
    X, y = make_stripes(n=40)
    clf = BlackVIPClassifier(
        ToyService(), "{}", prompter="basis", head=LogisticRegression(), max_queries=600, random_state=0, verbose=0
    )
    clf.fit(X, y).predict_to(tmp_path / "p.csv", X, verbose=0)
    np.testing.assert_array_equal(pd.read_csv(tmp_path / "p.csv")["label"], clf.predict(X))


def test_two_processes_do_not_write_one_table(fitted, tmp_path, programs):
    path = tmp_path / "p.csv"
    holding = (
        "import sys; from blackvip.journal.predictions import PredictionsFile\n"
        f"with PredictionsFile({str(path)!r}, [], ['a', 'b'], 'm'): print('held', flush=True); sys.stdin.read()"
    )
    with programs.start("-c", holding) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(BlackVIPError, match="is in use by another process"):
            with_service(fitted, ToyService()).predict_to(path, make_stripes(n=4)[0], verbose=0)
        process.communicate()
    assert process.returncode == 0
