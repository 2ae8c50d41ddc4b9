"""Ctrl-C at each stage of a fit, by real signals: in scripts and notebooks, with a checkpoint and without."""

import os
import signal
import sys
import types

import numpy as np
import pytest
from conftest import ToyService, make_stripes
from sklearn.model_selection import GridSearchCV

from blackvip import BlackVIPClassifier, CalibratedHead, FitInterruptedWarning

pytestmark = pytest.mark.filterwarnings("ignore::blackvip.PromptNotUsedWarning")

#: The call of the service during which Ctrl-C comes; the fit makes 16.
CALLS = {"baselines": 1, "training": 6, "final scores": 16}


class Interrupted(ToyService):
    """A service during whose calls of given numbers Ctrl-C comes."""

    #: Its answers depend on none of them.
    identity_params = ()

    def __init__(self, at=()):
        super().__init__(glare=0.7)
        self.at = at

    def __call__(self, images, class_prompts):
        scores = super().__call__(images, class_prompts)
        if len(self.calls) in self.at:
            signal.raise_signal(signal.SIGINT)
        return scores


class InterruptedHead(CalibratedHead):
    """A head during whose fits with the prompt Ctrl-C comes."""

    times = 0

    def fit_scored(self, data):
        # The head without the prompt is fitted in a thread, which signals do not reach.
        if InterruptedHead.times and not np.array_equal(data.columns, self.plain):
            InterruptedHead.times -= 1
            signal.raise_signal(signal.SIGINT)
        return super().fit_scored(data)


def make_classifier(service, **parameters):
    defaults = dict(
        prompter="basis", head="calibrated", max_queries=500, a=0.05, c=0.1, guard=False, random_state=0, verbose=0
    )
    return BlackVIPClassifier(service, "stripe {}", **{**defaults, **parameters})


@pytest.fixture
def data():
    return make_stripes(n=24, n_classes=3, background=0.6)


@pytest.fixture
def uninterrupted(data):
    return make_classifier(Interrupted()).fit(*data)


@pytest.fixture(params=["script", "prompt", "notebook"])
def place(request, monkeypatch):
    monkeypatch.delattr(sys, "ps1", raising=False)
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    if request.param == "prompt":
        monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    if request.param == "notebook":
        monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: object()))
    return request.param


@pytest.mark.parametrize("stage", ["training", "final scores"])
def test_ctrl_c_ends_a_script_that_can_resume_and_only_the_training_elsewhere(
    stage, place, data, tmp_path, uninterrupted
):
    service = Interrupted({CALLS[stage]})
    clf = make_classifier(service, checkpoint=tmp_path / "journal")
    if place == "script":
        with pytest.raises(KeyboardInterrupt) as raised:
            clf.fit(*data)
        assert "Call fit again to resume" in raised.value.__notes__[0]
        assert len(service.calls) == CALLS[stage]  # nothing is sent after it
        assert not clf.prompt_used_
    else:
        with pytest.warns(FitInterruptedWarning):
            clf.fit(*data)
        assert clf.prompt_used_ == (stage == "training")
    assert clf.termination_reason_ == "interrupted"
    assert clf.n_queries_ == service.n_images
    assert clf.predict(data[0]).shape == (24,)

    known = sum(len(images) for images, _ in service.calls[: CALLS[stage] - 1])
    service = Interrupted()
    resumed = make_classifier(service, checkpoint=tmp_path / "journal").fit(*data)
    assert resumed.termination_reason_ == "budget"
    assert service.n_images == 496 - known
    np.testing.assert_array_equal(resumed.prompter_.parameters_, uninterrupted.prompter_.parameters_)
    np.testing.assert_array_equal(resumed.head_.coef_, uninterrupted.head_.coef_)


def test_without_a_checkpoint_the_training_ends_and_a_second_ctrl_c_is_raised(data):
    with pytest.warns(FitInterruptedWarning, match="uses the best prompt so far"):
        clf = make_classifier(Interrupted({6})).fit(*data)
    assert clf.n_iter_ == 4
    clf = make_classifier(Interrupted({6, 7}))
    with pytest.raises(KeyboardInterrupt):
        clf.fit(*data)
    assert (clf.n_iter_, clf.termination_reason_, clf.prompt_used_) == (4, "interrupted", False)
    assert clf.predict(data[0]).shape == (24,)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_ctrl_c_during_the_baselines_is_raised_and_the_estimator_can_be_fitted(checkpoint, data, tmp_path):
    service = Interrupted({1})
    clf = make_classifier(service, checkpoint=tmp_path / "journal" if checkpoint else None)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(*data)
    assert (clf.n_queries_, service.n_images) == (24, 24)
    assert clf.fit(*data).n_queries_ == 496


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_while_heads_are_fitted_loses_nothing_that_was_paid_for(times, data, monkeypatch, uninterrupted):
    monkeypatch.setattr(InterruptedHead, "times", 1)
    monkeypatch.setattr(InterruptedHead, "plain", uninterrupted._scored.plain, raising=False)
    service = Interrupted({CALLS["training"]} if times == 2 else ())
    clf = make_classifier(service, head=InterruptedHead())
    with pytest.raises(KeyboardInterrupt) if times == 2 else pytest.warns(FitInterruptedWarning):
        clf.fit(*data)
    assert clf.termination_reason_ == "interrupted"
    assert clf.n_queries_ == service.n_images
    assert clf.prompt_used_
    assert list(clf.baselines_) == ["zero_shot"]
    assert clf.score(*data) > 0.8


def test_ctrl_c_on_the_lowest_rung_bills_no_further_image(data, monkeypatch):
    def interrupted(*args):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr("blackvip.training.outcomes.decide", interrupted)
    service = Interrupted()
    with pytest.warns(FitInterruptedWarning):
        clf = make_classifier(service, prompter="auto", guard=True).fit(*data)
    assert (clf.n_queries_, service.n_images, clf.termination_reason_) == (24, 24, "interrupted")
    assert clf.predict(data[0]).shape == (24,)


def test_ctrl_c_after_an_error_is_raised(data):
    service = Interrupted({7})
    service.fail_at = 6

    def failing(images, class_prompts):
        if len(service.calls) == 5:
            service.calls.append(None)
            raise RuntimeError("the service is down")
        service.fail_at = None
        return service(images, class_prompts)

    with pytest.raises(KeyboardInterrupt) as raised:
        make_classifier(failing).fit(*data)
    assert str(raised.value.__cause__) == "the service is down"


def test_ctrl_c_ends_a_search_that_can_resume(data, tmp_path):
    service = Interrupted({20})
    clf = make_classifier(service, checkpoint=f"{tmp_path}{os.sep}")
    search = GridSearchCV(clf, {"batch_size": [8, 16]}, cv=2)
    with pytest.raises(KeyboardInterrupt):
        search.fit(*data)
    assert len(service.calls) == 20


SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
from conftest import ToyService, make_stripes
from blackvip import BlackVIPClassifier

def service(images, class_prompts):
    print(len(images), flush=True)
    time.sleep(0.05)
    return ToyService(glare=0.7)(images, class_prompts)

settings = dict(prompter="basis", max_queries=500, random_state=0)
clf = BlackVIPClassifier(service, verbose={verbose}, checkpoint={journal!r}, **settings)
try:
    clf.fit(*make_stripes(n=24, n_classes=3, background=0.6))
except Exception:
    print("swallowed", flush=True)
print("ended", flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="sends a signal to a process")
def test_a_script_stops_and_its_next_run_pays_for_no_answer_twice(tmp_path, programs):
    script = SCRIPT.format(tests=os.path.dirname(__file__), journal=str(tmp_path / "journal"), verbose=2)
    with programs.start("-c", script) as process:
        lines = [process.stdout.readline() for _ in range(5)]
        os.kill(process.pid, signal.SIGINT)
        rest, error = process.communicate()
    assert process.returncode == -signal.SIGINT
    assert "ended" not in rest
    assert "swallowed" not in rest
    assert error.rstrip().splitlines()[-1].startswith("The answers so far are in")
    sent = sum(map(int, "".join(lines).split())) + sum(map(int, rest.split()))
    assert os.listdir(tmp_path) == ["journal"]  # closed, without a write-ahead log

    again = programs.run("-c", script)
    assert again.returncode == 0
    assert again.stdout.split()[-1] == "ended"
    # The images of the call that was interrupted got no answer.
    assert sent - 32 <= 496 - sum(map(int, again.stdout.split()[:-1])) <= sent
