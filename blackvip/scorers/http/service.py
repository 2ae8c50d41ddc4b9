"""A service in use: builds requests, sends them within limits, and reads the answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from ...exceptions import ScoreError, ServiceError
from ..answers import rows_of
from ..contract import check_scores
from .adapter import Adapter, Request
from .client import Message, whole_url
from .concurrency import Gate
from .encoding import encode_image, resized
from .json_bodies import parse_json, shortened, to_json
from .keys import Key, is_loopback, read_key, without_secrets
from .retrying import CancelledError, RetryPolicy

__all__ = ["Sent", "Service"]


class Sent:
    """Record of which images were sent at least once.

    Parameters
    ----------
    n_images : int
    """

    def __init__(self, n_images: int):
        self._sent = np.zeros(n_images, bool)
        self._lock = threading.Lock()

    def add(self, cancelled: threading.Event, rows: np.ndarray) -> None:
        """Record images as sent; raises a `CancelledError` if nothing more is to be sent."""
        # The lock keeps the count fixed once `cancelled` is set.
        with self._lock:
            if cancelled.is_set():
                raise CancelledError
            self._sent[rows] = True

    def n_left(self) -> int:
        """Return the number of images that were not sent."""
        with self._lock:
            return int((~self._sent).sum())


class Service:
    """One service, shared by several threads.

    Parameters
    ----------
    url : str
    adapter : Adapter
    key : str, callable or None
    gate : Gate
    policy : RetryPolicy
    jpeg_quality : int

    Attributes
    ----------
    n_requests : int
        Number of requests sent so far, counting every attempt.
    n_retries : int
        Number of attempts after a request's first.
    """

    def __init__(
        self,
        url: str,
        adapter: Adapter,
        key: Key,
        gate: Gate,
        policy: RetryPolicy,
        jpeg_quality: int,
    ):
        self.url = url
        self.adapter = adapter
        self.jpeg_quality = jpeg_quality
        self.n_requests = 0
        self.n_retries = 0
        self._key = key
        self._compressed = not is_loopback(urlsplit(url).hostname)
        self._gate = gate
        self._policy = policy
        self._counting = threading.Lock()
        self._preparing = threading.Lock()
        self._prepared = False

    def prepare(self) -> None:
        """Let the adapter request what it needs to know, once."""
        with self._preparing:
            if not self._prepared:
                self.adapter.prepare(self._get)
                self._prepared = True

    def request_scores(
        self,
        images: np.ndarray,
        image_format: str,
        size: tuple[int, int],
        rows: np.ndarray,
        class_prompts: list[str],
        cancelled: threading.Event,
        begin: Callable[[], None],
        on_sending: Callable[[np.ndarray], None],
        deliver: Callable[[tuple[np.ndarray, Any]], None],
    ) -> None:
        """Send some rows of `images` until each is answered. Only rows that failed are sent again.

        Parameters
        ----------
        images : ndarray of shape (n, height, width, 3), uint8
        image_format : {"png", "jpeg", "raw"}
        size : tuple of int
            Height and width in which images are sent.
        rows : ndarray of int
        class_prompts : list of str
        cancelled : Event
        begin : callable
            Called before the first slot for a request is taken. It may wait.
        on_sending : callable
            Called with the rows of each request before it is sent. If it raises an error, the request is not sent.
        deliver : callable
            Called with each pair of rows and scores.
        """
        request = self._request(images[rows], image_format, size, class_prompts)

        # Not while a slot is held, since a request that has begun may wait for it.
        begin()

        def attempt() -> None:
            nonlocal rows, request
            with self._exchange(request, cancelled, lambda: on_sending(rows)) as answer:
                scores, failures = self._scores(answer, len(rows), class_prompts)
            if len(failures) < len(rows):
                deliver((np.delete(rows, list(failures)) if failures else rows, scores))
            if failures:
                left = sorted(failures)
                rows = rows[left]
                request = self._request(images[rows], image_format, size, class_prompts)
                raise next((error for error in failures.values() if not error.retry), failures[left[0]])

        self._policy.call(attempt, cancelled, self._count_retry)

    def _get(self, path: str) -> Any:
        """Return the parsed answer to a GET request of `Adapter.prepare`."""
        request = Request(path, method="GET")
        answers = []

        def attempt() -> None:
            with self._exchange(request, threading.Event(), lambda: None) as (content, headers):
                answers.append(parse_json(content, headers.get("content-type", "")))

        self._policy.call(attempt, threading.Event(), self._count_retry)
        return answers[0]

    def _count_retry(self) -> None:
        with self._counting:
            self.n_retries += 1

    def _request(
        self, pixels: np.ndarray, image_format: str, size: tuple[int, int], class_prompts: list[str]
    ) -> Request:
        pixels = resized(pixels, size)
        images: Any = pixels
        if image_format != "raw":
            images = [encode_image(image, image_format, self.jpeg_quality, self._compressed) for image in pixels]
        request = self.adapter.request(images, list(class_prompts))
        return request if isinstance(request, Request) else Request(json=request)

    @contextmanager
    def _exchange(
        self, request: Request, cancelled: threading.Event, on_sending: Callable[[], None]
    ) -> Iterator[tuple[bytes, Mapping[str, str]]]:
        """Send a request and yield its answer; the key is redacted in errors of both steps."""
        secrets: list[str] = []
        try:
            key = read_key(self._key)
            secrets += [] if key is None else [key]
            body, headers = request.content, {}
            if body is None and request.method != "GET":
                body = to_json(request.json)
                headers["content-type"] = "application/json"
            url = whole_url(self.url, request.path, tuple(request.params.items()))
            headers |= {name.lower(): value for name, value in request.headers.items()}
            proof = self.adapter.authorize(request, url, body or b"", key)
            secrets += proof.values()
            headers |= {name.lower(): value for name, value in proof.items()}
            with self._gate.slot(cancelled) as client:
                on_sending()
                with self._counting:
                    self.n_requests += 1
                answer = client.send(Message(request.method, url, headers, body))
            yield answer
        except ScoreError as error:
            error.args = (without_secrets(str(error), secrets),)
            error.__cause__ = None
            raise

    def _scores(
        self, answer: tuple[bytes, Mapping[str, str]], n_images: int, class_prompts: list[str]
    ) -> tuple[Any, dict[int, ServiceError]]:
        """Return checked scores of the images that have some, and the errors of the others by their positions."""
        content, headers = answer
        try:
            scores = self.adapter.scores_of(self.adapter.parse(content, headers), list(class_prompts), n_images)
        except ScoreError:
            raise
        except Exception as error:
            raise ServiceError(
                f"{type(self.adapter).__name__} found no scores in the service's answer "
                f"({type(error).__name__}: {shortened(str(error), 100)}), which begins "
                f"{shortened(content[:1000].decode('utf-8', 'replace'))!r}."
            ) from None
        failures: dict[int, ServiceError] = {}
        if isinstance(scores, (list, tuple)):
            failures = {place: row for place, row in enumerate(scores) if isinstance(row, ServiceError)}
            if failures and len(scores) != n_images:
                raise ScoreError(
                    f"{n_images} images were sent, but the service answered for {len(scores)}; expected one for each."
                )
            scores = [row for row in scores if not isinstance(row, ServiceError)]
        n_given = n_images - len(failures)
        if not n_given:
            return None, failures
        if self.adapter.fixed_labels:
            return _check_fixed(scores, n_given), failures
        return check_scores(scores, n_given, class_prompts, self.adapter.score_type), failures


def _check_fixed(scores: Any, n_images: int) -> Any:
    """Check scores for a service's own labels: an array (n_images, n_labels), or dicts from label to score."""
    rows = rows_of(scores, n_images)
    if isinstance(rows, list):
        check_scores(rows, n_images, sorted({label for row in rows for label in row}))
        return rows
    return check_scores(rows, n_images, [""] * (rows.shape[1] if rows.ndim == 2 else 1))
