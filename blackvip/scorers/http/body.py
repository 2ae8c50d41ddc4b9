"""JSON bodies with files in them."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

__all__ = ["to_json"]

_PLACE = uuid.uuid4().hex  # no text has it by chance


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
