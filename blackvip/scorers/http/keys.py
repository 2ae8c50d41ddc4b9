"""Keys: given by the name of an environment variable or by a function, and never shown."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Iterable
from types import FunctionType
from urllib.parse import parse_qsl, quote, urlsplit

from ...exceptions import ServiceError

__all__ = ["check_key", "check_url", "is_loopback", "key_header", "read_key", "without_secrets"]

Key = str | Callable[[], str] | None

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_USUAL_NAME = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
# A word of this length without an underscore looks like a key.
_LONG = 16
_SECRET_FIELD = re.compile(r"(^|[-_.])(api)?(key|token|secret|password|signature|sig|credential)s?$", re.IGNORECASE)
# Parts of a key with at least this many characters are redacted on their own.
_SECRET = 6


def check_key(key: Key) -> None:
    """Raise an error if `key` is neither the name of an environment variable nor a function. It never shows the key.

    A name either exists in the environment or looks like one: capitals, digits and underscores.
    """
    if key is None or isinstance(key, FunctionType):
        return
    if isinstance(key, str):
        usual = _USUAL_NAME.fullmatch(key) and (len(key) < _LONG or "_" in key)
        if _NAME.fullmatch(key) and (usual or key in os.environ):
            return
        raise ValueError(
            "The key does not look like the name of an environment variable, and is redacted here in case it is the "
            "key itself; expected such a name, as in key='SERVICE_KEY'. Store the key in the environment, or pass a "
            "function that returns it."
        )
    raise TypeError(
        f"key is a {type(key).__name__}; expected the name of an environment variable, a function without arguments "
        "that returns the key, or None."
    )


def read_key(key: Key) -> str | None:
    """Return the current value of the key.

    Raises
    ------
    ServiceError
        If there is none, or no header can contain it.
    """
    if key is None:
        return None
    if isinstance(key, str):
        value, source = os.environ.get(key), f"the environment variable {key}"
    else:
        value, source = key(), "the function given as key"
    if not isinstance(value, str) or not value.strip():
        raise ServiceError(f"There is no key in {source}; expected one. Set it and call again.")
    value = value.strip()
    if not (value.isascii() and value.isprintable()):
        raise ServiceError(
            f"The key in {source} has characters that are not allowed in an HTTP header; expected printable ASCII."
        )
    return value


def key_header(name: str, key: str | None) -> dict[str, str]:
    """Return the header of some name with a key, which follows "Bearer" in Authorization; nothing without a key."""
    return {} if key is None else {name: f"Bearer {key}" if name.lower() == "authorization" else key}


def check_url(url: str, has_key: bool) -> None:
    """Raise a `ValueError` if `url` is not a url, contains a secret, or would send a key without encryption."""
    parts = urlsplit(url) if isinstance(url, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
        shown = "The url" if parts is not None and "@" in url else repr(url)
        raise ValueError(f"{shown} is not the url of a service; expected something like 'https://host/path'.")
    fields = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True) if _SECRET_FIELD.search(name)]
    if parts.username is not None or parts.password is not None or fields:
        where = f"the field {fields[0]!r} of the url's query" if fields else "the url"
        raise ValueError(
            f"There seems to be a secret in {where}, where it would be shown and stored; expected a url without one. "
            "Store the secret in an environment variable and pass the variable's name as key."
        )
    if has_key and parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError(
            f"The key would be sent to {parts.hostname} without encryption; expected an https url, or a service on "
            "this machine."
        )


def is_loopback(host: str | None) -> bool:
    """Return whether a host is this machine."""
    return host is not None and (host in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None)


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """Redact every secret in a text, including its longer parts and its usual encodings."""
    hidden = set()
    for secret in secrets:
        parts = [secret, *re.split(r"[\s:,;=]+", secret)]
        for part in (part for part in parts if len(part) >= _SECRET or part == secret):
            hidden |= {part, quote(part, safe=""), json.dumps(part)[1:-1], base64.b64encode(part.encode()).decode()}
    for part in sorted(filter(None, hidden), key=len, reverse=True):
        text = text.replace(part, "***")
    return text
