"""HTTPScorer as a score function: order, concurrency, limits, formats, copies."""

import base64
import io
import itertools
import json
import os
import pickle
import signal
import threading
import time

import joblib
import numpy as np
import pytest
from PIL import Image
from servers.app import stripe_scores
from servers.shared import PROMPTS, Own, make_images, scorer_of
from sklearn.base import clone

from blackvip import BlackVIPClassifier
from blackvip.exceptions import ImageError
from blackvip.scorers import Ledger
from blackvip.scorers.http import Adapter, HTTPScorer, KServe, ServiceError, concurrency, media_type
from blackvip.scorers.http.encoding import allowed_size, encode_image, to_tensor
from blackvip.scorers.identity import service_identity


@pytest.fixture
def service(remote):
    remote.control()
    return remote


def test_scores_are_in_the_order_of_the_images(service):
    images = make_images(23)
    for images_per_request in (1, 5, None):
        scores = scorer_of(service, images_per_request=images_per_request)(images, PROMPTS)
        assert scores.dtype == np.float64
        assert np.array_equal(scores, stripe_scores(images, 3))
    assert service.counts()["requests"] == 23 + 5 + 2


def test_answers_come_as_they_are_ready_and_each_row_once(service):
    service.control(latency=0.05)
    images = make_images(30)
    seen, pieces = np.full((30, 3), np.nan), 0
    for rows, scores in scorer_of(service, n_concurrent=4).answers(images, PROMPTS):
        assert np.isnan(seen[rows]).all()
        seen[rows] = scores
        pieces += 1
    assert np.array_equal(seen, stripe_scores(images, 3))
    assert pieces > 5


def test_no_images_ask_nothing(service):
    scorer = scorer_of(service)
    assert scorer(make_images(0), PROMPTS).shape == (0, 3)
    assert list(scorer.answers(make_images(0), PROMPTS)) == []
    assert service.counts()["requests"] == 0


@pytest.mark.parametrize("images", [np.zeros((2, 4, 4, 3)), np.zeros((4, 4, 3), np.uint8), np.zeros((2, 4, 4), int)])
def test_what_are_no_images_is_refused(service, images):
    with pytest.raises(ImageError, match="expected \\(n, h, w, 3\\), uint8"):
        scorer_of(service)(images, PROMPTS)


def test_so_many_requests_at_a_time_on_as_many_connections(service):
    service.control(latency=0.1)
    scorer = scorer_of(service, n_concurrent=7)
    for _ in range(3):
        scorer(make_images(21), PROMPTS)
    counts = service.counts()
    assert counts["most_in_flight"] == 7
    assert counts["connections"] == 7
    assert scorer.n_requests_ == counts["requests"] == 63


def test_calls_at_the_same_time_share_the_limit(service):
    service.control(latency=0.05)
    scorer = scorer_of(service, n_concurrent=3)
    images = make_images(10)
    threads = [threading.Thread(target=scorer, args=(images, PROMPTS)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = service.counts()
    assert counts["most_in_flight"] == 3
    assert counts["images"] == 40


def test_so_many_requests_in_a_second(service):
    scorer = scorer_of(service, requests_per_second=50.0)
    scorer(make_images(25), PROMPTS)
    starts = np.array(service.counts()["starts"])
    assert starts[-1] - starts[0] > 0.5 * 24 / 50  # no faster; how much slower is the machine's affair


def test_closed_early_nothing_else_is_sent(service):
    service.control(latency=0.05)
    answers = scorer_of(service, n_concurrent=2).answers(make_images(100), PROMPTS)
    next(answers)
    answers.close()
    while any(thread.name == "blackvip-http" for thread in threading.enumerate()):  # what was under way arrives
        time.sleep(0.02)
    assert 0 < service.counts()["requests"] < 100


def test_ctrl_c_keeps_what_is_under_way(service):
    interrupted, numbers = threading.Event(), itertools.count()
    images, got = make_images(40), []

    class Held(Own):
        """All answers but the first four are held until Ctrl-C has come."""

        images_per_request = 1

        def scores(self, answer, class_prompts):
            assert next(numbers) < 4 or interrupted.wait(60)
            return super().scores(answer, class_prompts)

    def interrupt(number, frame):
        # The four are read, and others are waited for: at another moment, the loop below would be interrupted.
        if len(got) == 4 and frame.f_code is concurrency._wait.__code__:
            interrupted.set()
            raise KeyboardInterrupt

    def press():
        while not interrupted.wait(0.05):
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, interrupt)
    presser = threading.Thread(target=press)
    presser.start()
    try:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            for rows, _ in scorer_of(service, Held(), n_concurrent=4).answers(images, PROMPTS):
                got += rows.tolist()
    finally:
        interrupted.set()
        presser.join()
        signal.signal(signal.SIGINT, before)
    counts = service.counts()
    assert counts["images"] == counts["requests"] == len(got)  # all that was sent is kept
    assert 4 < len(got) < 40


def test_clones_pickles_and_joblib_files_hold_parameters_alone(service, tmp_path):
    scorer = scorer_of(service, n_concurrent=2)
    images = make_images(3)
    expected = scorer(images, PROMPTS)
    joblib.dump(scorer, tmp_path / "scorer.joblib")
    copies = [clone(scorer), pickle.loads(pickle.dumps(scorer)), joblib.load(tmp_path / "scorer.joblib")]
    for copied in copies:
        assert copied.n_requests_ == 0
        assert "_live" not in vars(copied)
        assert np.array_equal(copied(images, PROMPTS), expected)
    assert scorer.n_requests_ == 3


def test_a_parameter_that_is_set_later_counts(service):
    scorer = scorer_of(service, n_concurrent=1, image_format="png")
    scorer(make_images(2), PROMPTS)
    scorer.set_params(url=service.url + "/other", n_concurrent=3)
    scorer(make_images(2), PROMPTS)
    assert service.counts()["seen"]["path"] == "/other"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_concurrent": 0}, "'n_concurrent' parameter"),
        ({"timeout": 0}, "'timeout' parameter"),
        ({"image_format": "gif"}, "'image_format' parameter"),
        ({"image_format": "raw"}, "image_format='raw' was given, but Own takes 'png'"),
        ({"adapter": Adapter}, "'adapter' parameter"),
        ({"url": "ftp://host"}, "is not the url of a service"),
        ({"url": "host/path"}, "is not the url of a service"),
    ],
)
def test_parameters_are_checked_before_anything_is_sent(service, parameters, message):
    with pytest.raises(ValueError, match=message):
        scorer_of(service).set_params(**parameters)(make_images(1), PROMPTS)


def test_no_more_images_in_a_request_than_the_adapter_takes(service):
    class Single(Own):
        images_per_request = 1

    with pytest.raises(ValueError, match="images_per_request=2 was given, but Single takes at most 1"):
        scorer_of(service, Single(), images_per_request=2)(make_images(2), PROMPTS)


def test_an_adapter_without_methods_says_so(service):
    with pytest.raises(NotImplementedError, match="Adapter has no method request"):
        scorer_of(service, Adapter())(make_images(1), PROMPTS)


# 771 rows of 28 pixels, each after a byte for its filter, fill a block of 65,535 bytes.
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (224, 224), (771, 28), (772, 28)])
@pytest.mark.parametrize("compressed", [True, False])
def test_png_keeps_every_pixel(size, compressed):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = encode_image(image, compressed=compressed)
    with Image.open(io.BytesIO(file)) as opened:
        opened.verify()  # the chunks' checksums
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(file))), image)
    assert media_type(file) == "image/png"


def test_png_of_few_colours_is_small():
    image = np.zeros((224, 224, 3), np.uint8)
    image[50:80, 30:200] = (200, 10, 40)
    assert len(encode_image(image)) < 2000 < 150_000 < len(encode_image(image, compressed=False))


def test_jpeg_is_smaller_with_less_quality_and_close():
    y, x = np.mgrid[:64, :64]
    image = np.stack([x * 4, y * 4, (x + y) * 2], axis=2).astype(np.uint8)
    good, poor = (encode_image(image, "jpeg", quality) for quality in (95, 20))
    assert len(poor) < len(good) < len(encode_image(image, "jpeg", 100))
    assert media_type(good) == "image/jpeg"
    assert np.abs(np.asarray(Image.open(io.BytesIO(good))).astype(int) - image).mean() < 4


def test_jpeg_goes_out_where_it_is_asked_for(service):
    images = make_images(2, side=32)
    scores = scorer_of(service, image_format="jpeg", jpeg_quality=90)(images, PROMPTS)
    expected = [np.asarray(Image.open(io.BytesIO(encode_image(image, "jpeg", 90)))) for image in images]
    assert np.array_equal(scores, stripe_scores(np.stack(expected), 3))
    assert not np.array_equal(scores, stripe_scores(images, 3))


@pytest.mark.parametrize(
    ("size", "low", "high", "expected"),
    [
        ((48, 48), None, None, (48, 48)),
        ((48, 48), 80, None, (80, 80)),
        ((48, 24), 80, 4096, (160, 80)),
        ((4096, 1024), 80, 2048, (2048, 512)),
        ((100, 100), 80, 100, (100, 100)),
        ((33, 77), 50, None, (50, 117)),
    ],
)
def test_sizes_within_a_services_bounds(size, low, high, expected):
    assert allowed_size(size, low, high) == expected


def test_a_shape_that_fits_no_bounds_is_an_error():
    with pytest.raises(ImageError, match="10 x 200 pixels .* at least 50 and at most 300"):
        allowed_size((10, 200), 50, 300)


def test_images_are_enlarged_to_what_the_service_takes(service):
    class Large(Own):
        min_size = 40

    image = np.tile(np.repeat(np.array([0, 120, 240], np.uint8), 8)[None, None, :, None], (1, 24, 1, 3))
    assert scorer_of(service, Large())(image, PROMPTS) == pytest.approx(stripe_scores(image, 3), abs=0.05)
    sent = json.loads(service.counts()["seen"]["body"])["images"][0]
    assert Image.open(io.BytesIO(base64.b64decode(sent))).size == (40, 40)


def test_tensors_are_scaled_only_where_they_are_floats():
    images = np.array([[[[0, 51, 255]]]], dtype=np.uint8)
    assert to_tensor(images, np.int32).tolist() == [[[[0, 51, 255]]]]
    assert to_tensor(images).ravel() == pytest.approx([0, 0.2, 1])
    assert to_tensor(images, np.float16, (0.5, 0.2, 0.5), (0.5, 0.1, 0.25)).ravel() == pytest.approx(
        [-1, 0, 2], abs=1e-3
    )


@pytest.mark.filterwarnings("ignore::blackvip.PromptNotUsedWarning")
def test_a_fit_over_http_equals_one_in_the_process(service):
    rng = np.random.default_rng(0)
    y = np.repeat(["night", "dusk", "day"], 12)
    X = rng.integers(0, 90, (36, 12, 12, 3), dtype=np.uint8)
    for image, label in zip(X, y):
        image[:, {"night": slice(0, 4), "dusk": slice(4, 8), "day": slice(8, 12)}[label]] += 60
    parameters = {"prompter": "basis", "max_queries": 600, "random_state": 0, "verbose": 0, "score_type": "logits"}

    def function(images, class_prompts):
        return stripe_scores(images, len(class_prompts))

    here = BlackVIPClassifier(function, "{}", **parameters).fit(X, y)
    there = BlackVIPClassifier(scorer_of(service), "{}", **parameters).fit(X, y)
    assert there.n_queries_ == here.n_queries_ == service.counts()["images"]
    assert np.array_equal(there.predict_proba(X), here.predict_proba(X))


def test_an_error_comes_after_the_answers_before_it(service):
    service.control(latency=0.05, script=["", "", "", "400", "", "", "", ""])
    got = []
    with pytest.raises(ServiceError, match="400 Bad Request"):  # noqa: PT012
        for rows, _ in scorer_of(service, n_concurrent=4).answers(make_images(40), PROMPTS):
            got += rows.tolist()
    counts = service.counts()
    assert counts["images"] == len(got) >= 3
    assert counts["requests"] == len(got) + 1  # nothing new was begun


def test_the_ledger_counts_what_was_sent(service):
    service.control(latency=0.02, script=[""] * 9 + ["400"])
    ledger = Ledger(scorer_of(service, n_concurrent=4), PROMPTS)
    with pytest.raises(ServiceError, match="400"):
        ledger.log_scores(make_images(40))
    assert ledger.n_queries == service.counts()["requests"] < 40
    service.control(script=["404"])  # for the metadata
    for scorer in (
        scorer_of(service, key="NO_SUCH_KEY"),
        scorer_of(service, timeout=0),
        scorer_of(service, KServe("")),
    ):
        ledger = Ledger(scorer, PROMPTS)
        with pytest.raises(ValueError, match="no key|'timeout'|404"):
            ledger.log_scores(make_images(40))
        assert ledger.n_queries == service.counts()["images"] == 0


def test_a_service_is_the_same_with_other_limits():
    scorer = HTTPScorer("http://localhost:1", Own())
    same = clone(scorer).set_params(n_concurrent=2, timeout=1.0, key="A_KEY", max_attempts=2)
    assert service_identity(same) == service_identity(scorer)
    assert service_identity(clone(scorer).set_params(image_format="jpeg")) != service_identity(scorer)


def test_score_type_and_price_are_declared():
    adapter = Own()
    adapter.score_type = "probabilities"
    scorer = HTTPScorer("http://localhost:1", adapter, price_per_image=0.002, n_concurrent=4)
    assert scorer.score_type == "probabilities"
    assert scorer.price_per_image == 0.002
    assert scorer.images_per_call >= 16 * 4
