"""Asking in portions: the same scores, in calls of the size that was asked for, and never too much at once."""

import threading

import numpy as np
import pytest
from conftest import ToyService, make_stripes
from sklearn import config_context, get_config

from blackvip.inputs.images import ImageFormat
from blackvip.scorers import Ledger, ScoreReader
from blackvip.scorers.background import BackgroundThread, prefetch
from blackvip.scorers.scoring import score_columns_of, score_columns_of_each, score_images

PROMPTS = ["left", "right"]


class Streaming(ToyService):
    """A service with `answers`; it notes how many images it was asked for at once."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def answers(self, images, class_prompts):
        self.asked.append(len(images))
        yield np.arange(len(images)), self(images, class_prompts)


@pytest.mark.parametrize(
    ("service", "images_per_call", "sizes"),
    [(ToyService(), 30, [30, 30, 30, 10]), (ToyService(), None, [64, 36]), (Streaming(), None, [64, 36])],
)
def test_scores_are_those_of_one_call(service, images_per_call, sizes):
    X, _ = make_stripes(n=100)
    _, images = ImageFormat.learn(X)
    rows = np.random.default_rng(0).permutation(100)
    ledger = Ledger(service, PROMPTS, images_per_call=images_per_call, reader=ScoreReader("logits"))
    scores = score_columns_of(ledger, images, rows, lambda pixels: 1 - pixels)
    assert [len(sent) for sent, _ in service.calls] == sizes
    np.testing.assert_array_equal(scores, ToyService()(255 - X[rows], PROMPTS))
    assert score_columns_of(ledger, images, rows[:0]).shape == (0, 2)


@pytest.mark.parametrize("service", [ToyService(), Streaming()])
def test_the_next_drawing_is_made_while_the_service_answers(service):
    X, _ = make_stripes(n=100)
    _, images = ImageFormat.learn(X)
    rows, threads = np.random.default_rng(0).permutation(100), set()
    ledger = Ledger(service, PROMPTS, reader=ScoreReader("logits"))

    def inverted(pixels):
        threads.add(threading.current_thread())
        return 1 - pixels

    plain, other = score_columns_of_each(ledger, images, rows, [lambda pixels: pixels, inverted])
    np.testing.assert_array_equal(plain, ToyService()(X[rows], PROMPTS))
    np.testing.assert_array_equal(other, ToyService()(255 - X[rows], PROMPTS))
    assert [len(sent) for sent, _ in service.calls] == [64, 36, 64, 36]
    assert threading.current_thread() not in threads


def test_more_and_more_are_asked_for_at_once_as_far_as_memory_goes(monkeypatch):
    X, _ = make_stripes(n=1000)
    _, images = ImageFormat.learn(X)
    for most, sizes in ((64 * 2**20, [64, 128, 256, 512, 40]), (8 * 8 * 3 * 100, [64, *[100] * 9, 36])):
        monkeypatch.setattr("blackvip.scorers.scoring._MOST_BYTES", most)
        service = Streaming()
        score_columns_of(Ledger(service, PROMPTS, reader=ScoreReader("logits")), images, np.arange(1000))
        assert service.asked == sizes


def test_features_are_of_the_images_as_they_are():
    X, _ = make_stripes(n=100)
    _, images = ImageFormat.learn(X)
    ledger = Ledger(ToyService(), PROMPTS, reader=ScoreReader("logits"))
    parts = list(score_images(ledger, images, np.arange(100), lambda pixels: 0 * pixels, lambda x: x.numpy()))
    np.testing.assert_array_equal(np.concatenate([rows for rows, _, _ in parts]), np.arange(100))
    np.testing.assert_array_equal(np.concatenate([features for _, _, features in parts]), images.pixels(slice(None)))


def test_a_portion_is_made_while_the_one_before_is_in_use():
    begun = [threading.Event() for _ in range(3)]

    def things():
        for event in begun:
            event.set()
            yield event

    for event, after in zip(prefetch(things()), [*begun[1:], None]):
        assert event.is_set()
        assert after is None or after.wait(10)


def test_an_error_of_what_is_made_comes_in_its_place():
    def things():
        yield 1
        raise ValueError("no second")

    ahead = prefetch(things())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="no second"):
        next(ahead)


def test_a_data_set_is_read_by_one_thread_at_a_time():
    class Touchy:
        """Rows of which two must not be read at once, as of many files that hold data sets."""

        def __init__(self, X):
            self.X, self.reading = X, 0

        def __len__(self):
            return len(self.X)

        def __getitem__(self, row):
            self.reading += 1
            assert self.reading == 1
            threading.Event().wait(0.001)
            self.reading -= 1
            return self.X[row]

    X, _ = make_stripes(n=40)
    _, images = ImageFormat.learn(Touchy(list(X)))
    with BackgroundThread() as background:
        other = background.submit(images.pixels, slice(None))
        np.testing.assert_array_equal(images.pixels(slice(None)), other.result())


def test_background_work_has_the_configuration_of_its_caller():
    with BackgroundThread() as background, config_context(assume_finite=True):
        assert background.submit(get_config).result()["assume_finite"]
