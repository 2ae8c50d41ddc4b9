"""JSON bodies: requests that contain files, and answers in strict JSON."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any, NoReturn

import pybase64

from ...exceptions import ServiceError

__all__ = ["error_codes", "parse_json", "shortened", "to_json"]

# Placeholder for a file; no text contains it by chance.
_PLACE = uuid.uuid4().hex
# Characters of an answer that an error shows.
_SHOWN = 300


def to_json(value: Any) -> bytes:
    """Encode a value as JSON, with bytes as base64 text.

    Files are inserted after everything else is encoded, since JSON's encoder would inspect each of their characters.

    Parameters
    ----------
    value : object
        Anything that the module `json` takes, and bytes. NaN and infinity raise errors.

    Returns
    -------
    body : bytes
    """
    files = []

    def place(item: Any) -> str:
        if not isinstance(item, bytes):
            raise TypeError(f"A request has a {type(item).__name__} in its JSON; expected JSON types or bytes.")
        files.append(pybase64.b64encode(item))
        return _PLACE

    first, *others = json.dumps(value, default=place, allow_nan=False).encode().split(_PLACE.encode())
    return b"".join([first, *(piece for pair in zip(files, others) for piece in pair)])


def parse_json(content: bytes, content_type: str = "") -> Any:
    """Parse the body of an answer.

    Parameters
    ----------
    content : bytes
        UTF-8 text.
    content_type : str, default=""
        Declared type of the answer. It is only used to detect HTML, since many services declare a wrong type for JSON.

    Returns
    -------
    value : object

    Raises
    ------
    ServiceError
        If the body is HTML or not JSON, contains NaN, infinity or a number too large for a float, has a key twice, or
        is nested too deep. `retry` is True if it is merely truncated.
    """
    text = _decoded(content)
    if "html" in content_type.lower() or text[:1] == "<":
        raise ServiceError(
            f"The service answered with a web page, {shortened(text)!r}; expected JSON. Is the url that of its "
            "API, without a login page or proxy in between?"
        )
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        torn = error.msg != "Extra data" and _ends_early(text, error.pos)
        ending = "is truncated" if torn else f"is not JSON ({error.msg} at character {error.pos})"
        raise ServiceError(f"The service's answer {ending}: {shortened(text)!r}; expected JSON.", retry=torn) from None
    except RecursionError:
        raise ServiceError(f"The service's answer is nested too deep: {shortened(text)!r}; expected scores.") from None
    except ServiceError:
        raise
    # An integer with thousands of digits.
    except ValueError:
        raise ServiceError(
            f"The service's answer contains an integer that is too long: {shortened(text)!r}; expected scores."
        ) from None


def error_codes(content: bytes) -> set[str]:
    """Return the codes in the body of an error: `code`, `type` and `status` of its object, `error` or `errors`.

    Parameters
    ----------
    content : bytes
        Beginning of the body.

    Returns
    -------
    codes : set of str
        Numbers as text. Empty if the body is not such an object.
    """
    try:
        body = parse_json(content)
    except ServiceError:
        return set()
    objects = [body, body.get("error")] if isinstance(body, dict) else []
    objects += several if objects and isinstance(several := body.get("errors"), list) else []
    found = [part.get(name) for part in objects if isinstance(part, dict) for name in ("code", "type", "status")]
    return {str(code) for code in found if isinstance(code, (str, int)) and not isinstance(code, bool)}


def shortened(value: Any, length: int = _SHOWN) -> str:
    """Return the beginning of a text, or of an object's repr, with white space collapsed."""
    text = value if isinstance(value, str) else repr(value)
    text = re.sub(r"\s+", " ", text[: 10 * length]).strip()
    return text if len(text) <= length else text[:length] + " ..."


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        torn = error.reason == "unexpected end of data"
        raise ServiceError(
            f"The service's answer is not UTF-8: {content[:40]!r}; expected JSON. An adapter for binary answers must "
            "override parse.",
            retry=torn,
        ) from None


def _ends_early(text: str, position: int) -> bool:
    """Return whether a text that is not JSON may be truncated JSON."""
    closing = {"{": "}", "[": "]", '"': '"'}.get(text[:1])
    return not text or (closing is not None and (position >= len(text) or not text.endswith(closing)))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ServiceError(
            f"The service's answer has the key {shortened(twice)!r} twice in one object; expected it once."
        )
    return members


def _constant(token: str) -> NoReturn:
    raise ServiceError(
        f"The service's answer contains {token}, which is not JSON; expected finite numbers, and null or nothing "
        "for a missing score."
    )


def _float(digits: str) -> float:
    number = float(digits)
    if number - number != 0:
        raise ServiceError(f"The service's answer contains {shortened(digits, 40)}, which is too large for a float.")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
