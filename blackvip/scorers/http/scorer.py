"""The score function of a service over HTTP."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from numbers import Integral, Real
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, Options, StrOptions

from ...exceptions import ImageError, ModelChangedWarning, ServiceError, warn_caller
from ..answers import collected, report_not_sent
from ..contract import check_class_prompts
from ..wrappers import LeavesOutLive
from .adapter import Adapter
from .client import Client, trusted_authorities
from .concurrency import Gate, gather
from .encoding import allowed_size
from .keys import Key, check_key, check_url, is_loopback
from .retrying import RetryPolicy
from .service import Sent, Service
from .usage import token_prices

__all__ = ["HTTPScorer"]

# Images in a request if the service takes any number.
_IMAGES_PER_REQUEST = 16
# Requests of each slot in one call, so that slots are seldom idle.
_ROUNDS_PER_CALL = 16
_MAKING = threading.Lock()


class HTTPScorer(LeavesOutLive, BaseEstimator):
    """A score function that sends images to a service over HTTP, in several concurrent requests.

    An adapter knows the service's protocol. The scorer keeps connections open, limits concurrent requests and requests
    per second, retries after temporary failures, and validates every answer. Each image is sent until it is answered,
    and never again after that.

    Parameters
    ----------
    url : str
        Address of the service, without a key. Adapters append the paths of their protocol.
    adapter : Adapter
        The service's protocol. See `Adapter` to write your own.
    key : str, callable or None, default=None
        The *name* of the environment variable that holds the key, or a function without arguments that returns it.
        It is read for each request, sent only to the service itself, and never stored or shown.
    n_concurrent : int, default=8
        Maximal number of concurrent requests.
    requests_per_second : float or None, default=None
        Maximal number of requests that start in a second, evenly spaced. None: no limit.
    images_per_request : int or None, default=None
        Maximal number of images in a request. None: the adapter's limit, and at most 16.
    timeout : float, default=30.0
        Time limit in seconds to connect, to wait for the next piece of an answer, and to receive the whole answer.
    first_timeout : float or None, default=None
        The same limit until the service has answered for the first time, for servers that start slowly. None: the
        adapter's, else `timeout`.
    max_attempts : int, default=10
        Maximal number of attempts of a request. Failed or broken connections, truncated answers, and the statuses 408,
        409, 425, 429 and 5xx but 501 and 505 are retried, after waits that double from 0.2 s to a minute, with jitter.
        All other errors are raised. Connection failures and 429s (too many requests) do not use up attempts.
    patience : float, default=600.0
        Time in seconds after a request's first attempt after which it is not retried.
    max_retry_after : float, default=120.0
        Longest wait in seconds that the service may ask for; a longer one raises an error.
    max_response_bytes : int, default=16777216
        Maximal size of an answer, both as received and decompressed.
    image_format : {"png", "jpeg", "raw"} or None, default=None
        Format in which images are sent. None: the adapter's. "png", which is lossless, and "jpeg" can replace each
        other.
    jpeg_quality : int, default=95
        JPEG quality, from 1 to 100.
    min_size, max_size : int or None, default=None
        Smallest and largest height and width that the service takes, in pixels. Other images are resized and keep their
        aspect ratio. None: the adapter's limits.
    takes_any_size : bool, default=False
        Whether fits may try to send images enlarged, because the service does not resize small ones.
    verify : bool or str, default=True
        True: the service needs a certificate from an authority that this machine trusts. A path: a file with the
        authorities to trust. False is refused unless the service runs on this machine.
    price_per_image : float or None, default=None
        Price of an image, in any currency. `estimate_price` finds it from one image.
    price_per_million_tokens : float, tuple of float or None, default=None
        Price of a million tokens, or of a million input and a million output tokens.

    Attributes
    ----------
    n_requests_ : int
        Number of requests sent, counting every attempt.
    n_retries_ : int
        Number of attempts after a request's first.
    n_tokens_ : int
        Number of tokens that the answers report, of requests and answers together.
    cost_ : float or None
        Money spent: each answer's own cost, else that of its tokens, else that of its images. None without prices.
    n_refused_ : int
        Number of images that the service refused. Their scores are all missing. An error is raised if more than 10 %
        are refused.
    model_ : str or None
        The model that answered last; None if answers do not name it. A change issues a `ModelChangedWarning`, once.

    Notes
    -----
    Copies, pickles and clones hold the parameters alone; connections, limits and counts are not shared. A request
    whose answer was lost on the way is sent again, and the service may bill it twice.

    Examples
    --------
    >>> from blackvip.scorers.http import HTTPScorer, HuggingFaceZeroShot
    >>> scorer = HTTPScorer(
    ...     "https://service.example/models/clip", HuggingFaceZeroShot(), key="SERVICE_KEY", n_concurrent=16
    ... )
    >>> # BlackVIPClassifier(scorer, "a photo of a {}.").fit(X, y)
    """

    asks_concurrently = True
    _live_attributes = ("_live",)
    identity_params = ("url", "adapter", "image_format", "jpeg_quality", "min_size", "max_size")

    _parameter_constraints = {  # noqa: RUF012
        "url": [str],
        "adapter": [Adapter],
        "key": [str, callable, None],
        "n_concurrent": [Interval(Integral, 1, None, closed="left")],
        "requests_per_second": [Interval(Real, 0, None, closed="neither"), None],
        "images_per_request": [Interval(Integral, 1, None, closed="left"), None],
        "timeout": [Interval(Real, 0, None, closed="neither")],
        "first_timeout": [Interval(Real, 0, None, closed="neither"), None],
        "max_attempts": [Interval(Integral, 1, None, closed="left")],
        "patience": [Interval(Real, 0, None, closed="left")],
        "max_retry_after": [Interval(Real, 0, None, closed="left")],
        "max_response_bytes": [Interval(Integral, 1, None, closed="left")],
        "image_format": [StrOptions({"png", "jpeg", "raw"}), None],
        "jpeg_quality": [Interval(Integral, 1, 100, closed="both")],
        "min_size": [Interval(Integral, 1, None, closed="left"), None],
        "max_size": [Interval(Integral, 1, None, closed="left"), None],
        "takes_any_size": ["boolean"],
        "verify": [Options(bool, {True, False}), str],
        "price_per_image": [Interval(Real, 0, None, closed="left"), None],
        "price_per_million_tokens": [Real, tuple, list, None],
    }

    def __init__(
        self,
        url: str,
        adapter: Adapter,
        *,
        key: Key = None,
        n_concurrent: int = 8,
        requests_per_second: float | None = None,
        images_per_request: int | None = None,
        timeout: float = 30.0,
        first_timeout: float | None = None,
        max_attempts: int = 10,
        patience: float = 600.0,
        max_retry_after: float = 120.0,
        max_response_bytes: int = 16_777_216,
        image_format: str | None = None,
        jpeg_quality: int = 95,
        min_size: int | None = None,
        max_size: int | None = None,
        takes_any_size: bool = False,
        verify: bool | str = True,
        price_per_image: float | None = None,
        price_per_million_tokens: float | tuple[float, float] | None = None,
    ):
        self.url = url
        self.adapter = adapter
        self.key = key
        self.n_concurrent = n_concurrent
        self.requests_per_second = requests_per_second
        self.images_per_request = images_per_request
        self.timeout = timeout
        self.first_timeout = first_timeout
        self.max_attempts = max_attempts
        self.patience = patience
        self.max_retry_after = max_retry_after
        self.max_response_bytes = max_response_bytes
        self.image_format = image_format
        self.jpeg_quality = jpeg_quality
        self.min_size = min_size
        self.max_size = max_size
        self.takes_any_size = takes_any_size
        self.verify = verify
        self.price_per_image = price_per_image
        self.price_per_million_tokens = price_per_million_tokens

    @property
    def key(self) -> Key:
        """The name of the environment variable that holds the key, a function that returns it, or None."""
        return self._key

    @key.setter
    def key(self, key: Key) -> None:
        # Checked at once, since a repr would show the parameter afterwards.
        check_key(key)
        self._key = key

    @property
    def score_type(self) -> str:
        """Type of the scores, as the adapter declares."""
        return self.adapter.score_type

    @property
    def max_class_prompts(self) -> int | None:
        """The most class prompts of a request, as the adapter declares."""
        return self.adapter.max_class_prompts

    @property
    def one_prompt_per_class(self) -> bool:
        """Whether classes have one prompt each, as the adapter declares."""
        return self.adapter.one_prompt_per_class

    @property
    def vector_size(self) -> int | None:
        """Size of the vectors at the end of the scores, as the adapter declares."""
        return self.adapter.vector_size

    @property
    def images_per_call(self) -> int:
        """The most images in one call, some rounds of requests, so that not too many are lost with it."""
        return _ROUNDS_PER_CALL * self.n_concurrent * (self.images_per_request or self.adapter.images_per_request or 1)

    @property
    def n_requests_(self) -> int:
        """Number of requests sent, counting every attempt."""
        return self._live[1].n_requests if hasattr(self, "_live") else 0

    @property
    def n_retries_(self) -> int:
        """Number of attempts after a request's first."""
        return self._live[1].n_retries if hasattr(self, "_live") else 0

    @property
    def n_tokens_(self) -> int:
        """Number of tokens that the answers report."""
        return self._live[1].tally.n_tokens if hasattr(self, "_live") else 0

    @property
    def n_refused_(self) -> int:
        """Number of images that the service refused."""
        return self._live[1].tally.n_refused if hasattr(self, "_live") else 0

    @property
    def model_(self) -> str | None:
        """The model that answered last; None if the answers do not name it."""
        return self._live[1].tally.model if hasattr(self, "_live") else None

    @property
    def cost_(self) -> float | None:
        """Money spent; None without prices."""
        if not hasattr(self, "_live"):
            return None
        cost: float | None = self._live[1].tally.cost(self.price_per_image, self.price_per_million_tokens)
        return cost

    def prepared(self, class_prompts: list[str]) -> Adapter:
        """Return the adapter that serves some class prompts, after what it requests about them; no image is sent."""
        return self._service().prepared(self._checked(class_prompts))

    def estimate_price(self, image: np.ndarray, class_prompts: list[str]) -> float:
        """Send one image, which is billed, and return the price of an image, for `price_per_image`.

        Parameters
        ----------
        image : ndarray of shape (height, width, 3), uint8
            An image of the size that will be sent.
        class_prompts : list of str

        Returns
        -------
        price : float
            In the currency of the prices. Requests that the adapter makes once for the class prompts are not included.

        Raises
        ------
        ValueError
            If the answer reports neither its cost nor, with `price_per_million_tokens`, its tokens; or if the service
            refuses the image.
        """
        service = self._service()
        self.prepared(class_prompts)
        before, n_refused = self.cost_ or 0.0, self.n_refused_
        self(np.asarray(image)[None], class_prompts)
        if self.n_refused_ > n_refused:
            raise ServiceError("The service refused the image, which may cost less than others; give another one.")
        after = self.cost_
        if after is None:
            raise ValueError(
                f"The service's answer reports no cost, and {service.tally.n_tokens} tokens were counted; expected a "
                "price. Set price_per_million_tokens if answers report their tokens, or else price_per_image."
            )
        return after - before

    def __call__(self, images: np.ndarray, class_prompts: list[str]) -> Any:
        """Return the scores of all images.

        Parameters
        ----------
        images : ndarray of shape (n, height, width, 3), uint8
        class_prompts : list of str

        Returns
        -------
        scores : ndarray of shape (n, n_classes), float64
            NaN for scores that the service does not return. For an adapter with fixed labels, an array (n, n_labels)
            or a list of dicts.

        Raises
        ------
        ServiceError
            If the service does not answer, or answers without scores.
        ScoreError
            If the scores break the contract.
        """
        return collected(self.answers(images, class_prompts), len(images), len(class_prompts))

    def answers(self, images: np.ndarray, class_prompts: list[str]) -> Iterator[tuple[np.ndarray, Any]]:
        """Yield scores as they arrive, in any order.

        After an error, answers under way are still awaited and yielded, and then the error is raised. If the iterator
        is closed early, nothing more is sent.

        Parameters
        ----------
        images : ndarray of shape (n, height, width, 3), uint8
            RGB images.
        class_prompts : list of str

        Yields
        ------
        rows : ndarray of int
            Indices into `images`; each comes once.
        scores : ndarray of shape (len(rows), n_classes), or list of dict
            What a call would return for ``images[rows]``.
        """
        sent = Sent(len(images))
        try:
            yield from self._answers(np.asarray(images), list(class_prompts), sent)
        finally:
            report_not_sent(sent.n_left())

    def _answers(self, images: np.ndarray, prompts: list[str], sent: Sent) -> Iterator[tuple[np.ndarray, Any]]:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise ImageError(f"Found images of shape {images.shape}, {images.dtype}; expected (n, h, w, 3), uint8.")
        if not len(images):
            return
        service = self._service()
        self._checked(prompts)
        adapter = service.prepared(prompts)
        image_format = _image_format(self.image_format, adapter)
        low = adapter.min_size if self.min_size is None else self.min_size
        high = adapter.max_size if self.max_size is None else self.max_size
        size = allowed_size(images.shape[1:3], low, high)

        def request(rows: np.ndarray, cancelled: threading.Event, deliver: Any, begin: Any) -> None:
            on_sending = partial(sent.add, cancelled)
            service.request_scores(
                adapter, images, image_format, size, rows, prompts, cancelled, begin, on_sending, deliver
            )

        step = _images_per_request(self.images_per_request, adapter)
        pieces = [np.arange(first, min(first + step, len(images))) for first in range(0, len(images), step)]
        # Threads that keep a request ready for the next free slot.
        n_ready = 2 + self.n_concurrent // 4
        with closing(gather(request, pieces, self.n_concurrent + n_ready, self.n_concurrent)) as gathered:
            for answers in gathered:
                self._warn_of_change(service)
                # Arrays, and dicts of a service's own labels.
                for kind in {type(scores): None for _, scores in answers}:
                    rows, scores = zip(*[answer for answer in answers if type(answer[1]) is kind])
                    yield np.concatenate(rows), _joined(scores)

    def _checked(self, class_prompts: list[str]) -> list[str]:
        most = self.max_class_prompts
        check_class_prompts(len(class_prompts), most, f"{type(self.adapter).__name__} takes {most} in a request")
        return list(class_prompts)

    def _warn_of_change(self, service: Service) -> None:
        change = service.tally.take_change()
        if change is not None:
            warn_caller(
                f"The service answered with the model {change[1]!r} after {change[0]!r}; expected one model "
                "throughout. Scores before and after may not belong together: name an exact version instead of an "
                "alias if the service has them, and fit again if it matters.",
                ModelChangedWarning,
            )

    def _service(self) -> Service:
        """Return the service, made at the first use in this process and again when a parameter has changed."""
        state: list[Any] = [os.getpid()]
        for name, value in self.get_params().items():
            # Prices change nothing of what is sent.
            if name not in ("price_per_image", "price_per_million_tokens"):
                state.append(id(value) if isinstance(value, Adapter) else value)
        with _MAKING:
            live = getattr(self, "_live", None)
            if live is None or live[0] != state:
                live = self._live = (state, self._made())
            service: Service = live[1]
            return service

    def _made(self) -> Service:
        self._validate_params()
        token_prices(self.price_per_million_tokens)
        check_url(self.url, self.key is not None)
        if self.verify is False and not is_loopback(urlsplit(self.url).hostname):
            raise ValueError(
                "verify=False would send images and keys to anyone who answers; expected True, or the path of a file "
                "with the certificate of the service's authority. Only a service on this machine may go without."
            )
        trusted = trusted_authorities(self.verify)
        make_client = partial(Client, self.url, self.max_response_bytes, trusted, self.adapter)
        gate = Gate(make_client, self.n_concurrent, self.requests_per_second)
        policy = RetryPolicy(self.max_attempts, self.patience, self.max_retry_after)
        first_timeouts = (self.first_timeout, self.adapter.first_timeout, self.timeout)
        first = next(timeout for timeout in first_timeouts if timeout is not None)
        service = Service(self.url, self.adapter, self.key, gate, policy, self.jpeg_quality, self.timeout, first)
        weakref.finalize(service, gate.close)
        return service


def _image_format(wanted: str | None, adapter: Adapter) -> str:
    if wanted is not None and (wanted == "raw") != (adapter.image_format == "raw"):
        raise ValueError(
            f"image_format={wanted!r} was given, but {type(adapter).__name__} takes {adapter.image_format!r}; files "
            "and pixels cannot replace each other. Leave out image_format, or set that of the adapter."
        )
    return wanted or adapter.image_format


def _images_per_request(wanted: int | None, adapter: Adapter) -> int:
    most = adapter.images_per_request
    if wanted is not None and most is not None and wanted > most:
        raise ValueError(
            f"images_per_request={wanted} was given, but {type(adapter).__name__} takes at most {most} in a request."
        )
    return wanted or most or _IMAGES_PER_REQUEST


def _joined(scores: tuple[Any, ...]) -> Any:
    if isinstance(scores[0], np.ndarray):
        return np.concatenate(scores)
    return [row for piece in scores for row in piece]
