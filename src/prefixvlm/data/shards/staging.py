"""A folder that is to be made goes in; the place where its files gather until all are there comes out."""

import fcntl
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


class StagingFolder:
    """`.NAME.partial` beside the folder NAME: what is finished of it, kept until all is or the plan is another.

    shards: what becomes the folder. done: one file for each finished shard.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards, self.done, self._plan = folder / "shards", folder / "done", folder / "plan"
        self.foreign = False  # of another plan

    def follow(self, plan: str) -> None:
        """Keeps what is there if it is of this plan. Raises ValueError if something is finished of another one."""
        other = self._plan.is_file() and self._plan.read_text() != plan
        if other and not self.empty:
            self.foreign = True
            raise ValueError(
                f"{self.folder} holds what an interrupted run with other arguments or files has finished; go on with "
                f"those, or delete it (rm -r {shlex.quote(str(self.folder))}) to start over"
            )
        if other or not self._plan.is_file():
            for folder in (self.shards, self.done):
                shutil.rmtree(folder, ignore_errors=True)
        for folder in (self.shards, self.done):
            folder.mkdir(exist_ok=True)
        self._plan.write_text(plan)

    def keep_only(self, names: set[str]) -> None:
        """Removes what an earlier run made, whole or in part, and this one did not."""
        for path in self.shards.iterdir():
            if path.name not in names:
                path.unlink()

    @property
    def empty(self) -> bool:
        return not self.done.is_dir() or not any(self.done.iterdir())


@contextmanager
def staging_folder(out: Path) -> Iterator[StagingFolder]:
    """The place for `out`, for this process alone.

    When `out` has been made, or nothing is finished, or a ValueError says that it cannot become anything, the
    place is removed; else it stays for the same command to go on with. Raises ValueError if another process has it.
    """
    partial = StagingFolder(out.with_name(f".{out.name}.partial"))
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock(partial.folder, out)
    try:
        yield partial
    except ValueError:
        if not partial.foreign:
            shutil.rmtree(partial.folder, ignore_errors=True)
        raise
    except KeyboardInterrupt:
        if not partial.empty:
            print(
                f"\nFinished shards are kept in {partial.folder}; the same command goes on from them.", file=sys.stderr
            )
        raise
    finally:
        if not partial.shards.is_dir() or partial.empty:
            shutil.rmtree(partial.folder, ignore_errors=True)
        lock.close()


def _lock(folder: Path, out: Path) -> BinaryIO:
    while True:
        folder.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):  # the folder was renamed or removed by who had it until now
            path = folder / "lock"
            lock = path.open("ab")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.close()
                raise ValueError(f"another process is writing {out}; wait for it or give another --out") from error
            if path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock
            lock.close()
