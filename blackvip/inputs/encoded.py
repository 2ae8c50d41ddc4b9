"""Contents of image files in any container: bytes, arrays of bytes, base64 text, data URLs and open files.

Arrays and texts may also be other things than files. They count as a file if they begin with the signature of a format
that Pillow reads.
"""

from __future__ import annotations

import array
import base64
import binascii
import io
import os
import re
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np

from ..exceptions import ImageError

__all__ = ["content_of", "is_buffer", "is_file", "is_row_of_bytes", "path_in", "shortened"]

_SIGNATURES = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",
    b"MM\0*",
    b"8BPS",
    b"DDS ",
    b"qoif",
    b"\0\0\0\x0cjP  ",
    b"\xff\x4f\xff\x51",
    b"%!PS",
)
_HEAD = 16  # bytes that hold a signature
_INTEGER = re.compile(r"(torch\.)?u?int\d+$", re.IGNORECASE)
_BASE64 = re.compile(r"\s*(?:[A-Za-z0-9+/_-]\s*){24}")
_ADDRESS = re.compile(r"(https?|ftps?|s3|gs|gcs|az|abfss?|hf|file):/", re.IGNORECASE)
_MOST_SHOWN = 80  # characters of an input that an error repeats


def shortened(value: Any) -> str:
    """Shorten the text of an input to 80 characters for an error; the end of a path is kept."""
    text = str(value)
    half = _MOST_SHOWN // 2
    return text if len(text) <= _MOST_SHOWN else f"{text[: half - 3]}...{text[-half:]}"


def is_file(item: Any) -> bool:
    """Return whether an item is an open file, or an object that is read like one."""
    return callable(getattr(item, "read", None))


def is_row_of_bytes(item: Any) -> bool:
    """Return whether an item is an array, tensor or list of bytes that begins like an image file."""
    if isinstance(item, (list, tuple, array.array)):
        head = item[:_HEAD]
        return (
            len(head) == _HEAD
            and all(type(value) is int and 0 <= value < 256 for value in head)
            and _has_signature(bytes(head))
        )
    shape = tuple(getattr(item, "shape", ()))
    # OpenCV has returned encoded images as a column, too.
    is_vector = len(shape) == 1 or (len(shape) == 2 and 1 in shape)
    if not is_vector or not _INTEGER.match(str(getattr(item, "dtype", ""))):
        return False
    numbers = _numbers_of(item[0][:_HEAD] if len(shape) == 2 and shape[1] > 1 else item[:_HEAD])
    return bool(((numbers >= 0) & (numbers < 256)).all()) and _has_signature(numbers.astype(np.uint8).tobytes())


def is_buffer(item: Any) -> bool:
    """Return whether an item is bytes in memory, such as a buffer of pyarrow, and not an array."""
    if hasattr(item, "shape") or isinstance(item, (str, array.array)):
        return False
    try:
        view = memoryview(item)
    except (TypeError, BufferError, ValueError):
        return False
    return view.ndim == 1 and view.itemsize == 1


def content_of(item: Any) -> bytes | None:
    """Return the content of an image file.

    Parameters
    ----------
    item : object
        An image in any form that `blackvip.inputs.sources` lists.

    Returns
    -------
    content : bytes or None
        None if the item is a path, or neither a file nor its content.

    Raises
    ------
    ImageError
        If the item is a data URL, base64 text or an open file that cannot be read.
    """
    if isinstance(item, str):
        return _content_of_text(item)
    if isinstance(item, (bytes, bytearray, memoryview)):
        data = bytes(item)
        if not _has_signature(data[:_HEAD]) and _holds_content(data[:99].decode("latin-1")):
            return _content_of_text(data.decode("latin-1"))
        return data
    if is_file(item):
        return _content_of_file(item)
    if is_row_of_bytes(item):
        return _numbers_of(item).astype(np.uint8).tobytes()
    return bytes(memoryview(item)) if is_buffer(item) else None


def path_in(item: Any) -> str | None:
    """Return the path that a text or path-like object holds.

    Parameters
    ----------
    item : object
        An image in any form that `blackvip.inputs.sources` lists.

    Returns
    -------
    path : str or None
        The path, with `~` expanded; None if the item is another object.

    Raises
    ------
    ImageError
        If it is an address, such as one that starts with "https:".
    """
    if not isinstance(item, (str, os.PathLike)) or (isinstance(item, str) and _holds_content(item)):
        return None
    path = os.path.expanduser(os.fsdecode(item))
    address = _ADDRESS.match(path)
    if address is not None:
        advice = "pass its path" if address[1].lower() == "file" else "download it first"
        raise ImageError(f"it is an address ({address[1]}), not a path; {advice}")
    return path


def _numbers_of(values: Any) -> np.ndarray:
    return np.asarray(values.cpu() if hasattr(values, "cpu") else values).ravel()


def _has_signature(head: bytes) -> bool:
    return (
        head.startswith(_SIGNATURES)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[4:8] == b"ftyp" and head[:3] == bytes(3))
        or (head[:2] == b"BM" and head[6:10] == bytes(4))
        or (head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace())
    )


def _holds_content(text: str) -> bool:
    return _is_data_url(text) or _is_base64(text[:99])


def _is_data_url(text: str) -> bool:
    return text[:99].lstrip()[:5].lower() == "data:"


def _is_base64(head: str | bytes) -> bool:
    """Return whether a text begins like an image file in base64."""
    found = _BASE64.match(head if isinstance(head, str) else head.decode("latin-1"))
    return found is not None and _has_signature(base64.urlsafe_b64decode(_urlsafe(found[0])[:24]))


def _urlsafe(text: str) -> str:
    return "".join(text.split()).replace("+", "-").replace("/", "_")


def _content_of_text(text: str) -> bytes | None:
    if not _holds_content(text):
        return None
    if _is_data_url(text):
        header, comma, text = text.partition(",")
        if not comma:
            raise ImageError("it is a data URL without a comma; expected the content of the file behind one")
        data = unquote_to_bytes(text)
        if not header.lower().rstrip().endswith(";base64"):
            return data
        text = data.decode("latin-1")
    body = _urlsafe(text).rstrip("=")
    try:
        return base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError("its base64 text is damaged; encode the file again") from error


def _content_of_file(file: Any) -> bytes:
    """Read an open file from its beginning, and restore its position."""
    if isinstance(file, io.TextIOBase):
        raise ImageError("it is a file opened as text; open it with mode 'rb'")
    try:
        position = file.tell()
        file.seek(0)
    except (OSError, AttributeError) as error:
        # A stream can be read once, but images are read when they are checked and when they are sent.
        raise ImageError("it is a stream that cannot be rewound; pass its content, file.read()") from error
    data = file.read()
    file.seek(position)
    if not isinstance(data, (bytes, bytearray)):
        raise ImageError("it is a file opened as text; open it with mode 'rb'")
    return bytes(data)
