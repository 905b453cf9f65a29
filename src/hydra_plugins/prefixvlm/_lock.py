"""A folder goes in; it is this sweep's alone until the sweep ends, however it ends."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_held: set[Path] = set()


@contextmanager
def only_sweep(folder: Path) -> Iterator[None]:
    """Raise ValueError if another sweep runs there. The system gives the lock back when a process dies."""
    folder = folder.absolute()
    if folder in _held:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another sweep is running in {folder}; wait for it or set another hydra.sweep.dir"
            ) from None
        _held.add(folder)
        try:
            yield
        finally:
            _held.discard(folder)
