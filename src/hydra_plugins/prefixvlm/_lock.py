"""Lock of a sweep's folder."""

from contextlib import AbstractContextManager
from pathlib import Path

from prefixvlm.lock import only_process


def only_sweep(folder: Path) -> AbstractContextManager[None]:
    """Lock a folder, also within the block of another lock of it. Raises ValueError if another process has it."""
    return only_process(folder, f"another sweep is running in {folder}; wait for it or set another hydra.sweep.dir")
