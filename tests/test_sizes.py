"""Enlarged images: a prompter, and a rung of the ladder where a service takes images of any size."""

import pickle

import joblib
import numpy as np
import pytest
from conftest import ToyService, make_stripes
from PIL import Image
from scipy.special import log_softmax

import blackvip
from blackvip import BlackVIPClassifier, Enlarged, Stacked
from blackvip.displays import report
from blackvip.encoders import Encoder
from blackvip.prompters import Correction
from blackvip.scorers.cached import CachedScorer
from blackvip.scorers.http import HTTPScorer, HuggingFaceZeroShot
from blackvip.scorers.identity import service_identity
from blackvip.training.sizes import choose_size, enlargements, n_images_for_size

SIDE = 12
LABELS = np.array(["a", "b", "c"])
NEEDED = {"autocontrast", "invert", "gamma-2", "none"}


class Blurry(ToyService):
    """A toy service that reads stripes in images of at least 18 px, or in smaller ones; else it mostly guesses."""

    takes_any_size = True

    def __init__(self, reads_large=True):
        super().__init__()
        self.reads_large = reads_large

    def __call__(self, images, class_prompts):
        scores = super().__call__(images, class_prompts)
        if (images.shape[1] >= 18) == self.reads_large:
            return scores
        noise = images[:, ::2, ::3, 0].astype(float).sum(axis=2)
        return 0.3 * scores + noise @ np.random.default_rng(0).normal(size=(noise.shape[1], 3)) % 5


class Brightness(Encoder):
    """Features that do not tell stripes apart."""

    def fit_pixels(self, pixels):
        self.n_features_out_ = 1
        return self

    def encode(self, pixels):
        return pixels.mean(dim=(1, 2, 3))[:, None]


class Fixed(Blurry):
    takes_any_size = False


def auto(service, **parameters):
    defaults = {"max_queries": 1000, "random_state": 0, "verbose": 0, "head": "calibrated"}
    return BlackVIPClassifier(service, "{}", **{**defaults, "local_encoder": Brightness(), **parameters})


def sides(service):
    return sorted({images.shape[1] for images, _ in service.calls})


@pytest.fixture
def data(monkeypatch):
    for name in set(blackvip.prompters.CORRECTIONS) - NEEDED:
        monkeypatch.delitem(blackvip.prompters.CORRECTIONS, name)
    X, y = make_stripes(n=60, n_classes=3, side=SIDE)
    return X, LABELS[y]


def test_images_are_interpolated_as_pillow_does_each_by_itself():
    X = np.random.default_rng(0).integers(90, 160, (5, 10, 14, 3), dtype=np.uint8)
    prompter = Enlarged(1.5).fit(X)
    larger = prompter.transform(X)
    expected = [np.asarray(Image.fromarray(image).resize((21, 15), Image.Resampling.BICUBIC)) for image in X]
    assert np.abs(larger.astype(int) - np.stack(expected)).max() <= 1  # Pillow rounds after each direction
    for image, alone in zip(larger, X):
        np.testing.assert_array_equal(prompter.transform(alone[None])[0], image)
    np.testing.assert_array_equal(Enlarged(1).fit(X).transform(X), X)


def test_it_follows_a_correction_and_a_trained_prompt_follows_it():
    X = make_stripes(n=6, side=SIDE)[0]
    corrected = Correction("invert").fit(X).transform(X)
    both = Stacked("invert", Enlarged(2)).fit(X)
    np.testing.assert_array_equal(both.transform(X), Enlarged(2).fit(X).transform(corrected))
    trained = Stacked(Stacked("invert", Enlarged(2)), "basis").fit(X)
    assert trained.n_parameters_ == 14
    np.testing.assert_array_equal(trained.transform(X), both.transform(X))  # its weights start at zero
    rows = X[..., 0].reshape(len(X), -1)
    assert both.fit(rows).transform(rows).shape == (6, len(both.get_feature_names_out())) == (6, 3 * 24 * 24)


def test_the_size_with_the_lowest_loss_at_its_own_temperature_is_chosen():
    """The smaller images get surer answers, of which fewer are right."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 40)
    z = {"small": rng.normal(size=(40, 3)), "large": rng.normal(size=(40, 3))}
    z["small"][np.arange(40), y] += 1
    z["large"][np.arange(40), y] += 3
    z["small"] *= 20
    table = {name: log_softmax(of_size, axis=1) for name, of_size in z.items()}
    billed = []

    def score(names, rows):
        for name in names:
            billed.extend((name, row) for row in rows)
            yield table[name][rows]

    assert choose_size(["small", "large"], score, y, np.ones(40), np.random.default_rng(0)) == "large"
    assert len(billed) == len(set(billed)) == n_images_for_size(2, 40) == 56
    assert sorted(row for name, row in billed if name == "large") == list(range(40))


def test_only_small_images_are_enlarged():
    factors = {side: [prompter.factor for prompter in enlargements((side, side // 2))] for side in (100, 300, 400)}
    assert factors == {100: [1.5, 2.0], 300: [1.5], 400: []}
    assert n_images_for_size(0, 100) == 0
    assert n_images_for_size(2, 10) == 20


def test_a_service_that_reads_small_images_badly_gets_larger_ones(data, tmp_path):
    service = Blurry()
    clf = auto(service)
    plan = clf.plan(*data)
    assert "larger images" in str(plan)
    clf.fit(*data)
    rung = clf.rungs_[-1]
    assert clf.prompt_used_
    assert rung["prompter"].startswith("images enlarged")
    assert rung["helps"]
    assert rung["own_accuracy"] > clf.baselines_["zero_shot"].accuracy
    assert clf.n_queries_ == service.n_images <= plan.fit.images
    service.calls.clear()
    X, y = make_stripes(n=30, n_classes=3, side=SIDE, seed=5)
    proba = clf.predict_proba(X)
    assert (clf.classes_[proba.argmax(axis=1)] == LABELS[y]).all()
    larger, _ = clf.prompter_.drawn_size((SIDE, SIDE))
    assert sides(service) == [larger] > [SIDE]
    clf.save(tmp_path / "clf.blackvip")
    joblib.dump(clf, tmp_path / "clf.joblib")
    for again in (blackvip.load(tmp_path / "clf.blackvip", Blurry()), joblib.load(tmp_path / "clf.joblib")):
        np.testing.assert_array_equal(again.predict_proba(X), proba)
    assert pickle.loads(pickle.dumps(clf.prompter_)).transform(X).shape == clf.prompter_.transform(X).shape
    assert clf.compare_prompt(X, LABELS[y]).prompted.shape == (30, 3)
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    report(clf, tmp_path / "report.html", X, LABELS[y])
    assert "enlarged" in (tmp_path / "report.html").read_text()


def test_a_service_that_does_not_say_so_gets_images_of_one_size(data):
    service = Fixed()
    clf = auto(service).fit(*data)
    assert sides(service) == [SIDE]
    assert clf.plan(*data).sizes.images == 0


def test_larger_images_are_not_tried_where_a_local_head_is_as_good(data):
    service = Blurry()
    clf = auto(service, local_encoder="pca").fit(*data)
    assert clf.baselines_["local_probe"].accuracy >= clf.result_.accuracy
    assert sides(service) == [SIDE]


def test_larger_images_are_not_used_where_they_do_not_help(data):
    X, y = data
    y[::5] = "a"  # so that there is something to gain
    service = Blurry(reads_large=False)
    clf = auto(service).fit(X, y)
    [rung] = [rung for rung in clf.rungs_ if rung["prompter"].startswith("images enlarged")]
    assert not rung["helps"]
    assert max(sides(service)) > SIDE
    service.calls.clear()
    clf.predict(make_stripes(n=30, n_classes=3, side=SIDE, seed=5)[0])
    assert sides(service) == [SIDE]


@pytest.mark.parametrize("budget", [60, 100, 150, 200])
def test_no_budget_is_exceeded(data, budget):
    service = Blurry()
    clf = auto(service, max_queries=budget).fit(*data)
    assert clf.n_queries_ == service.n_images <= budget


def test_a_fit_that_fails_between_sizes_resumes_without_paying_twice(data, tmp_path):
    whole = auto(Blurry()).fit(*data)
    first_large = next(number for number, (images, _) in enumerate(whole.score_fn.calls, 1) if images.shape[1] > SIDE)
    service = Blurry()
    service.fail_at = first_large + 1
    clf = auto(service, checkpoint=tmp_path / "fit.journal")
    with pytest.raises(RuntimeError, match="the service is down"):
        clf.fit(*data)
    service.fail_at = None
    n_failed = len(service.calls[-1][0])
    clf.fit(*data)
    assert service.n_images - n_failed == clf.n_queries_ == whole.n_queries_
    np.testing.assert_array_equal(clf.predict_proba(data[0]), whole.predict_proba(data[0]))


def test_wrappers_pass_the_declaration_on_and_it_does_not_change_what_a_service_is(tmp_path):
    assert CachedScorer(Blurry(), tmp_path / "answers.journal").takes_any_size
    assert not CachedScorer(Fixed(), tmp_path / "others.journal").takes_any_size
    scorers = [
        HTTPScorer("http://127.0.0.1:1/x", HuggingFaceZeroShot(), takes_any_size=value) for value in (False, True)
    ]
    assert service_identity(scorers[0]) == service_identity(scorers[1])


def test_naming_it_enlarges_for_any_service(data):
    service = Fixed()
    clf = auto(service, prompter=Enlarged(2), max_queries=120).fit(*data)
    assert clf.prompt_used_
    assert sides(service) == [SIDE, 2 * SIDE]
    with pytest.raises(ValueError, match="factor"):
        Enlarged(0.5).fit(data[0])
