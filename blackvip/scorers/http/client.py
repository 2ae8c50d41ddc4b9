"""One HTTP request within limits: of time, of size, of where it may go."""

from __future__ import annotations

import email.utils
import math
import ssl
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import urlencode, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from ...exceptions import ServiceError
from .json_bodies import shortened
from .keys import is_loopback
from .retrying import UnreachableError

__all__ = ["Client", "Message", "trusted_authorities", "whole_url"]

_RETRIED = (408, 409, 425, 429)  # besides 5xx
_REDIRECTS = (301, 302, 307, 308)  # 303 asks for a GET, which is no answer to a request with images
_MAX_REDIRECTS = 3
_HEADERS = {"accept": "*/*", "accept-encoding": "gzip", "user-agent": "blackvip"}
_IDLE = 60.0  # seconds after which a connection is not used again
_ERROR_BYTES = 65_536  # of the body of an error that are read
_ADVICE = {
    401: " Is the key the right one?",
    403: " Is the key allowed to use this service?",
    404: " Is the url right, and the model's name?",
    413: " Send fewer images in a request, or smaller ones (max_size, image_format='jpeg').",
}


@dataclass(frozen=True)
class Message:
    """What is sent: a whole url, a body and all headers."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)  # with the key
    content: bytes | None = field(repr=False)


class Client:
    """A connection to one service, which is kept.

    Parameters
    ----------
    url : str
        The service's, which tells whether it is reached by the proxy that the environment names.
    timeout : float
        Seconds to connect, to wait for the next piece of an answer, and for the whole of it.
    max_response_bytes : int
        Of an answer, as it comes and decompressed.
    trusted : SSLContext
        See `trusted_authorities`.
    is_passing : callable
        `Adapter.is_passing`.
    """

    def __init__(
        self,
        url: str,
        timeout: float,
        max_response_bytes: int,
        trusted: ssl.SSLContext,
        is_passing: Callable[[int, bytes], bool],
    ):
        self.timeout = timeout
        self._is_passing = is_passing
        self.max_response_bytes = max_response_bytes
        limits = httpx.Limits(max_connections=1, keepalive_expiry=_IDLE)
        # Without httpx.Client around it: no cookies, no redirects, and half the time of a request.
        self._transport = httpx.HTTPTransport(verify=trusted, limits=limits, proxy=_proxy(url))
        self._extensions = {"timeout": httpx.Timeout(timeout).as_dict()}

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def send(self, message: Message) -> tuple[bytes, Mapping[str, str]]:
        """The body and the headers of the answer to one attempt.

        Raises
        ------
        ServiceError
            If there is no answer, or it is an error. `retry` is True where the same message may fare better later.
        """
        for _ in range(1 + _MAX_REDIRECTS):
            answer = self._exchange(message)
            if not isinstance(answer, Message):
                return answer
            message = answer
        raise ServiceError(f"The service redirects more than {_MAX_REDIRECTS} times; expected an answer.")

    def _exchange(self, message: Message) -> tuple[bytes, Mapping[str, str]] | Message:
        """An answer, or where a redirect leads."""
        deadline = time.monotonic() + self.timeout
        kind, failure = ServiceError, ("", True)
        try:
            request = httpx.Request(
                message.method,
                _parsed(message.url),
                headers={**_HEADERS, **message.headers},
                content=message.content,
                extensions=self._extensions,
            )
            with closing(self._transport.handle_request(request)) as response:
                if response.is_success:
                    return self._body(response, self.max_response_bytes, deadline), response.headers
                if response.status_code in _REDIRECTS and "location" in response.headers:
                    return _redirected(message, response.headers["location"])
                raise self._error(response, deadline)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            kind = UnreachableError
            if _is_untrusted(error):
                failure = f"has no certificate that this machine trusts ({error})", False
            else:
                failure = f"cannot be reached ({error})", True
        except httpx.TimeoutException:
            failure = f"did not answer within {self.timeout:g} s", True
        except httpx.RequestError as error:  # its text never holds a header's value
            retry = not isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError))
            failure = f"broke the connection ({type(error).__name__}: {error})", retry
        host = urlsplit(message.url).netloc
        raise kind(f"The service at {host} {failure[0]}.", retry=failure[1])  # here: without httpx's context

    def _body(self, response: httpx.Response, limit: int, deadline: float, cut: bool = False) -> bytes:
        """The body, decompressed piece by piece, so that no more than `limit` bytes are ever held.

        With `cut`, a longer body is cut off; else it is an error.
        """
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "", "gzip", "x-gzip", "deflate"):
            raise ServiceError(f"The service's answer is compressed with {shortened(encoding, 40)!r}; expected gzip.")
        inflate = None if encoding in ("identity", "") else zlib.decompressobj(zlib.MAX_WBITS | 32)
        body = bytearray()
        for piece in response.iter_raw():
            if time.monotonic() > deadline:
                raise ServiceError(f"The service did not end its answer within {self.timeout:g} s.", retry=True)
            try:
                body += piece if inflate is None else inflate.decompress(piece, limit + 1 - len(body))
            except zlib.error:
                raise ServiceError("The service's answer is broken where it is compressed.", retry=True) from None
            if len(body) > limit:
                if cut:
                    return bytes(body[:limit])
                raise ServiceError(
                    f"The service's answer has more than {limit} bytes; expected scores. Raise max_response_bytes if "
                    "it may be so long."
                )
        if inflate is not None and not inflate.eof:
            raise ServiceError("The service's answer ends too early where it is compressed.", retry=True)
        return bytes(body)

    def _error(self, response: httpx.Response, deadline: float) -> ServiceError:
        status = response.status_code
        try:
            content = self._body(response, _ERROR_BYTES, deadline, cut=True)
        except (ServiceError, httpx.RequestError):
            content = b""
        text = content.decode("utf-8", "replace")
        said = f": {shortened(text)}" if text.strip() else ""
        message = f"The service answered with {status} {response.reason_phrase}{said}."
        retry = status in _RETRIED or status >= 500
        if retry:
            return ServiceError(message, True, _retry_after(response.headers), status)
        if status >= 400 and self._is_passing(status, content):  # some services throttle with 400
            return ServiceError(message, True, _retry_after(response.headers), 429)
        if 300 <= status < 400:
            target = shortened(response.headers.get("location", ""), 200)
            return ServiceError(f"{message} It leads to {target!r}, which is not followed.", status=status)
        return ServiceError(message + _ADVICE.get(status, ""), status=status)


@lru_cache(maxsize=64)
def _parsed(url: str) -> httpx.URL:
    return httpx.URL(url)


def _proxy(url: str) -> str | None:
    parts = urlsplit(url)
    host = parts.hostname or ""
    return None if is_loopback(host) or proxy_bypass(host) else getproxies().get(parts.scheme)


def _redirected(message: Message, location: str) -> Message:
    """The same message to where a redirect leads, on the same host and no less safe."""
    try:
        url = urljoin(message.url, location)
        old, new = urlsplit(message.url), urlsplit(url)
        same = (new.hostname, new.scheme, new.port) == (old.hostname, old.scheme, old.port)
    except ValueError:
        raise ServiceError(f"The service redirects to {shortened(location, 200)!r}, which is no url.") from None
    safer = new.hostname == old.hostname and (old.scheme, new.scheme, new.port) == ("http", "https", None)
    if not (same or safer):
        raise ServiceError(
            f"The service redirects from {old.scheme}://{old.netloc} to {new.scheme}://{shortened(new.netloc, 100)}, "
            "and images and keys are not sent elsewhere. Give the new url if you trust it."
        )
    return Message(message.method, url, message.headers, message.content)


def _is_untrusted(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the service asks to wait, as a number or a date; None where it says nothing that can be read."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            then = email.utils.parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def trusted_authorities(verify: bool | str) -> ssl.SSLContext:
    """Whose certificates are believed: True, those whom httpx trusts; a path, those in that file; False, anyone's."""
    if isinstance(verify, str):
        return ssl.create_default_context(cafile=verify)
    return httpx.create_ssl_context(verify=verify)


@lru_cache(maxsize=64)
def whole_url(url: str, path: str, params: tuple[tuple[str, str], ...]) -> str:
    """The address of a path below a service's url, with a query."""
    parts = urlsplit(url)
    joined = f"{parts.path.rstrip('/')}/{path.lstrip('/')}" if path else parts.path
    query = "&".join(filter(None, [parts.query, urlencode(params)]))
    return parts._replace(path=joined, query=query).geturl()
