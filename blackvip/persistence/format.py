"""The format: one safetensors file, with a JSON document and a checksum in its metadata.

This module does not know what is saved. Reading takes no more memory than the bytes of the file justify: no number in
a file decides how much is allocated, and no name in it is used as a path, a module or an attribute.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import safetensors.numpy

from ..exceptions import PersistenceError

__all__ = ["MAX_BYTES", "decode", "encode", "expect", "read", "write"]

MAX_BYTES = 2 * 2**30  #: The largest file that is written or read.
MAX_HEADER_BYTES = 64 * 2**20  #: The largest header, which names the tensors and holds the document.
#: Data types of tensors, by their names in a file.
DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("f8"),
    "F32": np.dtype("f4"),
    "I64": np.dtype("i8"),
    "BOOL": np.dtype("?"),
}

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# Quotes within a text have a backslash, so only a key matches.
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_NO_DIGEST = "0" * 64  # stands in for the digest while it is computed


def expect(holds: bool, message: str) -> None:
    """Raise a `PersistenceError` with this message unless the condition holds."""
    if not holds:
        raise PersistenceError(message)


def encode(document: dict[str, Any], tensors: dict[str, np.ndarray]) -> bytes:
    """Return the bytes of a file; equal contents give equal bytes.

    Parameters
    ----------
    document : dict
        A JSON document.
    tensors : dict of str to ndarray
        Arrays by their names.

    Returns
    -------
    data : bytes
        A safetensors file with a checksum.

    Raises
    ------
    PersistenceError
        If the file would be too large to be read.
    """
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    header: dict[str, Any] = {"__metadata__": {"blackvip": text, "sha256": _NO_DIGEST}}
    # The widest data types come first, so all tensors are aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    end = 0
    for name in names:
        start, end = end, end + tensors[name].nbytes
        shape = list(tensors[name].shape)
        header[name] = {"dtype": _NAMES[tensors[name].dtype], "shape": shape, "data_offsets": [start, end]}
    head = json.dumps(header, separators=(",", ":")).encode("ascii")
    head += b" " * (-len(head) % 8)
    expect(len(head) <= MAX_HEADER_BYTES, f"its description has {len(head)} bytes; expected {MAX_HEADER_BYTES} at most")
    expect(8 + len(head) + end <= MAX_BYTES, f"it has {end} bytes of arrays; expected {MAX_BYTES} at most")
    data = bytearray(len(head).to_bytes(8, "little") + head)
    for name in names:
        data += tensors[name].astype(tensors[name].dtype.newbyteorder("<")).tobytes()
    start, end = _digest_span(data)
    data[start:end] = _digest(data, start, end).encode("ascii")
    return bytes(data)


def decode(data: bytes) -> tuple[Any, dict[str, np.ndarray]]:
    """Read the bytes of a file and check its checksum; the contents are not to be trusted yet.

    Parameters
    ----------
    data : bytes
        The file.

    Returns
    -------
    document : dict
        Its JSON document.
    tensors : dict of str to ndarray
        Its arrays by their names.

    Raises
    ------
    PersistenceError
        If the file is damaged or has another format.
    """
    start, end = _digest_span(data)
    expect(
        data[start:end] == _digest(data, start, end).encode("ascii"),
        "its checksum is wrong: it is damaged, or not written by `save`",
    )
    header = _json(data[8 : 8 + _header_bytes(data)])
    metadata = header.pop("__metadata__")
    expect(metadata.keys() == {"blackvip", "sha256"}, f"its metadata have the keys {sorted(metadata)}")
    for entry in header.values():
        expect(entry["dtype"] in DTYPES, f"it has a tensor of {entry['dtype']}; expected one of {', '.join(DTYPES)}")
    # safetensors checks that places and shapes of tensors match the bytes of the file, without gaps.
    arrays = safetensors.numpy.load(data)
    expect(arrays.keys() == header.keys(), "its header is not the one that safetensors reads")
    return _json(metadata["blackvip"]), {name: np.array(array) for name, array in arrays.items()}


def read(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a file that is not too large.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    PersistenceError
        If it is not a regular file, is too large, or cannot be read.
    """
    path = Path(path).expanduser()
    try:
        found = path.stat()
        # Reading a pipe would wait for a writer.
        expect(stat.S_ISREG(found.st_mode), "it is not a file")
        expect(found.st_size <= MAX_BYTES, f"it has {found.st_size} bytes; expected {MAX_BYTES} at most")
        with path.open("rb") as file:
            return file.read(MAX_BYTES)
    except FileNotFoundError:
        raise
    except OSError as error:
        _fail(error)


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file completely or not at all: an earlier file stays until all bytes are on the disk.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    PersistenceError
        If it cannot be written.
    """
    # A link stays a link.
    target = Path(os.path.realpath(Path(path).expanduser()))
    temporary = target.parent / f".blackvip-{secrets.token_hex(8)}.tmp"
    try:
        expect(not target.is_dir(), "there is a folder of this name")
        expect(not target.is_symlink(), "it is a link that leads back to itself")
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except FileNotFoundError:
        raise
    except OSError as error:
        _fail(error)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Write the new name to the disk too, if the system supports it."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fail(error: OSError) -> NoReturn:
    raise PersistenceError(error.strerror or str(error)) from error


def _header_bytes(data: bytes | bytearray) -> int:
    n_bytes = int.from_bytes(data[:8], "little")
    expect(
        len(data) >= 8 and n_bytes <= min(MAX_HEADER_BYTES, len(data) - 8),
        f"it has {len(data)} bytes, too few for its header, or was not written by `save`",
    )
    return n_bytes


def _digest_span(data: bytes | bytearray) -> tuple[int, int]:
    """Find the digest in a file, before anything is parsed."""
    places = [match.span(1) for match in _DIGEST.finditer(data, 8, 8 + _header_bytes(data))]
    expect(len(places) == 1, "it has no checksum: it is damaged, or not written by `save`")
    return places[0]


def _digest(data: bytes | bytearray, start: int, end: int) -> str:
    """Return the SHA-256 of all bytes, with zeros in place of the digest."""
    view = memoryview(data)
    digest = hashlib.sha256(view[:start])
    digest.update(_NO_DIGEST.encode("ascii"))
    digest.update(view[end:])
    return digest.hexdigest()


def _json(text: bytes | str) -> Any:
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    expect(len(unique) == len(pairs), "a key occurs twice")
    return unique


def _no_constant(text: str) -> NoReturn:
    raise PersistenceError(f"it has the number {text}; expected finite ones")


def _finite(text: str) -> float:
    number = float(text)
    expect(math.isfinite(number), "it has a number that is too large")
    return number
