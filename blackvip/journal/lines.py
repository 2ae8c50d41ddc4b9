"""A text file that people read, to which one process at a time appends whole lines."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["LinesFile"]

# Windows forbids reading what is locked, so the byte that is locked there is far behind all text.
_LOCKED_BYTE = 2**40
_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


class LinesFile:
    """Text file for one process at a time; added text is on disk before `append` returns.

    Tables and results stay text, since people read them with pandas or an editor. SQLite locks its own files alone, and
    a database that only locks the text would be a second file, so this class locks the text itself.

    Parameters
    ----------
    path : Path
        The file, which is created if it does not exist.
    error : callable
        Makes the error to raise from a description of the problem.
    """

    def __init__(self, path: Path, error: Callable[[str], Exception]):
        try:
            self.file = path.open("a+b")
        except (OSError, ValueError) as caught:
            raise error(f"cannot be opened: {getattr(caught, 'strerror', None) or caught}") from caught
        # Reading a pipe or a device may never end.
        if not stat.S_ISREG(os.fstat(self.file.fileno()).st_mode):
            self.file.close()
            raise error("is not a regular file; name another one")
        if not self._lock():
            self.file.close()
            raise error("is in use by another process; wait for it, or give another file")
        self.file.seek(0)

    def append(self, text: str) -> None:
        """Write text at the end of the file, and wait until it is on disk."""
        self.file.write(text.encode())
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Close the file, and release its lock."""
        self.file.close()

    def _lock(self) -> bool:
        """Return whether no other process has the file."""
        try:
            if sys.platform == "win32":
                self.file.seek(_LOCKED_BYTE)
                msvcrt.locking(self.file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            return False
        return True
