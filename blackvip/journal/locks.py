"""Locks on files. They belong to the open file, and so keep threads apart as well as processes."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["lock", "locked", "try_lock", "unlock"]

_PLACE = 2**40  # of the byte that is locked on Windows: far behind what is read, which a lock there would forbid
_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


def try_lock(descriptor: int) -> bool:
    """Lock a file for this open descriptor alone; False where another one has it.

    Raises
    ------
    OSError
        If the file system has no locks.
    """
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, _PLACE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        return False
    return True


def lock(descriptor: int) -> None:
    """Lock a file for this open descriptor alone, after whoever has it."""
    if sys.platform == "win32":
        while True:
            try:
                os.lseek(descriptor, _PLACE, os.SEEK_SET)
                msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
                return
            except OSError as error:  # it gives up after ten seconds
                if error.errno not in _TAKEN:
                    raise
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def unlock(descriptor: int) -> None:
    """Give a lock back."""
    if sys.platform == "win32":
        os.lseek(descriptor, _PLACE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextmanager
def locked(descriptor: int) -> Iterator[None]:
    """A block in which a file is locked, whose position is not changed."""
    position = os.lseek(descriptor, 0, os.SEEK_CUR)
    lock(descriptor)
    os.lseek(descriptor, position, os.SEEK_SET)
    try:
        yield
    finally:
        position = os.lseek(descriptor, 0, os.SEEK_CUR)
        unlock(descriptor)
        os.lseek(descriptor, position, os.SEEK_SET)
