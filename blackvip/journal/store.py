"""A small SQLite database that survives kills, power failures, forks and strangers.

SQLite keeps what was committed, rolls back what was not, and locks the file. It has no checksums, so users of a store
keep a digest in each row. Reading a file executes nothing: its schema must be the expected one, word for word.

SQLite's locks need a file system that locks. Those of a network (NFS, SMB) often do not: keep these files on a local
disk, and let no two machines use one file.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..exceptions import BlackVIPError

__all__ = ["Format", "Store"]

# Seconds that a process waits for its turn at a shared file. A turn takes milliseconds.
_PATIENCE = 60.0
# Seconds to wait for a file of one process at a time: long enough for another that is just being refused.
_PATIENCE_ALONE = 0.2
_HOLDER = "CREATE TABLE holder (process INTEGER)"
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR)
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


class Format(NamedTuple):
    """Contents of a file, and the words that errors use for it.

    Attributes
    ----------
    noun : str
        Such as "journal".
    application_id : int
        Number in the file's header that distinguishes it from other databases.
    version : int
        Format version.
    tables : tuple of str
        The statements that create the tables.
    error : type
        Exception class of all errors.
    remedy : str
        Advice for a file that cannot be used.
    when_full, when_gone : str
        Advice for a file that cannot be written, and for one that was deleted or replaced while in use.
    """

    noun: str
    application_id: int
    version: int
    tables: tuple[str, ...]
    error: type[BlackVIPError]
    remedy: str
    when_full: str
    when_gone: str


class Store:
    """A database in one file, which is opened when it is first used.

    Threads take turns. A connection never crosses a fork. A shared store is closed before the fork, and both parent and
    child open it again when they next use it. An exclusive store stays open in the parent and is closed in the child.
    Pickles hold only the path.

    Parameters
    ----------
    path : str or path-like
        The file.
    format : Format
        Kind of the file.
    shared : bool, default=False
        Whether other stores, in this and other processes, may use the file too. If False, they are refused.
    synced : bool, default=True
        Whether a transaction waits until it is on disk. If False, it survives a kill, but a power failure may undo the
        last ones.
    create : bool, default=True
        Whether to make the file if it does not exist.

    Attributes
    ----------
    mutex : RLock
        Held while the file is used, and during a fork.

    Raises
    ------
    BlackVIPError
        Of the format's class, from all methods, if the file is in use, is damaged, belongs to something else, or
        cannot be read or written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        format: Format,
        shared: bool = False,
        synced: bool = True,
        create: bool = True,
    ):
        self.path = Path(path).expanduser()
        self.format = format
        self.shared = shared
        self.synced = synced
        self._create = create
        self._place = self.path.absolute()
        self.mutex = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._closed = False
        self._disconnect: Any = lambda: None
        _stores.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self._place, self.format, self.shared, self.synced, False)

    def error(self, what: str) -> BlackVIPError:
        """Make an error that names the file.

        Parameters
        ----------
        what : str
            The rest of the sentence after the name of the file, without a full stop.

        Returns
        -------
        error : BlackVIPError
            An error of the format's type, to be raised.
        """
        return self.format.error(f"The {self.format.noun} {os.fspath(self.path)!r} {what}.")

    def open(self) -> None:
        """Open the file, and look for damage in all of it."""
        found = self.read("PRAGMA integrity_check(1)")[0][0]
        if found != "ok":
            raise self.damaged(found)

    def close(self) -> None:
        """Close the file for good, and release its lock. A second time does nothing."""
        with self.mutex:
            self._closed = True
            self._detach()

    @property
    def closed(self) -> bool:
        """Whether the store was closed, by a fork too, or its file was deleted or replaced."""
        with self.mutex:
            if self._connection is not None and not self._is_in_place():
                self.close()
            return self._closed

    def check_usable(self) -> None:
        """Raise an error if the store is closed, or its file was deleted or replaced."""
        if self._closed:
            raise self.error("is closed in this process, as after a fork. Open it again")
        if self._connection is not None and not self._is_in_place():
            raise self._gone()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit the changes of a block when it ends; undo them if it raises an error."""
        with self.mutex, self._errors():
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def read(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self.mutex, self._errors():
            return self._connected().execute(sql).fetchall()

    def read_each(self, sql: str, values: Iterable[Any]) -> list[tuple[Any, ...] | None]:
        """Return the first row that a query finds for each value of its parameter; None if it finds nothing."""
        with self.mutex, self._errors():
            connection = self._connected()
            return [connection.execute(sql, (value,)).fetchone() for value in values]

    def rows(self, sql: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query one at a time, to bound memory."""
        with self.mutex, self._errors():
            yield from self._connected().execute(sql)

    def claim(self) -> None:
        """Record that this process has the file, where processes that are refused can read it."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM holder")
            connection.execute("INSERT INTO holder VALUES (?)", (os.getpid(),))
        self.read("PRAGMA wal_checkpoint(TRUNCATE)")

    def damaged(self, what: str) -> BlackVIPError:
        """Make the error for a file whose content has changed since it was written."""
        return self.error(f"is damaged: {what}. Restore the file, or {self.format.remedy}")

    def _connected(self) -> sqlite3.Connection:
        self.check_usable()
        if self._connection is None:
            self._make_file()
            self._check_kind()
            timeout = _PATIENCE if self.shared else _PATIENCE_ALONE
            connection = sqlite3.connect(
                f"{self._place.as_uri()}?mode=rw",
                uri=True,
                timeout=timeout,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                self._set_up(connection)
            except BaseException:
                connection.close()
                raise
            self._connection, self._inode, self._create = connection, self._inode_now(), False
            self._disconnect = weakref.finalize(self, connection.close)
        return self._connection

    def _make_file(self) -> None:
        """Create an empty file if there is none.

        An existing file is opened only by SQLite. POSIX drops all locks of a process on a file as soon as the process
        closes any descriptor of it.
        """
        try:
            if self._create:
                os.close(os.open(self._place, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:
            pass
        except OSError as error:
            raise self.error(f"cannot be opened: {error.strerror or error}") from error
        if not self._place.exists():
            raise self._gone()
        # Opening a pipe would wait for a writer.
        if not self._place.is_file():
            raise self.error("is not a file; expected the path of one, new or old")

    def _check_kind(self) -> None:
        """Refuse a foreign file before SQLite can change it, for example by rolling back its last transaction."""
        if not self._place.stat().st_size:
            return
        if self._peek("PRAGMA application_id") != self.format.application_id:
            raise self._foreign()
        version = self._peek("PRAGMA user_version")
        if version != self.format.version:
            raise self.error(
                f"has the format version {version}; this release of blackvip reads version {self.format.version}. "
                f"Use the release that made it, or {self.format.remedy}"
            )

    def _set_up(self, connection: sqlite3.Connection) -> None:
        connection.text_factory = lambda text: text.decode(errors="replace")
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute(f"PRAGMA locking_mode={'NORMAL' if self.shared else 'EXCLUSIVE'}")
        connection.execute(f"PRAGMA synchronous={'FULL' if self.synced else 'NORMAL'}")
        connection.execute("BEGIN IMMEDIATE")
        tables = {*self.format.tables, _HOLDER}
        if not connection.execute("PRAGMA application_id").fetchone()[0]:
            for table in tables:
                connection.execute(table)
            connection.execute(f"PRAGMA application_id={self.format.application_id}")
            connection.execute(f"PRAGMA user_version={self.format.version}")
        if {sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")} != tables:
            raise self.error(f"has tables that blackvip did not make. Restore the file, or {self.format.remedy}")
        connection.execute("COMMIT")
        # Where WAL is not possible, SQLite keeps the rollback journal, which is as safe but slower.
        connection.execute("PRAGMA journal_mode=WAL")

    def _peek(self, query: str) -> Any:
        """Query the file without locks, and without transactions that are still in the WAL. Nothing is changed."""
        with contextlib.closing(sqlite3.connect(f"{self._place.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            return (connection.execute(query).fetchone() or [None])[0]

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of SQLite into the format's errors, which say what to do."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                found = self._in_use()
            elif code == sqlite3.SQLITE_NOTADB:
                found = self._foreign()
            elif code in _DAMAGE:
                found = self.damaged(str(error))
            elif code in _FULL:
                found = self.error(f"cannot be written: {error}. {self.format.when_full}")
            else:
                found = self.error(f"cannot be used: {error}. It and its folder must be writable")
            raise found from error
        except UnicodeDecodeError as error:
            # SQLite's message may repeat a damaged schema.
            raise self.damaged("its schema is not text") from error

    def _foreign(self) -> BlackVIPError:
        return self.error(
            f"is not a {self.format.noun} of blackvip, and was not changed. Give the path of another file"
        )

    def _gone(self) -> BlackVIPError:
        return self.error(f"does not exist any more; {self.format.when_gone}")

    def _in_use(self) -> BlackVIPError:
        process = None
        with contextlib.suppress(sqlite3.Error):
            process = self._peek("SELECT process FROM holder")
        by = f" by process {process}" if isinstance(process, int) else ""
        return self.error(
            f"is in use{by}; two at a time would mix what they write. Wait for the other one, or give the path of "
            "another file"
        )

    def _inode_now(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._place)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _is_in_place(self) -> bool:
        return self._inode_now() == self._inode

    def _detach(self) -> None:
        self._disconnect()
        self._connection = None

    def _abandon(self) -> None:
        """Forget the parent's connection without closing it, since closing would change the parent's file."""
        if self._connection is not None:
            self._disconnect.detach()
            # The extra reference keeps Python from finalizing the connection when the child exits.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))
            self._connection, self._closed = None, True


_stores: weakref.WeakSet[Store] = weakref.WeakSet()
_forking = threading.Lock()
_held: list[Store] = []


def _before_fork() -> None:
    _forking.acquire()
    for store in list(_stores):
        # No thread is in a transaction while the process forks.
        store.mutex.acquire()
        _held.append(store)
        # SQLite's own list of locks would be wrong in the child.
        if store.shared:
            store._detach()


def _after_fork(in_child: bool) -> None:
    while _held:
        store = _held.pop()
        if in_child:
            store._abandon()
        store.mutex.release()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=lambda: _after_fork(False),
        after_in_child=lambda: _after_fork(True),
    )
