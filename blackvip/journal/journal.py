"""The journal: a file of a service's answers, each of which is on disk before it is used.

Its first record is a header in JSON, which says whose answers these are; each of the others holds answers that came
together. See `blackvip.records` for how they survive.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from .identity import differences
from .locks import try_lock, unlock
from .records import HEAD_BYTES, MAX_RECORD_BYTES, RecordFile

__all__ = ["KEY_BYTES", "Journal", "Place"]

KEY_BYTES = 32  #: Of the key of an answer.
FORMAT_VERSION = 1

_COUNTS = struct.Struct("<IIII")  # of a record: answers, scores of each, answers that were not billed, flags
_ASIDE = 1  # a flag
_PATIENCE = 60.0  # seconds for which those that share a file wait for their turn, which takes milliseconds


class Place(NamedTuple):
    """Where an answer is: the byte at which its scores begin, and the number of its record."""

    offset: int
    record: int


class _Record(NamedTuple):
    n_scores: int  # of each answer
    n_free: int  # answers that were not billed
    aside: bool


class Journal:
    """A file of answers, which are found by their keys.

    Parameters
    ----------
    path : str or path-like
        The file. One that exists is gone on with.
    identity : dict
        Whose answers these are, as JSON. A file whose identity differs is refused, unless it has no answers yet.
    facts : dict or None, default=None
        What else a new file is to remember, as JSON.
    shared : bool, default=False
        Whether several journals may have the file open, in this and other processes. They take turns, and each sees
        what the others have added after `refresh`, or when it adds something itself. If False, a second one is
        refused.

    Attributes
    ----------
    facts : dict
        As the file remembers them.
    n_answers, n_aside : int
        Answers that it holds, and how many of them were added with ``aside=True``.
    n_free : int
        Answers that were not billed.

    Raises
    ------
    JournalError
        If the file belongs to something else, is open elsewhere, is damaged, is no journal, or cannot be written.
    """

    facts: dict[str, Any]

    def __init__(
        self,
        path: str | os.PathLike[str],
        identity: dict[str, Any],
        facts: dict[str, Any] | None = None,
        shared: bool = False,
    ):
        self.path = Path(path).expanduser()
        self.shared = shared
        self.n_answers = self.n_aside = self.n_free = 0
        self._records: list[_Record] = []
        self._places: dict[bytes, Place] = {}
        self._held: list[tuple[Sequence[bytes], np.ndarray, int, bool]] = []
        self._given = False  # whether any answer has a score
        self._failure: str | None = None
        self._mutex = threading.RLock()
        self._file = RecordFile(self.path)
        try:
            if shared:
                with self._locked():
                    self._load(identity, facts or {})
            elif try_lock(self._file.descriptor):
                self._load(identity, facts or {})
                self._file.claim()
            else:
                self._refuse_second()
        except OSError as error:
            self.close()
            raise self._file.error(f"cannot be used: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file, and give back its lock. A second time does nothing."""
        self._file.close()

    @property
    def closed(self) -> bool:
        """Whether it is; a forked process finds all journals of its parent closed."""
        return self._file.closed

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def find(self, key: bytes) -> Place | None:
        """Where the answer of this key is; None where there is none."""
        return self._places.get(key)

    def is_aside(self, place: Place) -> bool:
        """Whether the answer was added with ``aside=True``."""
        return self._records[place.record].aside

    def free_in(self, record: int) -> int:
        """How many answers in a record were not billed."""
        return self._records[record].n_free

    def scores(self, place: Place, n_scores: int) -> np.ndarray:
        """An answer: its scores, of shape (n_scores,), float64."""
        found = self._records[place.record].n_scores
        if found != n_scores:
            raise self._file.error(f"has an answer of {found} scores where {n_scores} are expected")
        with self._mutex:
            self.check_usable()
            return np.frombuffer(self._file.read(place.offset, 8 * n_scores), "<f8").astype(np.float64)

    def refresh(self) -> None:
        """Take note of what others have added."""
        with self._mutex:
            self.check_usable()
            if self.shared and self._file.size != self._file.end:
                with self._turn():
                    pass

    def check_usable(self) -> None:
        """Raise an error if nothing can be added any more, as when the disk was full, before more is paid for."""
        if self.closed:
            raise self._file.error("is closed in this process, as after a fork")
        if self._failure is not None:
            raise self._file.error(self._failure)

    def add(self, keys: Sequence[bytes], scores: np.ndarray, n_free: int = 0, aside: bool = False) -> None:
        """Add answers that came together. When it returns, they are on disk.

        As long as no answer has had any score, they are held back: a service that recognises nothing at all was asked
        the wrong question, and what it says is not worth keeping.

        Parameters
        ----------
        keys : sequence of bytes
            One for each, of `KEY_BYTES` bytes. Of several answers with one key, the first counts.
        scores : ndarray of shape (n_answers, n_scores)
        n_free : int, default=0
            How many of them were not billed.
        aside : bool, default=False
            Whether they are not a part of what `fit` does when nothing interrupts it.

        Raises
        ------
        JournalError
            If they cannot be written.
        """
        with self._mutex:
            if not self._given and not np.isfinite(scores).any():
                self._held.append((keys, scores, n_free, aside))
                return
            held, self._held = self._held, []
            for answers in (*held, (keys, scores, n_free, aside)):
                self._add(*answers)

    def _add(self, keys: Sequence[bytes], scores: np.ndarray, n_free: int, aside: bool) -> None:
        at_once = max(1, (MAX_RECORD_BYTES - _COUNTS.size) // (KEY_BYTES + 8 * scores.shape[1]))
        for first in range(0, len(keys), at_once):
            part = slice(first, first + at_once)
            free = min(n_free, len(keys[part]))
            n_free -= free
            counts = _COUNTS.pack(len(keys[part]), scores.shape[1], free, _ASIDE * aside)
            payload = counts + b"".join(keys[part]) + scores[part].astype("<f8").tobytes()
            with self._turn():
                try:
                    start = self._file.append(payload)
                except OSError as error:
                    self._failure = (
                        f"cannot be written: {error.strerror or error}. The answers that came last are lost; make room "
                        "and begin again, and what it holds is not paid for twice"
                    )
                    self.check_usable()
                self._index(start, payload)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """A block in which no other process changes the file, and all that others have added is known."""
        self.check_usable()
        if not self.shared:
            yield
            return
        with self._locked():
            self._read_on()
            yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
        end = time.monotonic() + _PATIENCE
        while not try_lock(self._file.descriptor):
            if time.monotonic() > end:  # one who has it for itself keeps it for long
                self._refuse_second()
            time.sleep(0.001)
        try:
            yield
        finally:
            unlock(self._file.descriptor)

    def _refuse_second(self) -> NoReturn:
        process = self._file.holder()
        by = f" by process {process}" * bool(process)
        raise self._file.error(
            f"is in use{by}; two fits in one journal would mix their answers. Wait for the other one, or give the path "
            "of another file"
        )

    def _load(self, identity: dict[str, Any], facts: dict[str, Any]) -> None:
        """Read the file; one that is new, or has no answers and is another's, gets its header."""
        header: dict[str, Any] = {"format": "blackvip journal", "version": FORMAT_VERSION}
        text = json.dumps({**header, "identity": identity, "facts": facts})
        header = json.loads(text)
        payload, changes = self._file.first(), []
        if payload is not None:
            found = self._parsed(payload)
            self._read_on()
            changes = differences(found["identity"], header["identity"])
            if changes and self._records:
                raise self._file.error(
                    f"belongs to something else: {'; '.join(changes)}. Go on with what it was made with, or give "
                    "another checkpoint; a folder, whose path ends with a separator, has a journal for each fit"
                )
            if not changes:
                header = found
        self.facts = header["facts"]
        if payload is None or changes:
            if len(text) > MAX_RECORD_BYTES:
                raise self._file.error(f"needs a header of {len(text)} bytes; expected {MAX_RECORD_BYTES} at most")
            self._file.begin(text.encode())

    def _parsed(self, payload: bytes) -> dict[str, Any]:
        try:
            header = json.loads(payload)
            version = header["version"]
            fits = header["format"] == "blackvip journal" and type(version) is int
            fits &= isinstance(header["identity"], dict) and isinstance(header["facts"], dict)
        except (ValueError, KeyError, TypeError, RecursionError):
            fits = False
        if not fits:
            raise self._file.error("has a header that blackvip did not write. Give the path of another file")
        if version != FORMAT_VERSION:
            raise self._file.error(
                f"has the format version {version}; this release of blackvip goes on with version {FORMAT_VERSION}. "
                "Use the release that made it, or give another checkpoint"
            )
        return header

    def _read_on(self) -> None:
        for start, payload in self._file.records():
            self._index(start, payload)

    def _index(self, start: int, payload: bytes) -> None:
        """Note where the answers of a record are."""
        counts = _COUNTS.unpack_from(payload) if len(payload) >= _COUNTS.size else (0, 0, 1, 0)
        n, n_scores, n_free, flags = counts
        scores_at = _COUNTS.size + n * KEY_BYTES
        if len(payload) != scores_at + 8 * n * n_scores or n_free > n or flags not in (0, _ASIDE):
            raise self._file.error(f"has a record at byte {start} that blackvip did not write. Give another checkpoint")
        for row in range(n):
            key_at = _COUNTS.size + row * KEY_BYTES
            key = payload[key_at : key_at + KEY_BYTES]
            place = Place(start + HEAD_BYTES + scores_at + 8 * row * n_scores, len(self._records))
            if self._places.setdefault(key, place) is place:
                self.n_answers += 1
                self.n_aside += flags == _ASIDE
        self.n_free += n_free
        self._records.append(_Record(n_scores, n_free, flags == _ASIDE))
        self._given = self._given or bool(np.isfinite(np.frombuffer(payload, "<f8", offset=scores_at)).any())
