"""A file of records that survives whatever stops the process or the machine.

It starts with a magic number and the process that last had it for itself. Then come records, each a mark, its length, a
checksum and so many bytes. A record is written and synced before the next one is, so that at most the last is torn.
What is torn is cut off; a record that is damaged and has another behind it is an error. Reading executes nothing, and
takes no more memory than the file has bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import struct
import weakref
from collections.abc import Iterator
from pathlib import Path

from ..exceptions import JournalError

__all__ = ["HEAD_BYTES", "MAX_RECORD_BYTES", "RecordFile"]

MAX_RECORD_BYTES = 64 * 2**20

_MAGIC = b"\x8bBVJ\r\n\x1a\n"  # as no text begins, nor what a transfer as text makes of it
_START = 2 * len(_MAGIC)  # of the first record; before it is the process
_MARK = b"\xb1\xac\x0b\x1f"
_HEAD = struct.Struct("<4sI16s")  # mark, bytes that follow, checksum
HEAD_BYTES = _HEAD.size  #: Of a record, before its own bytes.
_SCANNED_AT_ONCE = 2**20
_MOST_MARKS = 1_000  # behind a damaged record that are looked at

logger = logging.getLogger("blackvip")


class RecordFile:
    """An open file of records. It is not safe against other threads and processes: see `blackvip.locks`.

    Parameters
    ----------
    path : Path
        The file; where there is none, an empty one is made.

    Attributes
    ----------
    descriptor : int
        Of the open file.
    end : int
        The byte behind the last record that was read or written.

    Raises
    ------
    JournalError
        If the file cannot be opened, or is none.
    """

    def __init__(self, path: Path):
        self.path = path
        self.end = _START
        try:
            self._is_new = not path.exists()
            if not self._is_new and not stat.S_ISREG(path.stat().st_mode):  # a pipe would wait for someone who writes
                raise self.error("is not a file; expected the path of one, new or old")
            self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            raise self.error(f"cannot be opened: {error.strerror or error}") from error
        self.close = weakref.finalize(self, os.close, self.descriptor)
        _OPEN.add(self)

    @property
    def closed(self) -> bool:
        """Whether it is; a forked process finds all files of its parent closed."""
        return not self.close.alive

    @property
    def size(self) -> int:
        """Bytes of the file, now."""
        return os.fstat(self.descriptor).st_size

    def error(self, what: str) -> JournalError:
        """An error that names the file."""
        return JournalError(f"The journal {os.fspath(self.path)!r} {what}.")

    def first(self) -> bytes | None:
        """The first record; None in a file that is new, or was torn before it had another record.

        Raises
        ------
        JournalError
            If this is no such file, or it is damaged.
        """
        if not _MAGIC.startswith(self.read(0, len(_MAGIC))):
            raise self.error("is no journal of blackvip, and stays as it is. Give the path of another file")
        self.end = _START
        payload = self._record_at(_START, self.size)
        if payload is None:
            self._check_is_tail(_START, self.size)
        else:
            self.end += _HEAD.size + len(payload)
        return payload

    def begin(self, payload: bytes) -> None:
        """Make an empty file of it, with this record as its first."""
        os.ftruncate(self.descriptor, 0)
        self._write(0, _MAGIC + _process() + _framed(payload))
        os.fsync(self.descriptor)
        if self._is_new:
            _sync_folder(self.path.parent)
        self.end = _START + _HEAD.size + len(payload)

    def records(self) -> Iterator[tuple[int, bytes]]:
        """The records behind `end`, each with the byte at which it begins; then a torn one is cut off.

        Raises
        ------
        JournalError
            If a record is damaged and not the last.
        """
        size = self.size
        if size < self.end:
            raise self.error(f"has become shorter than the {self.end} bytes that were written. Give another checkpoint")
        while (payload := self._record_at(self.end, size)) is not None:
            start = self.end
            self.end += _HEAD.size + len(payload)
            yield start, payload
        if self.end < size:
            self._check_is_tail(self.end, size)
            logger.info("journal %s: %d bytes of a torn record are cut off", self.path, size - self.end)
            os.ftruncate(self.descriptor, self.end)
            os.fsync(self.descriptor)

    def append(self, payload: bytes) -> int:
        """Write and sync a record; return the byte at which it begins.

        Raises
        ------
        OSError
            If it cannot be written; the file is then as it was, if that can be.
        """
        start = self.end
        try:
            self._write(start, _framed(payload))
            os.fsync(self.descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self.descriptor, start)
            raise
        self.end += _HEAD.size + len(payload)
        return start

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Bytes of the file, fewer where it ends before."""
        os.lseek(self.descriptor, offset, os.SEEK_SET)
        parts = []
        while n_bytes and (part := os.read(self.descriptor, n_bytes)):
            parts.append(part)
            n_bytes -= len(part)
        return b"".join(parts)

    def claim(self) -> None:
        """Write down that this process has the file for itself."""
        self._write(len(_MAGIC), _process())

    def holder(self) -> int | None:
        """The process that has the file for itself, if it wrote that down."""
        start = self.read(0, _START)
        return (int.from_bytes(start[len(_MAGIC) :], "little") or None) if start.startswith(_MAGIC) else None

    def _record_at(self, offset: int, size: int) -> bytes | None:
        """The bytes of a record; None where there is no whole one that is undamaged."""
        head = self.read(offset, _HEAD.size)
        if len(head) < _HEAD.size:
            return None
        mark, length, checksum = _HEAD.unpack(head)
        if mark != _MARK or length > min(MAX_RECORD_BYTES, size - offset - _HEAD.size):
            return None
        payload = self.read(offset + _HEAD.size, length)
        return payload if len(payload) == length and _checksum(payload) == checksum else None

    def _check_is_tail(self, offset: int, size: int) -> None:
        """Raise an error unless what is damaged at `offset` is all the rest: then it is a record that was torn."""
        n_marks = 0
        for start in range(offset + 1, size, _SCANNED_AT_ONCE):
            block = self.read(start, _SCANNED_AT_ONCE + len(_MARK) - 1)
            place = block.find(_MARK)
            while place >= 0:
                n_marks += 1
                if n_marks > _MOST_MARKS or self._record_at(start + place, size) is not None:
                    raise self.error(
                        f"is damaged: the record at byte {offset} is not as it was written, and others are behind it. "
                        "Restore the file, or give another checkpoint"
                    )
                place = block.find(_MARK, place + 1)

    def _write(self, offset: int, data: bytes) -> None:
        os.lseek(self.descriptor, offset, os.SEEK_SET)
        view = memoryview(data)
        while view:
            view = view[os.write(self.descriptor, view) :]


def _process() -> bytes:
    return os.getpid().to_bytes(_START - len(_MAGIC), "little")


def _framed(payload: bytes) -> bytes:
    return _HEAD.pack(_MARK, len(payload), _checksum(payload)) + payload


def _checksum(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest()[:16]


def _sync_folder(folder: Path) -> None:
    """Bring a new name to the disk too, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_OPEN: weakref.WeakSet[RecordFile] = weakref.WeakSet()


def _close_all() -> None:
    for file in list(_OPEN):
        file.close()


if hasattr(os, "register_at_fork"):  # or a child that outlives its parent would keep the parent's lock
    os.register_at_fork(after_in_child=_close_all)
