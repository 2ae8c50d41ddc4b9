"""An HTTP client that limits a request's time, its size and where it may go."""

from __future__ import annotations

import email.utils
import math
import ssl
import time
import zlib
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from ...exceptions import Refusal, ServiceError
from .adapter import Adapter
from .json_bodies import shortened
from .keys import is_loopback
from .retrying import UnreachableError

__all__ = ["Client", "Message", "trusted_authorities", "whole_url"]

# Retried statuses, in addition to 5xx; and those of them that last: not implemented, and version not supported.
_RETRIED, _LASTING = (408, 409, 425, 429), (501, 505)
# Without 303, which asks for a GET and so cannot answer a request with images.
_REDIRECTS = (301, 302, 307, 308)
_MAX_REDIRECTS = 3
_HEADERS = {"accept": "*/*", "accept-encoding": "gzip", "user-agent": "blackvip"}
# Seconds after which an idle connection is not reused.
_IDLE = 60.0
# Bytes that are read of an error's body.
_ERROR_BYTES = 65_536
# Errors of a connection, other than those that have a message of their own.
_BROKEN = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError)
_ADVICE = {
    401: " Is the key correct?",
    403: " Is the key allowed to use this service?",
    404: " Are the url and the model's name correct?",
    501: " Does the model support this protocol?",
    413: " Send fewer images per request, or smaller ones (max_size, image_format='jpeg').",
}


@dataclass(frozen=True)
class Message:
    """A message to be sent: a full url, a body and all headers."""

    method: str
    url: str
    # The headers contain the key.
    headers: Mapping[str, str] = field(repr=False)
    content: bytes | None = field(repr=False)


class Client:
    """A persistent connection to one service.

    Parameters
    ----------
    url : str
        The service's url. It decides whether the environment's proxy is used.
    max_response_bytes : int
        Maximal size of an answer, both as received and decompressed.
    trusted : SSLContext
        See `trusted_authorities`.
    adapter : Adapter
        It knows which errors pass.
    """

    def __init__(
        self,
        url: str,
        max_response_bytes: int,
        trusted: ssl.SSLContext,
        adapter: Adapter,
    ):
        self._adapter = adapter
        self.max_response_bytes = max_response_bytes
        # Its connections are used without httpx and the pool itself, which take a third of the time per request.
        self._pool = httpcore.ConnectionPool(trusted, _proxy(url), keepalive_expiry=_IDLE)
        self._last: httpcore.ConnectionInterface | None = None

    def close(self) -> None:
        """Close the connection."""
        if self._last is not None:
            self._last.close()

    def send(self, message: Message, timeout: float) -> tuple[bytes, Mapping[str, str]]:
        """Send a message once and return the body and the headers of the answer.

        Parameters
        ----------
        message : Message
        timeout : float
            Time limit in seconds to connect, to wait for the next piece of the answer, and to receive the whole answer.

        Raises
        ------
        ServiceError
            If there is no answer, or it is an error. `retry` is True if the same message may succeed later.
        """
        for _ in range(1 + _MAX_REDIRECTS):
            answer = self._exchange(message, timeout)
            if not isinstance(answer, Message):
                return answer
            message = answer
        raise ServiceError(f"The service redirected the request more than {_MAX_REDIRECTS} times; expected an answer.")

    def _exchange(self, message: Message, timeout: float) -> tuple[bytes, Mapping[str, str]] | Message:
        """Return an answer, or the message for the target of a redirect."""
        deadline = _Deadline(time.monotonic() + timeout, timeout)
        kind, failure = ServiceError, ("", True)
        try:
            url, authority = _parsed(message.url)
            headers: Any = {"host": authority, **_HEADERS, **message.headers}
            if message.content is not None:
                headers["content-length"] = str(len(message.content))
            request = httpcore.Request(
                message.method, url, headers=headers, content=message.content, extensions=_extensions(timeout)
            )
            with closing(self._connection(url.origin).handle_request(request)) as response:
                told = httpx.Headers(response.headers)
                if 200 <= response.status < 300:
                    return _body(response, told, self.max_response_bytes, deadline), told
                if response.status in _REDIRECTS and "location" in told:
                    return _redirected(message, told["location"])
                raise self._error(response, told, deadline)
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            kind = UnreachableError
            if _is_untrusted(error):
                failure = f"has a certificate that this machine does not trust ({error})", False
            else:
                failure = f"cannot be reached ({error})", True
        except httpcore.TimeoutException:
            failure = f"did not answer within {timeout:g} s", True
        except _BROKEN as error:
            # Its text never contains a header's value.
            retry = not isinstance(error, httpcore.LocalProtocolError)
            failure = f"broke the connection ({type(error).__name__}: {error})", retry
        host = urlsplit(message.url).netloc
        # Raised outside the except blocks, without httpcore's error as its context.
        raise kind(f"The service at {host} {failure[0]}.", retry=failure[1])

    def _connection(self, origin: httpcore.Origin) -> httpcore.ConnectionInterface:
        """Return the last connection if it is still open and leads there, else a new one."""
        last = self._last
        if last is None or last.is_closed() or last.has_expired() or not last.can_handle_request(origin):
            self.close()
            last = self._last = self._pool.create_connection(origin)
        return last

    def _error(self, response: httpcore.Response, headers: Mapping[str, str], deadline: _Deadline) -> ServiceError:
        status = response.status
        try:
            content = _body(response, headers, _ERROR_BYTES, deadline, cut=True)
        except (ServiceError, httpcore.TimeoutException, *_BROKEN):
            content = b""
        text = content.decode("utf-8", "replace")
        said = f": {shortened(text)}" if text.strip() else ""
        reason = response.extensions["reason_phrase"].decode("ascii", "ignore")
        message = f"The service answered with {status} {reason}{said}."
        if status >= 400 and self._adapter.is_refusal(status, content):
            return Refusal(message, status=status)
        asked = headers.get("x-should-retry", "").strip().lower()
        retry = (status in _RETRIED or (status >= 500 and status not in _LASTING)) and asked != "false"
        if retry and self._adapter.is_final(status, content):
            return ServiceError(
                f"{message} It lasts: is the quota spent, or the account without credit?", status=status
            )
        if retry or (status >= 400 and asked == "true"):
            return ServiceError(message, True, _retry_after(headers), status)
        # Some services throttle with a 400.
        if status >= 400 and asked != "false" and self._adapter.is_passing(status, content):
            return ServiceError(message, True, _retry_after(headers), 429)
        if 300 <= status < 400:
            target = shortened(headers.get("location", ""), 200)
            return ServiceError(f"{message} The redirect to {target!r} was not followed.", status=status)
        return ServiceError(message + _ADVICE.get(status, ""), status=status)


@dataclass(frozen=True)
class _Deadline:
    """The end of the time for an answer, and the limit that set it, in seconds."""

    end: float
    timeout: float


def _body(
    response: httpcore.Response, headers: Mapping[str, str], limit: int, deadline: _Deadline, cut: bool = False
) -> bytes:
    """Return the body, decompressed piece by piece so that at most `limit` bytes are held in memory.

    A longer body is cut off if `cut` is True, and otherwise raises an error.
    """
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip", "deflate"):
        raise ServiceError(f"The service's answer is compressed with {shortened(encoding, 40)!r}; expected gzip.")
    inflate = None if encoding in ("identity", "") else zlib.decompressobj(zlib.MAX_WBITS | 32)
    body = bytearray()
    for piece in response.iter_stream():
        if time.monotonic() > deadline.end:
            raise ServiceError(f"The service did not finish its answer within {deadline.timeout:g} s.", retry=True)
        try:
            body += piece if inflate is None else inflate.decompress(piece, limit + 1 - len(body))
        except zlib.error:
            raise ServiceError("The service's answer cannot be decompressed.", retry=True) from None
        if len(body) > limit:
            if cut:
                return bytes(body[:limit])
            raise ServiceError(
                f"The service's answer has more than {limit} bytes; expected scores. Raise max_response_bytes if "
                "such long answers are valid."
            )
    if inflate is not None and not inflate.eof:
        raise ServiceError("The service's compressed answer is truncated.", retry=True)
    return bytes(body)


@lru_cache(maxsize=64)
def _extensions(timeout: float) -> dict[str, Any]:
    return {"timeout": dict.fromkeys(["connect", "read", "write"], timeout)}


@lru_cache(maxsize=64)
def _parsed(url: str) -> tuple[httpcore.URL, bytes]:
    """Return a url in the form that httpcore takes, and its host and port as the header "host" has them."""
    return _core_url(httpx.URL(url)), httpx.URL(url).netloc


def _core_url(url: httpx.URL) -> httpcore.URL:
    return httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


def _proxy(url: str) -> httpcore.Proxy | None:
    """Return the environment's proxy for a url, if there is one."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    found = None if is_loopback(host) or proxy_bypass(host) else getproxies().get(parts.scheme)
    if found is None:
        return None
    proxy = httpx.Proxy(found)
    return httpcore.Proxy(_core_url(proxy.url), proxy.raw_auth, proxy.headers.raw)


def _redirected(message: Message, location: str) -> Message:
    """Return the same message for the target of a redirect, which must be on the same host and no less secure."""
    try:
        url = urljoin(message.url, location)
        old, new = urlsplit(message.url), urlsplit(url)
        same = (new.hostname, new.scheme, new.port) == (old.hostname, old.scheme, old.port)
    except ValueError:
        raise ServiceError(f"The service redirects to {shortened(location, 200)!r}, which is not a url.") from None
    safer = new.hostname == old.hostname and (old.scheme, new.scheme, new.port) == ("http", "https", None)
    if not (same or safer):
        raise ServiceError(
            f"The service redirects from {old.scheme}://{old.netloc} to {new.scheme}://{shortened(new.netloc, 100)}, "
            "but images and keys are only sent to the given url. Use the new url if you trust it."
        )
    return Message(message.method, url, message.headers, message.content)


def _is_untrusted(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that the service asks to wait, given as a number or a date; None if there are none."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        with suppress(ValueError):
            number = float(headers.get(name, ""))
            if math.isfinite(number):
                return max(0.0, number / unit)
    try:
        then = email.utils.parsedate_to_datetime(headers.get("retry-after", "").strip())
    except ValueError:
        return None
    return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def trusted_authorities(verify: bool | str) -> ssl.SSLContext:
    """Return the trusted authorities: httpx's for True, those in a file for a path, no check at all for False."""
    if isinstance(verify, str):
        return ssl.create_default_context(cafile=verify)
    return httpx.create_ssl_context(verify=verify)


@lru_cache(maxsize=64)
def whole_url(url: str, path: str, params: tuple[tuple[str, str], ...]) -> str:
    """Return the address of a path below a service's url, with a query."""
    parts = urlsplit(url)
    joined = f"{parts.path.rstrip('/')}/{path.lstrip('/')}" if path else parts.path
    query = "&".join(filter(None, [parts.query, urlencode(params)]))
    return parts._replace(path=joined, query=query).geturl()
