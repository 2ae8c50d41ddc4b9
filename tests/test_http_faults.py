"""What goes wrong between here and a service, and that nothing is lost or asked for twice."""

import gc
import pickle
import threading
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from servers.app import stripe_scores
from servers.shared import FAKED, PROMPTS, Own, make_images, scorer_of

from blackvip import BlackVIPClassifier
from blackvip.exceptions import ScoreError
from blackvip.scorers.http import HTTPScorer, ServiceError
from blackvip.scorers.http.json_bodies import parse_json
from blackvip.scorers.http.retrying import RetryPolicy


@pytest.fixture
def service(remote, monkeypatch):
    # Some adapters sign their requests.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE123")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t/example+key")
    remote.control()
    return remote


@pytest.fixture
def no_collection():
    """No garbage is collected: finalizers must not run where an answer is nested to the limit of recursion."""
    gc.disable()
    yield
    gc.enable()


PASSING = ["reset", "408", "409", "425", "429", "429 0.1", "500", "502", "503 0.1", "504", "torn", "torn-gzip", "cut",
           "empty", "stall 3"]  # fmt: skip


@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_is_tried_again(service, fault):
    service.control(script=[fault])
    scorer = scorer_of(service, timeout=1.5, n_concurrent=1)
    images = make_images(2)
    assert np.array_equal(scorer(images, PROMPTS), stripe_scores(images, 3))
    counts = service.counts()
    assert counts[fault] == 1
    assert counts["requests"] == scorer.n_requests_ == 3
    assert scorer.n_retries_ == 1
    assert counts["images"] == 2
    assert counts["most_answers_of_an_image"] == 1


LASTING = {
    "400": "answered with 400 Bad Request.*status 400",
    "401": "401 Unauthorized.*Is the key correct",
    "403": "403 Forbidden.*Is the key allowed",
    "404": "404 Not Found.*Are the url and",
    "413": "413 .*Send fewer images",
    "422": "422",
    "501": "501 Not Implemented.*Does the model support this protocol",
    "304": "304",
    "html": "answered with a web page, '<!DOCTYPE html>",
    "nan": "contains NaN, which is not JSON",
    "infinity": "contains -Infinity, which is not JSON",
    "huge": "contains 1e999, which is too large",
    "twice": "has the key 'twice' twice",
    "deep": "nested too deep",
    "digits": "integer that is too long",
    "latin": "not UTF-8",
    "other": r"Own found no scores .* \(KeyError: 'scores'\), which begins '{\"status\": \"fine\"}'",
    "bomb": "more than 1000000 bytes",
    "long": "more than 1000000 bytes",
    "br": "compressed with 'br'; expected gzip",
    "short": r"array of shape \(0,\); expected numbers of shape \(1, 3\)",
    "503 9999": "asks to wait 9999 s, but max_retry_after is 120 s",
}


@pytest.mark.parametrize("fault", LASTING)
def test_what_lasts_is_an_error_that_says_so_and_is_not_tried_again(service, no_collection, fault):
    service.control(script=["", fault])
    scorer = scorer_of(service, n_concurrent=1, max_response_bytes=1_000_000)
    images, got = make_images(2), []
    with pytest.raises(ScoreError, match=LASTING[fault]):
        got.extend(scorer.answers(images, PROMPTS))
    assert service.counts()["requests"] == 2
    ((rows, scores),) = got  # of the request before
    assert np.array_equal(scores, stripe_scores(images[rows], 3))


@pytest.mark.parametrize("name", FAKED)
def test_all_faults_that_pass_at_once_for_each_adapter(service, name):
    """Each image is answered once, and as without faults. What prepares the adapter is retried too."""
    images = make_images(len(PASSING) + 1)
    scorer = scorer_of(service, FAKED[name].make(), FAKED[name].path, timeout=1.5, n_concurrent=16)
    service.control(script=["500"])
    undisturbed = scorer(images, PROMPTS)
    n_before = scorer.n_requests_
    service.control(script=["", *PASSING])
    assert_equal_scores(scorer(images, PROMPTS), undisturbed)
    counts = service.counts()
    assert all(counts[fault] == 1 for fault in PASSING)
    assert counts["requests"] == scorer.n_requests_ - n_before == len(images) + len(PASSING)
    assert scorer.n_retries_ == 1 + len(PASSING)
    assert counts["images"] == len(images)
    assert counts["most_answers_of_an_image"] == 1


@pytest.mark.parametrize("name", FAKED)
def test_each_fault_that_lasts_is_an_error_for_each_adapter(service, no_collection, name):
    """It is not tried again, and the scorer works as before afterwards."""
    images = make_images(1)
    scorer = scorer_of(service, FAKED[name].make(), FAKED[name].path, max_response_bytes=1_000_000)
    undisturbed = scorer(images, PROMPTS)
    for fault, message in LASTING.items():
        # What lacks scores differs between protocols, and each adapter has its own words for it.
        if fault == "short":
            continue
        service.control(script=[fault])
        with pytest.raises(ScoreError, match="." if fault == "other" else message):
            scorer(images, PROMPTS)
        assert service.counts()["requests"] == 1, fault
    assert_equal_scores(scorer(images, PROMPTS), undisturbed)


def assert_equal_scores(scores, expected):
    """They are arrays, or dicts of a service's own labels."""
    if isinstance(scores, list):
        assert scores == expected
    else:
        np.testing.assert_array_equal(scores, expected)


def test_a_bomb_is_never_held_whole(service):
    """80 MB in a body of 78 kB: what is held stays near the limit."""
    service.control(script=["bomb"])
    scorer = scorer_of(service, max_response_bytes=1_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(ServiceError, match="more than"):
            scorer(make_images(1), PROMPTS)
        assert 500_000 < tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_compressed_answers_are_read(service):
    service.control(script=["gzip"])
    images = make_images(1)
    assert np.array_equal(scorer_of(service)(images, PROMPTS), stripe_scores(images, 3))


def test_a_drip_is_a_stall(service):
    service.control(script=["drip 0.05"] * 2)
    with pytest.raises(ServiceError, match="did not finish its answer within 0.4 s. Gave up after 2 attempts"):
        scorer_of(service, timeout=0.4, max_attempts=2)(make_images(1), PROMPTS)


def test_a_service_that_is_not_there(service):
    """Attempts that reached nobody do not count: only patience ends them."""
    scorer = HTTPScorer("http://localhost:1/x", Own(), max_attempts=1, patience=0.5)
    with pytest.raises(
        ServiceError, match=r"The service at localhost:1 cannot be reached .* Gave up after [3-9] attempts"
    ):
        scorer(make_images(1), PROMPTS)


def test_a_connection_that_the_service_has_closed_is_replaced_and_an_open_one_is_kept():
    connections, closed = set(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            connections.add(self.client_address)
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            body = b'{"scores": [[1, 2, 3]]}'
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            # The answer does not announce it.
            self.close_connection = closes

        def log_message(self, *args):
            pass

    class Server(ThreadingHTTPServer):
        def shutdown_request(self, request):
            super().shutdown_request(request)
            closed.set()

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        scorer = HTTPScorer(f"http://127.0.0.1:{server.server_port}", Own(), n_concurrent=1, images_per_request=1)
        for closes, n_connections in ((False, 1), (True, 1), (False, 2)):
            assert scorer(make_images(1), PROMPTS).tolist() == [[1, 2, 3]]
            assert not closes or closed.wait(10)
            assert len(connections) == n_connections
        assert scorer.n_retries_ == 0
        server.shutdown()


def test_attempts_end_and_the_last_error_is_raised(service):
    service.control(rates={"500": 1.0})
    scorer = scorer_of(service, max_attempts=3)
    with pytest.raises(ServiceError, match="500 Internal Server Error.*Gave up after 3 attempts"):
        scorer(make_images(1), PROMPTS)
    assert service.counts()["requests"] == 3


def test_patience_ends_attempts_too(service):
    service.control(rates={"429": 1.0})
    with pytest.raises(ServiceError, match="429 .*see max_attempts and patience"):
        scorer_of(service, patience=0.3)(make_images(1), PROMPTS)


def test_refusals_as_too_many_do_not_count_as_attempts(service):
    service.control(script=["429"] * 4)
    images = make_images(1)
    assert np.array_equal(scorer_of(service, max_attempts=1)(images, PROMPTS), stripe_scores(images, 3))


def test_retry_after_is_waited_for(service):
    service.control(script=["503 1", ""])
    scorer_of(service, n_concurrent=1)(make_images(1), PROMPTS)
    first, second = service.counts()["starts"]
    assert second - first >= 1


def test_retry_after_as_a_date(service):
    from datetime import UTC, datetime, timedelta
    from email.utils import format_datetime

    date = format_datetime(datetime.now(UTC) + timedelta(hours=3), usegmt=True)
    service.control(script=[f"503 {date}"])
    with pytest.raises(ServiceError, match="It asks to wait 10[78]\\d\\d s"):
        scorer_of(service)(make_images(1), PROMPTS)
    past = format_datetime(datetime.now(UTC) - timedelta(hours=3), usegmt=True)
    service.control(script=[f"503 {past}", "503 soon"])
    assert scorer_of(service)(make_images(1), PROMPTS).shape == (1, 3)


def test_waits_double_and_are_jittered(monkeypatch):
    """Of a policy whose waits end at once."""
    waits = []

    class Waiting:
        def wait(self, seconds):
            waits.append(seconds)
            return False

    policy = RetryPolicy(max_attempts=12, patience=1e9, max_retry_after=100)

    def attempt():
        raise ServiceError("down", retry=True)

    with pytest.raises(ServiceError, match="Gave up after 12 attempts"):
        policy.call(attempt, Waiting(), lambda: None)
    longest = 0.2 * 2.0 ** np.arange(11)
    longest[-2:] = 60
    assert (np.array(waits) <= longest).all()
    assert (np.array(waits) >= longest / 2).all()
    assert not np.isin(waits, [longest, longest / 2]).any()


def test_of_a_request_only_the_images_that_failed_are_asked_for_again(service):
    service.control(refuse_bright="busy")
    images = make_images(12) // 2
    images[[1, 4, 5, 11]] = 200
    images[[1, 4, 5, 11], 0, 0] = np.arange(12).reshape(4, 3)  # no two alike
    scorer = scorer_of(service, images_per_request=6)
    pieces = list(scorer.answers(images, PROMPTS))
    scores = np.empty((12, 3))
    for rows, piece in pieces:
        scores[rows] = piece
    assert np.array_equal(scores, stripe_scores(images, 3))
    assert sorted(np.concatenate([rows for rows, _ in pieces]).tolist()) == list(range(12))
    counts = service.counts()
    assert counts["images"] == 12
    assert counts["most_answers_of_an_image"] == 1
    assert counts["requests"] == 4


def test_an_image_that_fails_for_good_keeps_the_others(service):
    class Strict(Own):
        def scores(self, answer, class_prompts):
            return [row if isinstance(row, list) else ServiceError(row["error"]) for row in answer["scores"]]

    service.control(refuse_bright="this image is indecent")
    images, got = make_images(4) // 2, []
    images[2] = 255
    with pytest.raises(ServiceError, match="this image is indecent"):  # noqa: PT012
        for rows, _ in scorer_of(service, Strict(), images_per_request=4).answers(images, PROMPTS):
            got += rows.tolist()
    assert got == [0, 1, 3]


@pytest.mark.parametrize(
    ("body", "value"),
    [(b' {"a": [1, -2.5e-3, null, true]}\n', {"a": [1, -2.5e-3, None, True]}), (b"\xef\xbb\xbf[]", []), (b"3", 3)],
)
def test_strict_json_takes_json(body, value):
    assert parse_json(body) == value


@pytest.mark.parametrize(
    "body", [b"", b"  ", b'{"a": [1, 2', b'{"a": "x', b'{"a"', b"[1, 2", b'{"a": tr', b'{"a": "\xc3']
)
def test_json_that_ends_early_may_be_asked_for_again(body):
    with pytest.raises(ServiceError, match="is truncated|not UTF-8") as caught:
        parse_json(body)
    assert caught.value.retry


@pytest.mark.parametrize("body", [b"{'a': 1}", b"[1, 2] 3", b"nonsense", b'{"a": 1,}', b"[01]"])
def test_what_is_no_json_may_not(body):
    with pytest.raises(ServiceError, match="is not JSON") as caught:
        parse_json(body)
    assert not caught.value.retry


def survive(service, n, stall, timeout):
    """Scores of n images under faults, and what the service counted."""
    rates = {"reset": 0.02, "429 0.1": 0.04, "500": 0.04, "torn": 0.02, f"stall {stall}": 0.02}
    images = make_images(n, side=8)
    service.control()
    undisturbed = scorer_of(service, n_concurrent=32)(images, PROMPTS)
    service.control(rates=rates, seed=1)
    scorer = scorer_of(service, n_concurrent=32, timeout=timeout)
    scores = np.full((n, 3), np.nan)
    for rows, piece in scorer.answers(images, PROMPTS):
        assert np.isnan(scores[rows]).all()
        scores[rows] = piece
    counts = service.counts()
    assert np.array_equal(scores, undisturbed)
    assert all(counts[name] > 0 for name in rates), counts
    assert counts["images"] == n
    assert counts["most_answers_of_an_image"] == 1
    assert scorer.n_retries_ == sum(counts[name] for name in rates)
    return counts


@pytest.mark.slow
def test_under_faults_the_scores_are_the_same_bit_for_bit(service):
    """Each image is one request."""
    survive(service, 450, stall=5, timeout=3)


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::blackvip.PromptNotUsedWarning")
def test_a_fit_under_faults_is_the_same_bit_for_bit(service):
    X = make_images(60, side=12) // 3
    y = np.arange(60) % 3
    for image, label in zip(X, y):
        image[:, 4 * label : 4 * label + 4] += 60
    rates = {"reset": 0.01, "429 0.1": 0.02, "500": 0.02, "torn": 0.01, "stall 5": 0.01}
    fitted, counts = [], []
    for wanted in ({}, rates):
        service.control(rates=wanted, seed=2)
        scorer = scorer_of(service, n_concurrent=32, timeout=3)
        clf = BlackVIPClassifier(scorer, "{}", prompter="basis", max_queries=900, random_state=0, score_type="logits")
        fitted.append(clf.fit(X, y))
        counts.append(service.counts())
        assert counts[-1]["images"] == clf.n_queries_ > 700
    undisturbed, survivor = fitted
    assert all(counts[1][name] > 0 for name in rates)
    assert counts[1]["requests"] - sum(counts[1][name] for name in rates) == survivor.n_queries_
    assert survivor.n_queries_ == undisturbed.n_queries_
    assert np.array_equal(survivor.predict_proba(X), undisturbed.predict_proba(X))
    assert pickle.dumps(survivor.history_) == pickle.dumps(undisturbed.history_)
