"""A new part is one file: each of these defines one, and no other file is told about it."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from conftest import ToyService, make_stripes
from PIL import Image
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from blackvip import AReSClassifier, BlackVIPClassifier, Coordinator, load
from blackvip.encoders import Encoder, make_encoder
from blackvip.heads import Head
from blackvip.optimizers import Optimizer, make_optimizer
from blackvip.prompters import Prompter, make_prompter

SETTINGS = {
    "prompter": "basis",
    "max_queries": 400,
    "a": 0.02,
    "c": 0.1,
    "guard": False,
    "random_state": 0,
    "verbose": 0,
}


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

    # It is saved and loaded with what it has learned.
    clf.save(tmp_path / "clf")
    same = load(tmp_path / "clf", service)
    np.testing.assert_array_equal(same.predict_proba(X), clf.predict_proba(X))
    assert repr(same) == repr(clf)

    # It works in a grid search, and its own parameters can be searched.
    grid = {"head": ["calibrated", head]} if isinstance(head, str) else {"head__temperature": [0.1, 10.0]}
    search = GridSearchCV(clone(clf).set_params(max_queries=200), grid, cv=2, error_score="raise").fit(X, y)
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


class Stripes(Prompter, name="stripes"):
    """Horizontal stripes, each with a brightness of its own."""

    def __init__(self, n_stripes=4):
        self.n_stripes = n_stripes

    def fit_pixels(self, pixels):
        self.n_parameters_ = self.n_stripes
        self.stripe_of_row_ = np.arange(pixels.shape[2]) * self.n_stripes // pixels.shape[2]
        return self

    def features(self, pixels):
        return pixels.new_ones(pixels[:, :1].shape)

    def initial_parameters(self, rng):
        return np.zeros(self.n_stripes)

    def prompts(self, candidates, features, statistics=None):
        rows = candidates[:, :, torch.from_numpy(self.stripe_of_row_)]  # (g, p, height)
        return rows[:, :, None, None, :, None] * features[:, None].to(rows).expand(-1, -1, -1, 3, -1, -1)


class Thumbnail(Encoder, name="thumbnail"):
    """The mean brightness of the cells of a grid."""

    def __init__(self, side=2):
        self.side = side

    def fit_pixels(self, pixels):
        self.n_features_out_ = self.side**2
        return self

    def encode(self, pixels):
        return torch.nn.functional.adaptive_avg_pool2d(pixels.mean(dim=1), self.side).flatten(1)


class Halving(Optimizer, name="halving"):
    """Random search whose radius shrinks after each step without an improvement."""

    figure_names = ("radius",)

    def __init__(self, radius="auto", n_candidates=6):
        self.radius = radius
        self.n_candidates = n_candidates

    def gain_cost(self, d, n_rows_each, n_training_rows, budget):
        return 3 * n_training_rows if self.radius == "auto" else 0

    def find_gains(self, probe, w, rng):
        if self.radius == "auto":
            radii = np.array([0.01, 0.1, 1.0])
            losses = probe.losses(w + radii[:, None] * rng.normal(size=(3, len(w))), probe.rows)
            self.state = {"radius": float(radii[losses.argmin()])}

    def _gains(self):
        return self._in_use("radius")

    def start(self, w, rng):
        self.rng, self.state = rng, {**self._gains(), "w": np.array(w), "asked": None}

    def ask(self):
        noise = self.rng.normal(size=(self.n_candidates, len(self.w)))
        noise[0] = 0
        self.state["asked"] = self.w + self.state["radius"] * noise
        return self.state["asked"]

    def tell(self, losses):
        best = int(np.argmin(losses))
        self.state["w"] = self.state["asked"][best]
        self.state["radius"] *= 1.0 if best else 0.7
        self.state["figures"] = {"radius": self.state["radius"]}


def check_part(clf, grid, service, tmp_path):
    """A part predicts, is saved and loaded, works in a grid search, and resumes from a checkpoint."""
    X, y = make_stripes(n=24)
    proba = clf.predict_proba(X)
    clf.save(tmp_path / "clf")
    same = load(tmp_path / "clf", service)
    np.testing.assert_array_equal(same.predict_proba(X), proba)
    assert repr(same) == repr(clf)
    search = GridSearchCV(clone(clf), grid, cv=2, error_score="raise").fit(X, y)
    assert search.predict(X).shape == y.shape

    # It stops at its fourth call, and then resumes: no image is billed twice, and the result is the same.
    service = ToyService(glare=0.7)
    service.fail_at = 4
    stopped = clone(clf).set_params(score_fn=service, checkpoint=tmp_path / "fit.journal")
    with pytest.raises(RuntimeError, match="the service is down"):
        stopped.fit(X, y)
    n_lost, service.fail_at = len(service.calls[-1][0]), None
    assert stopped.fit(X, y).n_queries_ == service.n_images - n_lost
    np.testing.assert_array_equal(stopped.predict_proba(X), proba)


def test_a_new_prompter(tmp_path):
    assert type(make_prompter("stripes")) is Stripes
    service = ToyService(glare=0.7)
    clf = BlackVIPClassifier(service, "{}", **{**SETTINGS, "prompter": "stripes"}).fit(*make_stripes(n=24))
    assert clf.coordinator_.n_parameters_ == 4
    check_part(clf.set_params(prompter=Stripes(4)), {"prompter__n_stripes": [2, 6]}, service, tmp_path)


def test_a_new_encoder(tmp_path):
    assert type(make_encoder("thumbnail")) is Thumbnail
    X, y = make_stripes(n=24)
    service = ToyService(glare=0.7)
    settings = {**SETTINGS, "prompter": Coordinator("thumbnail"), "local_encoder": Thumbnail(), "max_queries": 500}
    clf = BlackVIPClassifier(service, "{}", **settings).fit(X, y)
    assert clf.probe_encoder_.n_features_out_ == clf.coordinator_.encoder_.n_features_out_ == 4
    check_part(clf, {"local_encoder__side": [1, 3]}, service, tmp_path)
    # AReS follows its gradients.
    ares = AReSClassifier(service, "{}", local_encoder="thumbnail", prime_epochs=2, epochs=2).fit(X, y)
    assert np.isfinite(ares.program_).all()


@pytest.mark.parametrize("optimizer", [Halving(), Halving(radius=0.2)])
def test_a_new_optimizer(optimizer, tmp_path):
    assert type(make_optimizer("halving")) is Halving
    X, y = make_stripes(n=24)
    service = ToyService(glare=0.7)
    settings = {**SETTINGS, "a": "auto", "c": "auto", "head": None, "max_queries": 1_200}
    clf = BlackVIPClassifier(service, "{}", optimizer=optimizer, **settings).fit(X, y)
    assert type(clf.optimizer_) is Halving
    assert clf.n_queries_ == service.n_images <= 1_200
    assert clf.score(X, y) > clf.baselines_["zero_shot"].accuracy
    assert clf.history_[-1]["radius"] == clf.optimizer_.state["radius"]
    plan = clone(clf).plan(X, y)
    assert (plan.fit.images, plan.gains.images) == (clf.n_queries_, 72 if optimizer.radius == "auto" else 0)
    check_part(clf, {"optimizer__radius": [0.001, 0.2]}, service, tmp_path)

    # It continues where it was, with warm_start and with partial_fit, and so does a loaded one.
    same, w = load(tmp_path / "clf", service), clf.optimizer_.w
    for one in (clf, same):
        one.set_params(warm_start=True, max_queries=300).fit(X, y)
        assert one.plan(X, y).gains.images == 0
        one.set_params(max_queries=1_000).partial_fit(X, y)
    assert (clf.optimizer_.w != w).any()
    np.testing.assert_array_equal(same.optimizer_.w, clf.optimizer_.w)


def test_a_new_http_service(tmp_path, monkeypatch):
    pytest.importorskip("httpx")
    from blackvip.scorers.http import Adapter, HTTPScorer, ServiceError

    class Shop(Adapter):
        """A service that takes one file and a list of names, and answers with names and marks."""

        score_type = "logits"

        def __init__(self, language="en"):
            self.language = language

        def request(self, images, class_prompts):
            return {"picture": images[0], "names": class_prompts, "language": self.language}

        def scores(self, answer, class_prompts):
            return [{entry["name"]: entry["mark"] for entry in answer["found"]}]

        def authorize(self, request, url, body, key):
            return {"X-Shop-Key": key}

    service, counting = ToyService(glare=0.7), threading.Lock()
    limit = [10**6]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            image = np.asarray(Image.open(io.BytesIO(base64.b64decode(body["picture"]))))
            with counting:
                known = self.headers["X-Shop-Key"] == "a-secret-key" and service.n_images < limit[0]
                marks = service(image[None], body["names"])[0].tolist() if known else []
            found = [{"name": name, "mark": mark} for name, mark in zip(body["names"], marks)]
            answer = json.dumps({"found": found}).encode()
            self.send_response(200 if known else 401)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args):
            """Write nothing."""

    monkeypatch.setenv("SHOP_KEY", "a-secret-key")
    X, y = make_stripes(n=24)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            scorer = HTTPScorer(f"http://127.0.0.1:{server.server_port}/v1", Shop(), key="SHOP_KEY")
            settings = {**SETTINGS, "max_queries": 160}
            clf = BlackVIPClassifier(scorer, "{}", head="calibrated", **settings).fit(X, y)
            assert clf.n_queries_ == service.n_images <= 160
            assert clf.score(X, y) > 0.9

            # It works in a grid search, and parameters of the adapter can be searched.
            grid = {"score_fn__adapter__language": ["en", "de"]}
            search = GridSearchCV(clone(clf).set_params(max_queries=80), grid, cv=2, error_score="raise").fit(X, y)
            assert search.best_score_ > 0.8

            # Files hold no score function; a loaded classifier predicts the same when it is given one.
            clf.save(tmp_path / "clf")
            same = load(tmp_path / "clf", scorer)
            np.testing.assert_array_equal(same.predict_proba(X), clf.predict_proba(X))

            # It resumes from a checkpoint: no answer is billed twice, and the result is the same.
            service.n_images, limit[0] = 0, 100
            stopped = clone(clf).set_params(checkpoint=tmp_path / "fit.journal")
            with pytest.raises(ServiceError, match="401"):
                stopped.fit(X, y)
            assert service.n_images == 100
            service.n_images, limit[0] = 0, 10**6
            assert stopped.fit(X, y).n_queries_ == clf.n_queries_ == 100 + service.n_images
            np.testing.assert_array_equal(stopped.predict_proba(X), clf.predict_proba(X))
        finally:
            server.shutdown()
