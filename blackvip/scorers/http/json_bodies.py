"""JSON bodies: requests with files in them, and answers that are strictly JSON."""

from __future__ import annotations

import base64
import json
import re
import uuid
from typing import Any, NoReturn

from ...exceptions import ServiceError

__all__ = ["parse_json", "shortened", "to_json"]

_PLACE = uuid.uuid4().hex  # no text has it by chance
_SHOWN = 300  # characters of an answer that an error shows


def to_json(value: Any) -> bytes:
    """A value as JSON, in which bytes are text in base64.

    A file of a hundred kilobytes is put in when all else is encoded: JSON's encoder would look at each of its letters.

    Parameters
    ----------
    value : object
        What the module `json` takes, and bytes. NaN and infinity are errors.
    """
    files = []

    def place(item: Any) -> str:
        if not isinstance(item, bytes):
            raise TypeError(f"A request has a {type(item).__name__} in its JSON; expected what JSON knows, or bytes.")
        files.append(base64.b64encode(item))
        return _PLACE

    first, *others = json.dumps(value, default=place, allow_nan=False).encode().split(_PLACE.encode())
    return b"".join([first, *(piece for pair in zip(files, others) for piece in pair)])


def parse_json(content: bytes, content_type: str = "") -> Any:
    """The value that an answer's body holds.

    Parameters
    ----------
    content : bytes
        UTF-8.
    content_type : str, default=""
        What the answer calls itself. Only HTML is told by it: many services name their JSON something else.

    Raises
    ------
    ServiceError
        If the body is HTML, no JSON, holds NaN, infinity or a number too large for a float, names a key twice, or is
        nested too deep. Where it merely ends too early, `retry` is True.
    """
    text = _decoded(content)
    if "html" in content_type.lower() or text[:1] == "<":
        raise ServiceError(
            f"The service answered with a web page, {shortened(text)!r}; expected JSON. Is the url that of its "
            "interface, and is no login page or proxy in between?"
        )
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        torn = error.msg != "Extra data" and _ends_early(text, error.pos)
        ending = "ends too early" if torn else f"is no JSON ({error.msg} at character {error.pos})"
        raise ServiceError(f"The service's answer {ending}: {shortened(text)!r}; expected JSON.", retry=torn) from None
    except RecursionError:
        raise ServiceError(f"The service's answer is nested too deep: {shortened(text)!r}; expected scores.") from None
    except ServiceError:
        raise
    except ValueError:  # an integer of thousands of digits
        raise ServiceError(
            f"The service's answer holds an integer that is too long: {shortened(text)!r}; expected scores."
        ) from None


def shortened(value: Any, length: int = _SHOWN) -> str:
    """The beginning of a text, or of an object's JSON, with its white space collapsed."""
    text = value if isinstance(value, str) else repr(value)
    text = re.sub(r"\s+", " ", text[: 10 * length]).strip()
    return text if len(text) <= length else text[:length] + " ..."


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        torn = error.reason == "unexpected end of data"
        raise ServiceError(
            f"The service's answer is not UTF-8: {content[:40]!r}; expected JSON. Does the adapter override parse, if "
            "its answers are binary?",
            retry=torn,
        ) from None


def _ends_early(text: str, position: int) -> bool:
    """Whether a text that is no JSON is the beginning of one, as far as can be told."""
    closing = {"{": "}", "[": "]", '"': '"'}.get(text[:1])
    return not text or (closing is not None and (position >= len(text) or not text.endswith(closing)))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ServiceError(f"The service's answer names {shortened(twice)!r} twice in one object; expected it once.")
    return members


def _constant(token: str) -> NoReturn:
    raise ServiceError(
        f"The service's answer holds {token}, which is no JSON; expected finite numbers, and null or nothing where "
        "there is no score."
    )


def _float(digits: str) -> float:
    number = float(digits)
    if number - number != 0:
        raise ServiceError(f"The service's answer holds {shortened(digits, 40)}, which is too large for a float.")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
