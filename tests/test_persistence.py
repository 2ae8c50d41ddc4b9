"""Saving and loading: round trips, other processes, new classes, and files that are damaged or hostile."""

import hashlib
import json
import os
import pathlib
import pickle
import re
import stat
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
import safetensors
import torch
from conftest import ToyService, make_stripes
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

import blackvip
from blackvip import (
    SPSAGC,
    BlackVIPClassifier,
    BlackVIPPrompter,
    CachedEncoder,
    Coordinator,
    FusedHead,
    GradientEncoder,
    PCAEncoder,
    PersistenceError,
    PromptBasis,
    ScratchEncoder,
    TimmEncoder,
)
from blackvip.persistence.arrays import Array

pytestmark = pytest.mark.filterwarnings("ignore::blackvip.PromptNotUsedWarning")

HERE = pathlib.Path(__file__).parent
X, Y = make_stripes(n=24)


def fitted(service=None, y=Y, **parameters):
    defaults = dict(
        prompter="basis", max_queries=800, optimizer=SPSAGC(n_directions=2), guard=False, random_state=0, verbose=0
    )
    return BlackVIPClassifier(service or ToyService(), "{}", **{**defaults, **parameters}).fit(X, y)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The bytes of a small file, and what its classifier predicts."""
    path = tmp_path_factory.mktemp("saved") / "clf.blackvip"
    clf = fitted()
    clf.save(path)
    return path.read_bytes(), clf.predict_proba(X)


# Round trips


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"prompter": "coordinator"},
        {
            "prompter": Coordinator(ScratchEncoder(), last_layer="random"),
            "head": None,
            "optimizer": blackvip.Subspace(blackvip.SPSA(a=0.01, c=0.1), n_dims=8),
        },
        {"prompter": Coordinator(TimmEncoder("test_resnet.r160_in1k", pretrained=False))},
        {"prompter": Coordinator(CachedEncoder(PCAEncoder(30))), "local_encoder": CachedEncoder("gradients")},
        {"head": "calibrated", "class_weight": {0: 1.0, 1: 2.0}, "optimizer": "spsa"},
        {"guard": True, "max_queries": 1200, "warm_start": True},
        {"head": "fused", "local_encoder": "pca", "optimizer": SPSAGC(share_batch=True), "temperature": 2.0},
        {"head": FusedHead(n_scores=0, strengths=(1,)), "local_encoder": GradientEncoder(), "optimizer": "cma-es"},
        {"random_state": np.random.RandomState(0), "image_shape": (6, 7), "resize": "pad"},
    ],
)
def test_a_loaded_classifier_is_the_saved_one(parameters, tmp_path):
    service = ToyService()
    clf = fitted(service, **parameters)
    clf.save(tmp_path / "clf.blackvip")
    same = blackvip.load(tmp_path / "clf.blackvip", service)
    np.testing.assert_array_equal(same.predict_proba(X), clf.predict_proba(X))
    assert same.history_ == clf.history_
    assert (same.n_queries_, same.termination_reason_) == (clf.n_queries_, clf.termination_reason_)
    assert same.score_baselines(X, Y) == clf.score_baselines(X, Y)
    given = clf.get_params(deep=False)
    for name, value in same.get_params(deep=False).items():
        if not hasattr(value, "get_params") and name != "random_state":
            assert value == given[name] or list(value) == list(given[name]), name
    for one in (clf, same):  # both go on in the same way
        one.set_params(max_queries=3_000).partial_fit(X, Y)
    np.testing.assert_array_equal(same.coordinator_.parameters_, clf.coordinator_.parameters_)
    np.testing.assert_array_equal(same.predict_proba(X), clf.predict_proba(X))


@pytest.mark.parametrize("prompter", ["coordinator", "basis"])
def test_nothing_of_a_classifier_is_lost(prompter, tmp_path):
    clf = fitted(prompter=prompter, a=0.1, c=0.05, class_weight={0: 1, 1: 2.0})
    clf.save(tmp_path / "clf")
    same = blackvip.load(tmp_path / "clf", clf.score_fn)
    assert repr(same) == repr(clf)
    assert repr(clone(same)) == repr(clf)
    for one, other in ((clf, same), (clf.coordinator_, same.coordinator_), (clf.optimizer_, same.optimizer_)):
        assert vars(one).keys() == vars(other).keys()
    for one in (clf, same):  # what was one object is one again, or a step would change the one and not the other
        assert one._rng is not one.optimizer_.rng
        assert one.image_format_ is one.coordinator_.image_format_
        assert one.probe_encoder_ is not getattr(one.coordinator_, "encoder_", None)
    same.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "clf").read_bytes()


def test_a_prompt_that_is_not_used_is_not_used_later(tmp_path):
    images, y = make_stripes()
    known = {image.tobytes() for image in images}

    def service(sent, prompts):  # it reads only images that nobody has drawn on
        return ToyService()(sent, prompts) * [[image.tobytes() in known] for image in sent]

    clf = BlackVIPClassifier(service, prompter="basis", head=None, max_queries=800, random_state=0, verbose=0).fit(
        images, y
    )
    assert not clf.prompt_used_
    clf.save(tmp_path / "clf")
    same = blackvip.load(tmp_path / "clf", service)
    assert not same.prompt_used_
    np.testing.assert_array_equal(same.predict_proba(images), clf.predict_proba(images))


@pytest.mark.parametrize("fail_at", [2, 6, 12])
def test_a_fit_that_the_service_ended(fail_at, tmp_path):
    service = ToyService()
    service.fail_at = fail_at  # while step sizes are looked for, and while training
    clf = BlackVIPClassifier(
        service, prompter="basis", max_queries=800, optimizer=SPSAGC(n_directions=2), random_state=0, verbose=0
    )
    with pytest.raises(RuntimeError, match="the service is down"):
        clf.fit(X, Y)
    service.fail_at = None
    clf.save(tmp_path / "clf")
    same = blackvip.load(tmp_path / "clf", service)
    assert same.termination_reason_ == "error"
    assert same.optimizer_.started == clf.optimizer_.started
    np.testing.assert_array_equal(same.predict_proba(X), clf.predict_proba(X))


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["a", "bé"])[Y],
        np.array(["a", "b"], dtype=object)[Y],
        Y.astype(bool),
        Y.astype(np.int8) - 1,
        pd.Series(["x", "y"]).astype("category")[Y],
    ],
)
def test_labels_come_back_as_they_were(labels, tmp_path):
    clf = fitted(y=labels)
    clf.save(tmp_path / "clf")
    same = blackvip.load(tmp_path / "clf", clf.score_fn)
    assert same.classes_.dtype == clf.classes_.dtype
    np.testing.assert_array_equal(same.predict(X), clf.predict(X))


def test_feature_names_transformers_and_prompters(tmp_path):
    table = pd.DataFrame(X.reshape(24, -1)).add_prefix("p")
    clf = BlackVIPClassifier(
        ToyService(), prompter="basis", max_queries=800, image_shape=(8, 8, 3), optimizer=SPSAGC(n_directions=2)
    )
    clf.fit(table, Y).save(tmp_path / "table")
    np.testing.assert_array_equal(blackvip.load(tmp_path / "table").feature_names_in_, table.columns)
    clf = fitted(prompter="coordinator")
    sent = clf.coordinator_.transform(X)
    for name, transformer in (
        ("fitted", BlackVIPPrompter(clone(clf)).fit(X, Y)),
        ("frozen", BlackVIPPrompter(FrozenEstimator(clf))),
        ("alone", clf.coordinator_),
    ):
        transformer.save(tmp_path / name)
        np.testing.assert_array_equal(blackvip.load(tmp_path / name).transform(X), sent)
    prompter = BlackVIPPrompter(FrozenEstimator(clf)).set_output(transform="pandas")
    prompter.save(tmp_path / "pandas")
    assert blackvip.load(tmp_path / "pandas")._sklearn_output_config == {"transform": "pandas"}
    for untrained in (Coordinator("scratch"), PromptBasis(), Coordinator(PCAEncoder(30), 98, last_layer="random")):
        untrained.fit(X).save(tmp_path / "untrained")
        same = blackvip.load(tmp_path / "untrained")
        assert repr(same) == repr(untrained)
        np.testing.assert_array_equal(same.transform(X), untrained.transform(X))


def test_without_a_score_function_a_loaded_classifier_says_so(tmp_path):
    fitted().save(tmp_path / "clf")
    same = blackvip.load(tmp_path / "clf")
    with pytest.raises(ValueError, match="has no score function"):
        same.predict(X)
    assert same.set_params(score_fn=ToyService()).score(X, Y) > 0.9
    with pytest.raises(TypeError, match="expected a callable"):
        blackvip.load(tmp_path / "clf", "service")


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(NotFittedError):
        BlackVIPClassifier(ToyService()).save(tmp_path / "clf")
    with pytest.raises(PersistenceError, match=r"LogisticRegression, not one of .*; joblib\.dump saves any object"):
        fitted(head=LogisticRegression()).save(tmp_path / "clf")
    clf = fitted()
    with pytest.raises(FileNotFoundError):
        clf.save(tmp_path / "nowhere" / "clf")
    with pytest.raises(PersistenceError, match="folder of this name"):
        clf.save(tmp_path)
    with pytest.raises(PersistenceError, match="The 'a' parameter"):
        clf.set_params(a=-1).save(tmp_path / "clf")
    clf.set_params(a="auto")
    clf.note_ = 1
    with pytest.raises(PersistenceError, match=r"attributes \['note_'\]"):
        clf.save(tmp_path / "clf")
    clf = fitted(prompter=Coordinator(TimmEncoder("test_resnet.r160_in1k", pretrained=False)))
    for name in ("vit/../../x", "hf-hub:someone/model", "local-dir:/tmp"):  # they would be loaded from there
        clf.coordinator_.encoder_.model_name = name
        with pytest.raises(PersistenceError, match="model_name is"):
            clf.save(tmp_path / "clf")
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        blackvip.load(tmp_path / "nowhere")


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path, clf = tmp_path / "clf", fitted()
    path.write_text("earlier")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(PersistenceError, match="No space left on device"):
            clf.save(path)
    assert path.read_text() == "earlier"
    clf.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["clf"]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert blackvip.load("~/clf").n_iter_ == clf.n_iter_


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX has these")
def test_links_and_permissions(tmp_path):
    path, clf = tmp_path / "clf", fitted()
    plain = tmp_path / "plain"
    plain.touch()
    clf.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    path.chmod(0o600)
    (tmp_path / "link").symlink_to("clf")
    clf.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (tmp_path / "one").symlink_to("other")
    (tmp_path / "other").symlink_to("one")
    with pytest.raises(PersistenceError, match="leads back to itself"):
        clf.save(tmp_path / "one")
    with pytest.raises(PersistenceError, match="cannot be loaded"):
        blackvip.load(tmp_path / "one")


def test_any_tool_lists_a_file_and_no_secret_is_in_it(tmp_path):
    service = ToyService()
    service.key = "sk-secret"
    clf = fitted(service)
    clf.save(tmp_path / "clf.safetensors")
    assert b"sk-secret" not in (tmp_path / "clf.safetensors").read_bytes()
    with safetensors.safe_open(tmp_path / "clf.safetensors", "np") as file:
        np.testing.assert_array_equal(file.get_tensor("prompter_.parameters_"), clf.coordinator_.parameters_)
        assert json.loads(file.metadata()["blackvip"])["version"] == 1


# Classes that other packages define


class TwoStrips(blackvip.prompters.Prompter):
    """A prompter without any declaration: two brightnesses, of the left and of the right half."""

    def __init__(self, gain=1.0, start=(0.0, 0.0), encoder=None):
        self.gain = gain
        self.start = start
        self.encoder = encoder

    def fit_pixels(self, pixels):
        self.n_parameters_ = 2
        self.left_ = (np.arange(pixels.shape[-1]) < pixels.shape[-1] / 2).astype(np.float64)
        self.notes_ = {"mean": float(pixels.mean()), "sizes": [1, 2], "nothing": None}
        return self

    def features(self, pixels):
        return pixels.new_empty(len(pixels), pixels.shape[2])

    def initial_parameters(self, rng):
        return np.array(self.start)

    def prompts(self, candidates, features, statistics=None):
        strips = torch.from_numpy(np.stack([self.left_, 1 - self.left_])).to(candidates)
        rows = (self.gain * candidates @ strips)[:, :, None, None, None]
        return rows.expand(-1, -1, features.shape[1], 3, features.shape[2], -1)


class RandomSearch(blackvip.optimizers.Optimizer):
    """An optimizer without any declaration."""

    n_candidates = 3

    def __init__(self, radius=0.1):
        self.radius = radius

    def start(self, w, rng):
        self.rng, self.state = rng, {"w": np.array(w), "tried": None, "n_told": 0}

    def ask(self):
        self.state["tried"] = self.w + self.radius * self.rng.normal(size=(3, len(self.w)))
        return self.state["tried"]

    def tell(self, losses):
        self.state.update(w=self.state["tried"][np.argmin(losses)], n_told=self.state["n_told"] + 1)


class MeanColour(blackvip.encoders.Encoder):
    """An encoder with a table."""

    saved_attributes = {"mean_": Array((3,))}

    def fit_pixels(self, pixels):
        self.mean_ = pixels.double().mean((0, 2, 3)).numpy()
        self.n_features_out_ = 3
        return self

    def encode(self, pixels):
        return pixels.double().mean((2, 3)) - torch.from_numpy(self.mean_)


def strange(**parameters):
    return fitted(prompter=TwoStrips(2.0, encoder=PCAEncoder(3)), optimizer=RandomSearch(), **parameters)


def test_classes_of_others_need_no_declaration(tmp_path):
    clf = strange(local_encoder=MeanColour())
    clf.save(tmp_path / "clf")
    same = blackvip.load(tmp_path / "clf", clf.score_fn)
    np.testing.assert_array_equal(same.predict_proba(X), clf.predict_proba(X))
    assert repr(same) == repr(clf)
    assert type(same.coordinator_) is TwoStrips
    assert same.coordinator_.notes_ == clf.coordinator_.notes_
    assert same.optimizer_.state["n_told"] == clf.n_iter_ > 0
    for one in (clf, same):
        one.set_params(max_queries=1_500).partial_fit(X, Y)
    np.testing.assert_array_equal(same.coordinator_.parameters_, clf.coordinator_.parameters_)


def test_what_a_class_without_a_table_cannot_save(tmp_path):
    for name, value, message in (
        ("model_", torch.nn.Linear(1, 1), "model_ is a Linear; expected numbers"),
        ("_cache", 1, r"attributes \['_cache'\], which TwoStrips.saved_attributes does not list"),
        ("gain", print, "gain is a builtin_function_or_method"),
    ):
        clf = strange()
        setattr(clf.coordinator_, name, value)
        with pytest.raises(PersistenceError, match=message):
            clf.save(tmp_path / "clf")


def test_a_class_that_is_not_imported_is_named(tmp_path):
    strange().save(tmp_path / "clf")
    kind = f"{__name__}.TwoStrips"
    change = lambda h, d: fitted_of(d)["prompter_"].update(kind="another_package.TwoStrips")
    data = (tmp_path / "clf").read_bytes()
    assert json.loads(header_of(data)["__metadata__"]["blackvip"])["object"]["fitted"]["prompter_"]["kind"] == kind
    with pytest.raises(PersistenceError, match=r"'another_package\.TwoStrips', a class that is not known .* import"):
        load_bytes(tampered(data, change), tmp_path)


@pytest.mark.parametrize("name", ["transform", "fit_pixels", "_n_features_out", "__class__", "named"])
def test_a_file_replaces_no_method(name, tmp_path):
    strange().save(tmp_path / "clf")
    change = lambda h, d: fitted_of(d)["prompter_"]["fitted"].update({name: 1})
    with pytest.raises(PersistenceError, match="does not know"):
        load_bytes(tampered((tmp_path / "clf").read_bytes(), change), tmp_path)


def test_two_classes_of_this_package_may_not_share_a_name():
    with pytest.raises(TypeError, match="a saveable class PCAEncoder in blackvip.encoders.pca already"):
        type("PCAEncoder", (MeanColour,), {"__module__": "blackvip.other"})


# Pickles


def test_in_another_process(tmp_path, programs):
    """Each way to read a file has its process."""
    clf = fitted(prompter="coordinator")
    np.savez(tmp_path / "expected.npz", X=X, proba=clf.predict_proba(X))
    (tmp_path / "pickled").write_bytes(pickle.dumps(clf))
    joblib.dump(clf, tmp_path / "dumped")
    clf.save(tmp_path / "saved")
    code = """
import sys, pickle, joblib, numpy as np, blackvip
folder, tests, name = sys.argv[1:]
sys.path.insert(0, tests)
import conftest
expected = np.load(folder + "/expected.npz")
ways = {
    "pickled": lambda file: pickle.load(open(file, "rb")),
    "dumped": joblib.load,
    "saved": lambda file: blackvip.load(file, conftest.ToyService()),
}
proba = ways[name](f"{folder}/{name}").predict_proba(expected["X"])
np.testing.assert_allclose(proba, expected["proba"], atol=1e-9)
"""
    for way in ("pickled", "dumped", "saved"):
        done = programs.run("-c", code, tmp_path, HERE, way)
        assert done.returncode == 0, done.stderr


def test_a_fitted_classifier_holds_no_tensor_of_any_device():
    found, seen = [], set()

    def walk(value, where):
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            found.append(where)
        parts = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
        )
        for key, part in (*parts, *getattr(value, "__dict__", {}).items()):
            walk(part, f"{where}.{key}")

    for prompter in ("coordinator", "basis"):
        walk(fitted(prompter=prompter), prompter)
    assert len(seen) > 100
    assert not found


def test_skops():
    io = pytest.importorskip("skops.io")
    clf = fitted(prompter="coordinator")
    data = io.dumps(clf.coordinator_)
    prompter = io.loads(data, trusted=io.get_untrusted_types(data=data))
    np.testing.assert_array_equal(prompter.transform(X), clf.coordinator_.transform(X))
    data = io.dumps(clf.set_params(score_fn=None))
    with pytest.raises(Exception, match="(?i)untrusted"):
        io.loads(data)  # our classes are not on skops' own list: each has to be trusted by name
    same = io.loads(data, trusted=io.get_untrusted_types(data=data))
    service = ToyService()
    proba = same.set_params(score_fn=service).predict_proba(X)
    np.testing.assert_array_equal(proba, clf.set_params(score_fn=service).predict_proba(X))


# Damaged and hostile files


def header_of(data):
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def rebuilt(header, body):
    """A file with this header and a checksum that is right."""
    header["__metadata__"]["sha256"] = "0" * 64
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    data = len(head).to_bytes(8, "little") + head + body
    place = data.index(b'"sha256":"') + 10
    return data[:place] + hashlib.sha256(data).hexdigest().encode() + data[place + 64 :]


def tampered(data, change):
    """The file after `change(header, document)`, with a checksum that is right."""
    n_bytes = int.from_bytes(data[:8], "little")
    header = header_of(data)
    document = json.loads(header["__metadata__"]["blackvip"])
    replaced = change(header, document)
    header["__metadata__"]["blackvip"] = json.dumps(replaced if isinstance(replaced, list) else document)
    return rebuilt(header, data[8 + n_bytes :])


def load_bytes(data, tmp_path):
    (tmp_path / "file").write_bytes(data)
    return blackvip.load(tmp_path / "file", ToyService())


def test_the_tampering_of_these_tests_is_not_found_out_by_the_checksum(saved, tmp_path):
    data, proba = saved
    same = load_bytes(tampered(data, lambda header, document: None), tmp_path)
    np.testing.assert_array_equal(same.predict_proba(X), proba)


def fitted_of(document):
    return document["object"]["fitted"]


def control_of(document, name):
    return fitted_of(document)["baselines_"][name]["params"]["head"]


def rename(header, old, new):
    header[new] = header.pop(old)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, d: d.update(version=2), "reads version 1. Upgrade"),
        (lambda h, d: d.update(version=True), "has the version True"),
        (lambda h, d: d.update(format="other"), "format is not blackvip's"),
        (lambda h, d: d["object"].update(kind="os.system"), "it is a 'os.system'"),
        (lambda h, d: d["object"].update(kind="PCAEncoder"), "it is a 'PCAEncoder'"),
        (lambda h, d: d["object"]["params"].update(score_fn="print"), "score_fn is 'print'"),
        (lambda h, d: d["object"]["params"].pop("a"), "has no a"),
        (lambda h, d: d["object"]["params"].update(__class__="x"), "__class__"),
        (lambda h, d: d["object"]["params"].update(momentum=3), "momentum"),
        (lambda h, d: d["object"]["params"].update(max_queries=-1), "max_queries"),
        (lambda h, d: fitted_of(d).update(predict="x"), "predict"),
        (lambda h, d: fitted_of(d).pop("head_"), "head_"),
        (lambda h, d: fitted_of(d)["class_prompts_"].append("c"), "3 class prompts"),
        (
            lambda h, d: fitted_of(d)["prompter_"]["fitted"]["image_format_"]["params"].update(
                height=10**9, width=10**9
            ),
            "too large",
        ),
        (
            lambda h, d: fitted_of(d)["prompter_"]["fitted"]["image_format_"]["params"].update(height=9),
            "expected|differ|fit",
        ),
        (lambda h, d: fitted_of(d)["prompter_"]["fitted"].update(parameters_={"tensor": "../../etc"}), "no tensor"),
        (lambda h, d: rename(h, "prompter_.parameters_", "../../x"), "parameters_ has no tensor"),
        (lambda h, d: h["prompter_.parameters_"].update(shape=[10**12]), "cannot be loaded"),
        (lambda h, d: h["prompter_.parameters_"].update(shape=[7, 2]), "shape"),
        (lambda h, d: h["prompter_.parameters_"].update(dtype="I64"), "expected float64"),
        (lambda h, d: h["prompter_.parameters_"].update(dtype="U8"), "expected one of"),
        (lambda h, d: h["prompter_.parameters_"].update(data_offsets=[0, 2**62]), "cannot be loaded"),
        (lambda h, d: h["__metadata__"].update(more="x"), "metadata have the keys"),
        (lambda h, d: h.update(more=h["prompter_.parameters_"]), "cannot be loaded"),
        (lambda h, d: h.pop("prompter_.parameters_"), "cannot be loaded"),
        (lambda h, d: fitted_of(d).update(score_format_=None), "score_format_ is not an object"),
        (lambda h, d: fitted_of(d)["prompter_"]["fitted"].update(prompt_scale_=10**30), "prompt_scale_ is 10"),
        (lambda h, d: fitted_of(d)["prompter_"]["fitted"].update(n_parameters_=11), "n_parameters_ is 11"),
        (lambda h, d: fitted_of(d)["prompter_"]["fitted"].update(prompt_scale_=0.0), "contradict"),
        (lambda h, d: fitted_of(d).update(prompt_used_=False), "contradict"),
        (
            lambda h, d: fitted_of(d).update(head_={"same": "prompter_"}),
            "head_ is the same as .prompter_., which does not exist|head_ is a PromptBasis",
        ),
        (lambda h, d: fitted_of(d).update(head_={"same": "nowhere"}), "which does not exist"),
        (lambda h, d: fitted_of(d).update(head_={"same": ["x"]}), "which does not exist"),
        (lambda h, d: fitted_of(d).update(_rng={"bit_generator": "MT19937"}), "_rng"),
        (lambda h, d: fitted_of(d)["classes_"].update(values=[1, 0]), "not sorted"),
        (lambda h, d: fitted_of(d)["classes_"].update(values=[0, 1, 2]), "prompts; expected 3"),
        (lambda h, d: fitted_of(d)["classes_"].update(dtype="U1"), "another type"),
        (lambda h, d: fitted_of(d)["classes_"].update(dtype="O"), "array of 'O'"),
        (lambda h, d: fitted_of(d).update(n_features_in_=7), "n_features_in_ is 7"),
        (lambda h, d: fitted_of(d).update(n_iter_=1), "but 1 were made"),
        (lambda h, d: fitted_of(d)["history_"][0].update(secret=1), "secret"),
        (lambda h, d: fitted_of(d)["baselines_"].update(mine=1), "mine"),
        (lambda h, d: control_of(d, "local_probe")["params"].update(n_scores=2), "local_probe.head has .'n_scores'"),
        (lambda h, d: control_of(d, "fused_zero_shot")["params"].update(n_scores=0), "n_scores=0; expected 2"),
        (lambda h, d: fitted_of(d)["probe_encoder_"]["fitted"].update(n_features_out_=7), "n_features_out_ is 7"),
        (lambda h, d: d["object"]["params"].update(local_encoder="hf-hub:someone/model"), "not one of|not an object"),
        (
            lambda h, d: d["object"]["params"].update(local_encoder={"kind": "TimmEncoder", "params": {}}),
            "has no batch_size",
        ),
        (lambda h, d: [d], "cannot be loaded"),
        (lambda h, d: d["object"].update(fitted=None), "cannot be loaded"),
        (lambda h, d: d["object"].update(fitted={}), "cannot be loaded"),
    ],
)
def test_hostile_files_with_the_right_checksum(change, message, saved, tmp_path):
    with pytest.raises(PersistenceError, match=message):
        load_bytes(tampered(saved[0], change), tmp_path)


def test_json_bombs(saved, tmp_path):
    data, _ = saved
    header, body = header_of(data), data[8 + int.from_bytes(data[:8], "little") :]
    for text in ("[" * 200_000, '{"a":1,"a":2}', "NaN", '{"x":1e999}', '{"x":' + "9" * 5_000 + "}", '"\ud800"', ""):
        header["__metadata__"]["blackvip"] = text
        with pytest.raises(PersistenceError):
            load_bytes(rebuilt(header, body), tmp_path)


@pytest.mark.parametrize(
    "data", [b"", b"x", b"\x00" * 8, b"\xff" * 100, (2**40).to_bytes(8, "little") + b"{}", b"\x80\x04N."]
)
def test_other_files(data, tmp_path):
    with pytest.raises(PersistenceError, match="cannot be loaded"):
        load_bytes(data, tmp_path)


def test_neither_large_files_nor_pipes_are_read(tmp_path, monkeypatch):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(3 * 2**30)
    with pytest.raises(PersistenceError, match="expected 2147483648 at most"):
        blackvip.load(tmp_path / "sparse")
    with pytest.raises(PersistenceError, match="not a file"):
        blackvip.load(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(PersistenceError, match="not a file"):
            blackvip.load(tmp_path / "pipe")


def test_loading_executes_and_imports_nothing(saved, tmp_path, programs):
    data, _ = saved
    (tmp_path / "good").write_bytes(data)
    evil = lambda h, d: d["object"].update(kind="evil_module.Evil")
    (tmp_path / "evil").write_bytes(tampered(data, evil))
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    code = """
import os, sys, blackvip
folder = sys.argv[1]
sys.path.insert(0, folder)


def read_all():
    blackvip.load(folder + "/good")
    try:
        blackvip.load(folder + "/evil")
    except blackvip.PersistenceError:
        return
    raise SystemExit("loaded")


def watch(event, args):
    writes = event == "open" and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if watching and (writes or event.split(".")[0] in watched):
        events.append((event, args))


events, watching = [], False
watched = ("import", "exec", "compile", "subprocess", "os", "socket", "ctypes", "pickle", "marshal")
sys.addaudithook(watch)
read_all()  # what the package itself imports late is imported now
watching = True
read_all()
watching = False
assert not events, events
"""
    done = programs.run("-c", code, tmp_path)
    assert done.returncode == 0, done.stderr


def mutated(data, rng):
    """The file with one to three changes to its bytes."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at, n = int(rng.integers(len(data))), int(rng.integers(1, 64))
        how = rng.integers(6)
        if how == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif how == 1:
            del data[at : at + n]
        elif how == 2:
            data[at:at] = rng.bytes(n)
        elif how == 3:
            del data[at:]
        elif how == 4:
            data[at : at + n] = rng.bytes(n)
        else:
            data[at:at] = data[at : at + n]
        if not data:
            break
    return bytes(data)


STRANGE = [None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.5, 1e-300, 1e99, 1e308]
STRANGE += ["", "auto", "a", "PCAEncoder", "../x", "\x00", "é", [], {}, [1], {"a": 1}, {"same": "prompter_"}]


def leaves_of(value, path=()):
    """The paths of all values of a JSON document."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield (*path, key)
        yield from leaves_of(part, (*path, key))


def restructured(data, rng):
    """The file with one value of its document or header changed or removed, or bytes of a tensor; checksum right."""
    n_bytes = int.from_bytes(data[:8], "little")
    header, body = header_of(data), bytearray(data[8 + n_bytes :])
    document = json.loads(header["__metadata__"]["blackvip"])
    how = rng.integers(10)
    if how < 2:
        at = int(rng.integers(len(body) - 8))
        body[at : at + 8] = rng.bytes(8) if how else np.float64(rng.choice([np.nan, np.inf, 1e300, -1.0])).tobytes()
    else:
        root = document if how < 8 else header
        paths = [path for path in leaves_of(root) if path[0] != "__metadata__"]
        *parents, key = paths[rng.integers(len(paths))]
        place = root
        for parent in parents:
            place = place[parent]
        if rng.random() < 0.15:
            del place[key]
        else:
            place[key] = STRANGE[rng.integers(len(STRANGE))]
    header["__metadata__"]["blackvip"] = json.dumps(document)
    return rebuilt(header, bytes(body))


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_mutations_are_refused_or_harmless(saved, tmp_path):
    data, _ = saved
    rng = np.random.default_rng(0)
    for _ in range(600):  # each kind of change a hundred times at least
        changed = mutated(data, rng)
        if changed != data:
            with pytest.raises(PersistenceError):
                load_bytes(changed, tmp_path)
    for parameters in ({"prompter": "basis"}, {"prompter": "coordinator"}):
        fitted(**parameters).save(tmp_path / "clf")
        data, n_loaded = (tmp_path / "clf").read_bytes(), 0
        for _ in range(400):
            try:
                clf = load_bytes(restructured(data, rng), tmp_path)
            except PersistenceError:
                continue
            n_loaded += 1  # a change of a figure of the history, say: the model is a valid one still
            proba = clf.predict_proba(X)
            assert proba.shape == (len(X), 2)
            np.testing.assert_allclose(proba.sum(axis=1), 1)
        assert 0 < n_loaded < 320


def test_every_byte_is_under_the_checksum(saved, tmp_path):
    data, _ = saved
    positions = [*range(0, 400), *range(400, len(data), 997), len(data) - 1]
    digest = re.search(rb'"sha256":"', data).end()
    for at in (*positions, *range(digest, digest + 64)):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(PersistenceError):
            load_bytes(bytes(changed), tmp_path)


def test_a_cache_of_features_is_no_part_of_a_file_nor_is_its_place(tmp_path):
    coordinator = Coordinator(CachedEncoder(PCAEncoder(3), tmp_path / "features")).fit(X)
    assert (tmp_path / "features").exists() is False  # nothing has been encoded
    prompted = coordinator.transform(X)
    assert (tmp_path / "features").exists()
    coordinator.save(tmp_path / "coordinator.blackvip")
    assert str(tmp_path).encode() not in (tmp_path / "coordinator.blackvip").read_bytes()
    same = blackvip.load(tmp_path / "coordinator.blackvip")
    np.testing.assert_array_equal(same.transform(X), prompted)
    assert (same.encoder.path, same.encoder_.path) == (None, None)
    assert same.encoder_.key_ == coordinator.encoder_.key_
