"""What a process has set for NumPy and torch changes no result."""

import sys
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from conftest import RowReader, ToyService, make_stripes
from test_open_clip import CONFIGS, checkpoints  # noqa: F401

import blackvip
from blackvip import (
    SPSAGC,
    AReSClassifier,
    BlackVIPClassifier,
    BlackVIPPrompter,
    CalibratedHead,
    Coordinator,
    GradientEncoder,
    PaddingFrame,
    PCAEncoder,
    ReprogrammingFrame,
    ScratchEncoder,
    TimmEncoder,
    WhiteBoxClassifier,
)
from blackvip.process.settings import usual_settings
from blackvip.scorers import LabelMappedScorer, OpenCLIPScorer, ScoreFormat

pytestmark = pytest.mark.filterwarnings(
    "ignore::blackvip.PromptNotUsedWarning", "ignore::blackvip.exceptions.HeadNotHelpfulWarning"
)

X, y = make_stripes(n=12, n_classes=3, background=0.6)
LABELS = np.array(["left", "middle", "right"])[y]
TINY = {"a": 0.01, "c": 0.1, "guard": False, "batch_size": 2, "max_queries": 80}


def steep(images, class_prompts, gain=300):
    """Probabilities that underflow."""
    with np.errstate(all="ignore"):
        scores = ToyService(gain=gain, glare=0.7)(images, class_prompts)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)


def fitted(service=None, images=X, **parameters):
    defaults = dict(prompter="basis", max_queries=200, random_state=0, verbose=0)
    clf = BlackVIPClassifier(service or ToyService(glare=0.7), "{}", **{**defaults, **parameters})
    return clf.fit(images, LABELS)


def outcome(clf, tmp_path, images=X):
    clf.save(tmp_path / "clf")
    loaded = blackvip.load(tmp_path / "clf", clf.score_fn)
    proba, w = loaded.predict_proba(images), clf.prompter_.parameters_
    return [proba, clf.predict_proba(images), w, clf.prompter_.transform(images), clf.predict(images)]


def labels_of_its_own(images, class_prompts):
    return steep(images, class_prompts, gain=6)


def partial(path):
    clf = BlackVIPClassifier(ToyService(glare=0.7), "{}", **{**TINY, "max_queries": 200}, random_state=0, verbose=0)
    for _ in range(2):
        clf.partial_fit(X, LABELS)
    return outcome(clf, path)


PARTS = {
    "basis": lambda path: outcome(fitted(), path),
    "probabilities": lambda path: outcome(fitted(steep, head="fused"), path),
    "floats": lambda path: outcome(fitted(images=X / 255), path, X / 255),
    "coordinator": lambda path: outcome(fitted(prompter="coordinator", **(TINY | {"max_queries": 900})), path),
    "scratch": lambda path: [Coordinator(ScratchEncoder()).fit(X).transform(X), ScratchEncoder().fit(X).transform(X)],
    "timm": lambda path: [TimmEncoder("test_resnet.r160_in1k", pretrained=False).fit(X[:2]).transform(X[:2])],
    "frame": lambda path: outcome(fitted(prompter=PaddingFrame(1), augment="crop-flip", loss="focal", **TINY), path),
    "reprogramming": lambda path: outcome(fitted(prompter=ReprogrammingFrame(), head=None, **TINY), path),
    "cma-es, pca": lambda path: outcome(fitted(optimizer="cma-es", local_encoder="pca", temperature=1.0), path),
    "checkpoint": lambda path: outcome(fitted(optimizer=SPSAGC(n_directions=2), checkpoint=f"{path}/f/"), path),
    "partial_fit": partial,
    "labels": lambda path: outcome(fitted(LabelMappedScorer(labels_of_its_own, ["u", "v", "w", "x"])), path),
    "transformer": lambda path: [BlackVIPPrompter(fitted()).fit(X, LABELS).transform(X)],
    "ares": lambda path: [
        AReSClassifier(RowReader(), ["a", "b", "c"], random_state=0, verbose=0).fit(X, y).predict_proba(X)
    ],
    "white box": lambda path: [
        WhiteBoxClassifier(RowReader(), ["a", "b", "c"], random_state=0).fit(X, y).predict_proba(X)
    ],
    "encoders": lambda path: [encoder.fit(X).transform(X) for encoder in (GradientEncoder(), PCAEncoder())],
    "head": lambda path: [
        CalibratedHead().fit(np.log(steep(X, "abc", gain=4000) + 1e-300), y).predict_proba(np.eye(3))
    ],
    "plan": lambda path: [
        np.array(str(BlackVIPClassifier(ToyService(), "{}", prompter="basis", max_queries=200).plan(X, LABELS)))
    ],
}


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def seterr():
    before = np.seterr(all="raise")
    try:
        yield
    finally:
        np.seterr(**before)


@contextmanager
def everything():
    with warnings.catch_warnings(), seterr(), default_dtype(torch.float16), default_device("meta"):
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", blackvip.PromptNotUsedWarning)
        warnings.simplefilter("ignore", blackvip.exceptions.HeadNotHelpfulWarning)
        yield


def forget():
    """Empty all caches, so that nothing is there from a call with other settings."""
    for name, module in list(sys.modules.items()):
        if name.startswith("blackvip"):
            for value in vars(module).values():
                getattr(value, "cache_clear", lambda: None)()


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


@pytest.mark.filterwarnings(
    "ignore::blackvip.PromptNotUsedWarning", "ignore::blackvip.exceptions.HeadNotHelpfulWarning"
)
@pytest.mark.parametrize("part", PARTS)
def test_the_settings_of_a_process_change_no_result(part, tmp_path):
    expected = PARTS[part](tmp_path)
    forget()
    (tmp_path / "again").mkdir()
    with everything():
        found = PARTS[part](tmp_path / "again")
    forget()
    assert_same(found, expected)


@pytest.mark.filterwarnings(
    "ignore::blackvip.PromptNotUsedWarning", "ignore::blackvip.exceptions.HeadNotHelpfulWarning"
)
@pytest.mark.parametrize(
    "setting",
    [
        lambda: np.errstate(all="raise"),
        seterr,
        lambda: default_dtype(torch.float64),
        lambda: default_dtype(torch.bfloat16),
        lambda: default_device("meta"),
        lambda: torch.device("meta"),
    ],
)
def test_each_setting_alone_changes_no_result(setting, tmp_path):
    expected = PARTS["probabilities"](tmp_path)
    forget()
    before = np.geterr(), torch.get_default_dtype(), torch.empty(0).device
    with setting():
        found = PARTS["probabilities"](tmp_path)
    forget()
    assert_same(found, expected)
    assert (np.geterr(), torch.get_default_dtype(), torch.empty(0).device) == before


@pytest.mark.parametrize("streams", [False, True])
def test_a_score_function_has_the_device_and_type_that_its_user_has_set(streams):
    found = set()

    def service(images, class_prompts):
        found.add((torch.zeros(1).device.type, torch.zeros(1).dtype))
        return ToyService(glare=0.7)(images, class_prompts)

    class Streaming:
        def __call__(self, images, class_prompts):
            raise AssertionError

        def answers(self, images, class_prompts):
            for row in range(len(images)):
                yield [row], service(images[[row]], class_prompts)

    with default_device("meta"), default_dtype(torch.float64):
        fitted(Streaming() if streams else service).predict(X)
        assert torch.zeros(1).device.type == "meta"
    assert found == {("meta", torch.float64)}


def test_probabilities_that_underflow_give_finite_parameters():
    assert np.isfinite(fitted(lambda images, prompts: steep(images, prompts, gain=4000)).prompter_.parameters_).all()
    smallest = np.finfo(float).smallest_subnormal
    assert np.isfinite(ScoreFormat("probabilities", 0.0).log_scores(np.array([[1.0, smallest, 0.0]]))).all()


def test_settings_come_back_after_an_error():
    def failing(images, class_prompts):
        raise RuntimeError("the service is down")

    with default_device("meta"), seterr():
        with pytest.raises(RuntimeError, match="is down"):
            fitted(failing)
        assert torch.zeros(1).device.type == "meta"
        assert set(np.geterr().values()) == {"raise"}
        with usual_settings(), usual_settings():
            assert torch.zeros(1).device.type == "cpu"
        assert torch.zeros(1).device.type == "meta"


def test_open_clip_models_are_the_same(checkpoints):  # noqa: F811
    name = next(iter(CONFIGS))
    scores = [OpenCLIPScorer(name, checkpoints[name], device="cpu")(X[:3], ["a", "b"])]
    with everything():
        scores.append(OpenCLIPScorer(name, checkpoints[name], device="cpu")(X[:3], ["a", "b"]))
    assert_same(scores[1:], scores[:1])
