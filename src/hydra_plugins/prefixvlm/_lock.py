"""Lock of a sweep's folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def only_sweep(folder: Path) -> Iterator[None]:
    """Lock a folder; the process that holds the lock may lock it again. Raises ValueError if another process has it.

    The operating system releases the lock when the process dies.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    # A singleton, because the sweeper locks the folder around the launcher, which locks it too.
    lock = FileLock(folder / ".lock", blocking=False, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"another sweep is running in {folder}; wait for it or set another hydra.sweep.dir") from None
    try:
        yield
    finally:
        lock.release()
