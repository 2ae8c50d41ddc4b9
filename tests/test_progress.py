"""The progress bar of a fit, and processes without a standard error."""

import io
import sys
import threading
import time
from contextlib import redirect_stderr

import numpy as np
import pytest
from conftest import ToyService

from blackvip import BlackVIPClassifier
from blackvip.training import progress

pytestmark = pytest.mark.filterwarnings("ignore::blackvip.PromptNotUsedWarning")


class Terminal(io.StringIO):
    """A terminal that keeps what is written, and when."""

    def __init__(self):
        super().__init__()
        self.times = []

    def isatty(self):
        return True

    def write(self, text):
        self.times.append(time.monotonic())
        return super().write(text)


class Broken(Terminal):
    def write(self, text):
        raise OSError(5, "Input/output error")

    def flush(self):
        self.write("")


def fit(terminal, service, X, y, **parameters):
    # pytest replaces the standard error before each phase of a test, so that a fixture could not.
    with redirect_stderr(terminal):
        return make_classifier(service, **parameters).fit(X, y)


def make_classifier(service, **parameters):
    defaults = dict(prompter="basis", head="calibrated", max_queries=600, random_state=0)
    return BlackVIPClassifier(service, "stripe {}", **{**defaults, **parameters})


@pytest.fixture
def terminal():
    return Terminal()


def test_the_bar_tells_stages_and_money_and_ends_at_100_percent(terminal, stripes, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("LINES", "50")
    service = ToyService()
    service.price_per_image = 0.25
    clf = fit(terminal, service, *stripes)
    assert clf.n_queries_ < 600
    text = terminal.getvalue()
    places = [text.index(f"BlackVIP, {stage}:") for stage in ("baselines", "training", "heads")]
    assert places == sorted(places)
    last = text.rstrip().split("\r")[-1]
    assert last.startswith("BlackVIP, heads: 100%")
    assert f" {clf.n_queries_}/{clf.n_queries_} " in last
    assert f"spent={clf.n_queries_ * 0.25:.2f}, loss=" in last
    assert text.endswith("\n")


@pytest.mark.parametrize(
    ("price", "n", "text"), [(0.0006, 40, "0.024"), (0.0015, 1976, "2.964"), (1, 12345, "12,345.00")]
)
def test_money_has_the_digits_that_matter(price, n, text):
    assert progress._money(price * n) == text


def test_without_a_price_no_money_is_shown(terminal, stripes):
    fit(terminal, ToyService(), *stripes, patience=1, validation_fraction=0.25)
    assert "spent" not in terminal.getvalue()
    assert "100%" in terminal.getvalue().split("\r")[-1]


def test_the_bar_is_never_silent_for_long_and_its_thread_ends(terminal, stripes, monkeypatch):
    assert progress._SECONDS <= 2.5
    monkeypatch.setattr(progress, "_SECONDS", 0.05)
    before = set(threading.enumerate())

    def slow(images, class_prompts):
        time.sleep(0.4 if len(terminal.times) < 20 else 0)
        return ToyService()(images, class_prompts)

    fit(terminal, slow, *stripes, max_queries=160)
    assert np.diff(terminal.times).max() < 0.3
    assert set(threading.enumerate()) <= before

    def failing(images, class_prompts):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(terminal, failing, *stripes)
    assert "100%" not in terminal.getvalue().split("\r")[-1]
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("verbose", [0, False])
def test_nothing_is_printed_if_it_is_off(verbose, terminal, stripes, tmp_path, capfd):
    service = ToyService()
    service.price_per_image = 1
    with redirect_stderr(terminal):
        clf = make_classifier(service, verbose=verbose, checkpoint=tmp_path / "journal").fit(*stripes)
        clf.predict_to(tmp_path / "p.csv", stripes[0], verbose=0)
        clf.plan(*stripes)
    assert terminal.getvalue() == ""
    assert capfd.readouterr() == ("", "")


def test_predictions_have_a_bar_of_the_same_kind(terminal, tmp_path, stripes):
    clf = make_classifier(ToyService(), verbose=0).fit(*stripes)
    with redirect_stderr(terminal):
        clf.predict_to(tmp_path / "p.csv", stripes[0])
    assert "predict: 100%" in terminal.getvalue()


closed = io.StringIO()
closed.close()


@pytest.mark.parametrize(
    ("name", "stream", "verbose"),
    [
        ("stderr", None, 1),
        ("stderr", None, 2),
        ("stderr", closed, 1),
        ("stderr", closed, 2),
        ("stderr", Broken(), 1),
        ("stderr", object(), 2),
        ("stdout", None, 1),
    ],
)
def test_a_process_without_a_standard_stream_is_like_any_other(name, stream, verbose, stripes, tmp_path, monkeypatch):
    expected = make_classifier(ToyService(), max_queries=160, verbose=0).fit(*stripes)
    monkeypatch.setattr(sys, name, stream)
    clf = make_classifier(ToyService(), max_queries=160, verbose=verbose).fit(*stripes)
    clf.predict_to(tmp_path / "p.csv", stripes[0], verbose=verbose)
    np.testing.assert_array_equal(clf.predict_proba(stripes[0]), expected.predict_proba(stripes[0]))
    assert clf.history_ == expected.history_
