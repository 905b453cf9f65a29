"""Locks of folders between processes, which the end of a process releases, also a kill."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"
_held: set[Path] = set()


@contextmanager
def only_process(folder: Path, refusal: str) -> Iterator[None]:
    """Make a folder if it is missing, and lock it for the block; the process that has the lock may lock it again.

    Raises ValueError(refusal) if another process has the lock.
    """
    path = folder.absolute() / LOCK
    if path in _held:  # closing a second descriptor of the file would release the lock
        yield
        return
    descriptor = _lock(path, refusal)
    _held.add(path)
    try:
        yield
    finally:
        _held.remove(path)
        path.unlink(missing_ok=True)  # before others can lock it
        os.close(descriptor)


def _lock(path: Path, refusal: str) -> int:
    # A lock of lockf belongs to a process. One of flock, which the filelock package takes, is shared with forked data
    # workers, and would outlive a killed run for seconds.
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:  # the holder has just removed the folder
            continue
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise ValueError(refusal) from None
        try:
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)  # the holder has removed the file
