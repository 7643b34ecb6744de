"""Locks between the processes of a machine: one at a time.

Inputs: the path of a lock file, which is deleted in the end. The system frees a lock when its process ends, however it
ends, so that a file left behind locks nothing.
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if os.name == "nt":
    import msvcrt
else:
    import fcntl

POLL_SECONDS = 0.1
HELD = {errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK}  # how systems report a lock that another process holds


@contextmanager
def lock(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock `path` in the block. If another process holds it: wait, or without `wait` raise BlockingIOError.

    Some network disks have no locks; the block then runs without one. Threads exclude each other like processes.
    """
    descriptor = acquire(path, wait)
    try:
        yield
    finally:
        release(path, descriptor)


def acquire(path: Path, wait: bool) -> int:
    """The descriptor of the locked file. Its folder must exist."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            while not try_lock(descriptor):
                if not wait:
                    raise BlockingIOError(errno.EWOULDBLOCK, "another process holds this lock", str(path))
                time.sleep(POLL_SECONDS)
            if is_same_file(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last owner has deleted it, so others would lock a new file


def try_lock(descriptor: int) -> bool:
    """Lock an open file, unless another process does. True as well where the disk has no locks."""
    try:
        if os.name == "nt":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in HELD
    return True


def is_same_file(path: Path, descriptor: int) -> bool:
    """Whether `path` is still the open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def release(path: Path, descriptor: int) -> None:
    """Delete the lock file and free the lock."""
    if os.name == "nt":  # an open file cannot be deleted, so one that another process has opened stays
        os.close(descriptor)
        with suppress(OSError):
            path.unlink()
    else:  # deleted while it is locked: a process that waits for it sees that and takes the next one
        path.unlink(missing_ok=True)
        os.close(descriptor)
