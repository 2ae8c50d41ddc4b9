"""The journal: a file of a service's answers, each of which is on disk before it is used."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..exceptions import JournalError
from .identity import differences
from .store import Format, Store

__all__ = ["KEY_BYTES", "Answer", "Journal"]

#: Length of an answer's key.
KEY_BYTES = 32

FORMAT = Format(
    noun="journal",
    application_id=int.from_bytes(b"bvJ\0"),
    version=1,
    tables=(
        "CREATE TABLE header (content TEXT, digest BLOB)",
        "CREATE TABLE answers (key BLOB PRIMARY KEY, billed INTEGER, off_path INTEGER, scores BLOB, digest BLOB)",
    ),
    error=JournalError,
    remedy="give another checkpoint",
    when_full=(
        "The answers that came last are lost; make room and begin again, and what it holds is not paid for twice"
    ),
    when_gone="it was deleted or replaced while it was in use. Begin again",
)
_SELECT = "SELECT key, billed, off_path, scores, digest FROM answers"


class Answer(NamedTuple):
    """An answer in a journal.

    Attributes
    ----------
    scores : ndarray of shape (n_scores,), float64
        Scores as the service gave them.
    billed : bool
        Whether the image was billed; a cache's answer is not.
    off_path : bool
        Whether the answer was added with ``off_path=True``.
    """

    scores: np.ndarray
    billed: bool
    off_path: bool


class Journal:
    """A file of answers, which are found by their keys.

    Parameters
    ----------
    path : str or path-like
        The file. An existing one is continued.
    identity : dict
        Description, as JSON, of the object that the answers belong to. A file of another identity is refused, unless
        it has no answers yet.
    facts : dict or None, default=None
        Other values for a new file to keep, as JSON.
    shared : bool, default=False
        Whether several journals, in this and other processes, may have the file open. Each sees at once what the others
        add. If False, a second one is refused.

    Attributes
    ----------
    facts : dict
        The facts that the file keeps.

    Raises
    ------
    JournalError
        If the file belongs to something else, is open elsewhere, is damaged, is not a journal, or cannot be written.

    Notes
    -----
    The file is an SQLite database (see `blackvip.journal.store`) and has to be on a disk of this machine. While it is
    open, and after a kill, the last answers are in a second file beside it, whose name ends with ``-wal``.
    """

    facts: dict[str, Any]

    def __init__(
        self,
        path: str | os.PathLike[str],
        identity: dict[str, Any],
        facts: dict[str, Any] | None = None,
        shared: bool = False,
    ):
        self._store = Store(path, FORMAT, shared)
        self.path = self._store.path
        self._held: list[tuple[Sequence[bytes], np.ndarray, int, bool]] = []
        self._failure: JournalError | None = None
        try:
            self._store.open()
            self._check_answers()
            self._load(identity, facts or {})
            if not shared:
                self._store.claim()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file, and release its lock; calling it again does nothing."""
        self._store.close()

    @property
    def closed(self) -> bool:
        """Whether the journal was closed, by a fork too, or its file was deleted or replaced."""
        return self._store.closed

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def n_answers(self) -> int:
        """Number of answers in the file."""
        return self._count("TRUE")

    @property
    def n_free(self) -> int:
        """Number of answers that were not billed."""
        return self._count("NOT billed")

    @property
    def n_off_path(self) -> int:
        """Number of answers that were added with ``off_path=True``."""
        return self._count("off_path")

    def find(self, keys: Sequence[bytes], n_scores: int) -> list[Answer | None]:
        """Look up answers by their keys.

        Parameters
        ----------
        keys : sequence of bytes
            Keys of the answers.
        n_scores : int
            Number of scores that each answer must have.

        Returns
        -------
        answers : list of Answer or None
            One per key; None for a key without an answer.

        Raises
        ------
        JournalError
            If an answer is damaged, or has another number of scores.
        """
        return [
            None if row is None else self._parsed(row, n_scores)
            for row in self._store.read_each(f"{_SELECT} WHERE key = ?", keys)
        ]

    def check_usable(self) -> None:
        """Raise a `JournalError` if answers can no longer be added, such as on a full disk, before more is paid for."""
        self._store.check_usable()
        if self._failure is not None:
            raise self._failure

    def add(self, keys: Sequence[bytes], scores: np.ndarray, n_free: int = 0, off_path: bool = False) -> None:
        """Add answers that came together; when it returns, they are on disk.

        Answers are held back until the first one with a score. A service that recognises nothing at all was asked the
        wrong question, and its answers are not worth keeping.

        Parameters
        ----------
        keys : sequence of bytes
            One per answer, of `KEY_BYTES` bytes. If several answers have the same key, the first one counts.
        scores : ndarray of shape (n_answers, n_scores)
            Scores as the service gave them.
        n_free : int, default=0
            Number of answers that were not billed.
        off_path : bool, default=False
            Whether an uninterrupted `fit` would not have asked for them.

        Raises
        ------
        JournalError
            If they cannot be written.
        """
        with self._store.mutex:
            self.check_usable()
            self._held.append((keys, scores, n_free, off_path))
            if not np.isfinite(scores).any() and not self._store.read("SELECT 1 FROM answers LIMIT 1"):
                return
            held, self._held = self._held, []
            try:
                with self._store.transaction() as connection:
                    for answers in held:
                        connection.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)", _rows(*answers))
            except JournalError as error:
                self._failure = error
                raise

    def set_fact(self, name: str, value: Any) -> None:
        """Store a fact, in place of an earlier one of this name.

        Parameters
        ----------
        name : str
            Name of the fact.
        value : object in JSON
            Its value.

        Raises
        ------
        JournalError
            If it cannot be written.
        """
        with self._store.mutex:
            self.check_usable()
            self.facts = {**self.facts, name: value}
            try:
                with self._store.transaction() as connection:
                    self._write_header(connection)
            except JournalError as error:
                self._failure = error
                raise

    def _write_header(self, connection: Any) -> None:
        text = json.dumps({"identity": self._identity, "facts": self.facts})
        connection.execute("DELETE FROM header")
        connection.execute("INSERT INTO header VALUES (?, ?)", (text, _digest(text.encode())))

    def _count(self, condition: str) -> int:
        return int(self._store.read(f"SELECT count(*) FROM answers WHERE {condition}")[0][0])

    def _load(self, identity: dict[str, Any], facts: dict[str, Any]) -> None:
        """Read the header, or write one if the file has no answers that belong to something else."""
        header = json.loads(json.dumps({"identity": identity, "facts": facts}))
        self._identity = header["identity"]
        with self._store.transaction() as connection:
            rows = connection.execute("SELECT content, digest FROM header").fetchall()
            if rows:
                found = self._parsed_header(rows)
                changes = differences(found["identity"], header["identity"])
                if not changes:
                    self.facts = found["facts"]
                    return
                if connection.execute("SELECT 1 FROM answers LIMIT 1").fetchone():
                    raise self._store.error(
                        f"belongs to something else: {'; '.join(changes)}. Continue with what it was made with, or "
                        "give another checkpoint; a folder, whose path ends with a separator, has a journal for each "
                        "fit"
                    )
            self.facts = header["facts"]
            self._write_header(connection)

    def _parsed_header(self, rows: list[tuple[Any, ...]]) -> dict[str, Any]:
        text, digest = rows[0]
        if len(rows) > 1 or type(text) is not str or digest != _digest(text.encode()):
            raise self._store.damaged("its header is not as it was written")
        try:
            header = json.loads(text)
            fits = isinstance(header["identity"], dict) and isinstance(header["facts"], dict)
        except (ValueError, KeyError, TypeError, RecursionError):
            fits = False
        if not fits:
            raise self._store.error("has a header that blackvip did not write. Give the path of another file")
        return dict(header)

    def _check_answers(self) -> None:
        """Raise an error if an answer is not as it was written."""
        for row in self._store.rows(_SELECT):
            self._parsed(row)

    def _parsed(self, row: tuple[Any, ...], n_scores: int | None = None) -> Answer:
        key, billed, off_path, scores, digest = row
        fits = type(key) is type(scores) is bytes and len(key) == KEY_BYTES and len(scores) % 8 == 0
        if not fits or not all(type(flag) is int and flag in (0, 1) for flag in (billed, off_path)):
            raise self._store.error("has an answer that blackvip did not write. Give another checkpoint")
        if digest != _digest(key, bytes([billed, off_path]), scores):
            raise self._store.damaged(f"the answer of key {key.hex()[:12]} is not as it was written")
        if n_scores not in (None, len(scores) // 8):
            raise self._store.error(f"has an answer of {len(scores) // 8} scores where {n_scores} are expected")
        return Answer(np.frombuffer(scores, "<f8").astype(np.float64), bool(billed), bool(off_path))


def _rows(keys: Sequence[bytes], scores: np.ndarray, n_free: int, off_path: bool) -> list[tuple[Any, ...]]:
    rows = []
    for number, (key, values) in enumerate(zip(keys, scores.astype("<f8"))):
        billed, blob = number >= n_free, values.tobytes()
        rows.append((key, billed, off_path, blob, _digest(key, bytes([billed, off_path]), blob)))
    return rows


def _digest(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()[:16]
