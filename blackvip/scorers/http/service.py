"""A service in use: builds requests, sends them within limits, and reads the answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from ...exceptions import Refusal, ScoreError, ServiceError
from ..answers import rows_of
from ..contract import check_scores
from .adapter import Adapter, Request
from .client import Message, whole_url
from .concurrency import Gate
from .encoding import encode_image, resized
from .json_bodies import shortened, to_json
from .keys import Key, is_loopback, read_key, without_secrets
from .retrying import CancelledError, RetryPolicy
from .usage import Tally, Usage

__all__ = ["Sent", "Service"]

# Lists of class prompts whose prepared adapters are kept.
_MOST_PREPARED = 8


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
    timeout, first_timeout : float
        Time limit of a request in seconds, and that of requests that begin before the service has answered one.

    Attributes
    ----------
    tally : Tally
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
        timeout: float,
        first_timeout: float,
    ):
        self.url = url
        self.adapter = adapter
        self.jpeg_quality = jpeg_quality
        self.tally = Tally()
        self.n_requests = 0
        self.n_retries = 0
        self._key = key
        self._compressed = not is_loopback(urlsplit(url).hostname)
        self._gate = gate
        self._policy = policy
        self._counting = threading.Lock()
        self._timeout, self._first_timeout = timeout, first_timeout
        self._has_answered = False
        self._preparing = threading.Lock()
        # By class prompts; the last used ones are the last.
        self._prepared: dict[tuple[str, ...], Adapter] = {}

    def prepared(self, class_prompts: Sequence[str]) -> Adapter:
        """Return the adapter for some class prompts, which may first request what it needs to know."""
        key = tuple(class_prompts)
        with self._preparing:
            adapter = self._prepared.pop(key, None)
            if adapter is None:
                adapter = self._prepare(list(class_prompts))
            if not isinstance(adapter, Adapter):
                raise TypeError(
                    f"{type(self.adapter).__name__}.prepare returned a {type(adapter).__name__}; expected an adapter, "
                    "itself or a copy."
                )
            self._prepared[key] = adapter
            if len(self._prepared) > _MOST_PREPARED:
                del self._prepared[next(iter(self._prepared))]
        return adapter

    def request_scores(
        self,
        adapter: Adapter,
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
        adapter : Adapter
            The adapter that `prepared` returned for the class prompts.
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
        request = self._request(adapter, images[rows], image_format, size, class_prompts)

        # Not while a slot is held, since a request that has begun may wait for it.
        begin()

        def settle(scores: Any, failures: dict[int, ServiceError], usage: Usage | None) -> None:
            nonlocal rows, request
            refused = {place: error for place, error in failures.items() if isinstance(error, Refusal)}
            failed = {place: error for place, error in failures.items() if place not in refused}
            if len(failures) < len(rows):
                deliver((np.delete(rows, list(failures)) if failures else rows, scores))
            if refused:
                deliver((rows[sorted(refused)], _empty(adapter, len(refused), len(class_prompts))))
            self.tally.add_images(len(rows) - len(failures), usage, list(refused.values()))
            if failed:
                left = sorted(failed)
                rows = rows[left]
                request = self._request(adapter, images[rows], image_format, size, class_prompts)
                raise next((error for error in failed.values() if not error.retry), failed[left[0]])

        def attempt() -> None:
            refusal = None
            try:
                with self._exchange(adapter, request, cancelled, lambda: on_sending(rows), []) as answer:
                    settle(*self._scores(adapter, answer, len(rows), class_prompts))
            except Refusal as error:
                refusal = error
            if refusal is not None and len(rows) > 1:
                raise ServiceError(
                    f"{refusal} It refuses a request with {len(rows)} images; expected a refusal of one image. Set "
                    "images_per_request=1.",
                    status=refusal.status,
                )
            if refusal is not None:
                settle(None, {0: refusal}, None)

        self._policy.call(attempt, cancelled, self._count_retry)

    def _prepare(self, class_prompts: list[str]) -> Any:
        """Return what the adapter's `prepare` returns."""
        contents: list[bytes] = []
        secrets: list[str] = []

        def send(request: Any) -> Any:
            request = request if isinstance(request, Request) else Request(json=request)
            answers = []

            def attempt() -> None:
                exchange = self._exchange(self.adapter, request, threading.Event(), lambda: None, secrets)
                with exchange as (content, headers):
                    contents.append(content)
                    answer = self.adapter.parse(content, headers)
                    self.tally.add_answer(self.adapter.usage_of(answer))
                    answers.append(answer)

            self._policy.call(attempt, threading.Event(), self._count_retry)
            return answers[0]

        with _redacted(secrets):
            try:
                return self.adapter.prepare(send, class_prompts)
            except ScoreError:
                raise
            except Exception as error:
                if not contents:
                    raise
                raise _lacking(self.adapter, "nothing to prepare with", contents[-1], error) from None

    def _count_retry(self) -> None:
        with self._counting:
            self.n_retries += 1

    def _request(
        self, adapter: Adapter, pixels: np.ndarray, image_format: str, size: tuple[int, int], class_prompts: list[str]
    ) -> Request:
        pixels = resized(pixels, size)
        images: Any = pixels
        if image_format != "raw":
            images = [encode_image(image, image_format, self.jpeg_quality, self._compressed) for image in pixels]
        request = adapter.request(images, list(class_prompts))
        return request if isinstance(request, Request) else Request(json=request)

    @contextmanager
    def _exchange(
        self,
        adapter: Adapter,
        request: Request,
        cancelled: threading.Event,
        on_sending: Callable[[], None],
        secrets: list[str],
    ) -> Iterator[tuple[bytes, Mapping[str, str]]]:
        """Send a request and yield its answer. The key is redacted in errors of both steps, and added to `secrets`."""
        with _redacted(secrets):
            key = read_key(self._key)
            secrets += [] if key is None else [key]
            body, headers = request.content, {}
            if body is None and request.method != "GET":
                body = to_json(request.json)
                headers["content-type"] = "application/json"
            url = whole_url(self.url, request.path, tuple(request.params.items()))
            headers |= {name.lower(): value for name, value in request.headers.items()}
            proof = adapter.authorize(request, url, body or b"", key)
            secrets += proof.values()
            headers |= {name.lower(): value for name, value in proof.items()}
            with self._gate.slot(cancelled) as client:
                on_sending()
                with self._counting:
                    self.n_requests += 1
                timeout = self._timeout if self._has_answered else self._first_timeout
                answer = client.send(Message(request.method, url, headers, body), timeout)
            yield answer

    def _scores(
        self, adapter: Adapter, answer: tuple[bytes, Mapping[str, str]], n_images: int, class_prompts: list[str]
    ) -> tuple[Any, dict[int, ServiceError], Usage | None]:
        """Return checked scores of the images that have some, the errors of the others by position, and the usage."""
        content, headers = answer
        self._has_answered = True
        try:
            parsed = adapter.parse(content, headers)
            usage = adapter.usage_of(parsed)
            self.tally.add_answer(usage, adapter.model_of(parsed))
            scores = adapter.scores_of(parsed, list(class_prompts), n_images)
        except ScoreError:
            raise
        except Exception as error:
            raise _lacking(adapter, "no scores", content, error) from None
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
            return None, failures, usage
        if adapter.fixed_labels:
            return _check_fixed(scores, n_given), failures, usage
        size = adapter.vector_size or 0
        return check_scores(scores, n_given, class_prompts, adapter.score_type, size), failures, usage


@contextmanager
def _redacted(secrets: list[str]) -> Iterator[None]:
    """Redact secrets in the errors of a block, which may add some."""
    try:
        yield
    except ScoreError as error:
        error.args = (without_secrets(str(error), secrets),)
        error.__cause__ = None
        raise


def _lacking(adapter: Adapter, found: str, content: bytes, error: Exception) -> ServiceError:
    """Make the error for an answer in which an adapter did not find what it expects."""
    return ServiceError(
        f"{type(adapter).__name__} found {found} in the service's answer "
        f"({type(error).__name__}: {shortened(str(error), 100)}), which begins "
        f"{shortened(content[:1000].decode('utf-8', 'replace'))!r}."
    )


def _empty(adapter: Adapter, n_images: int, n_prompts: int) -> Any:
    """Return what stands for the scores of images that the service refused: they are all missing."""
    n_scores = n_prompts + (adapter.vector_size or 0)
    return [{}] * n_images if adapter.fixed_labels else np.full((n_images, n_scores), np.nan)


def _check_fixed(scores: Any, n_images: int) -> Any:
    """Check scores for a service's own labels: an array (n_images, n_labels), or dicts from label to score."""
    rows = rows_of(scores, n_images)
    if isinstance(rows, list):
        check_scores(rows, n_images, sorted({label for row in rows for label in row}))
        return rows
    return check_scores(rows, n_images, [""] * (rows.shape[1] if rows.ndim == 2 else 1))
