"""Staging folder of shards: files gather here until all are finished, and an interrupted run continues from it."""

import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefixvlm.lock import only_process


class StagingFolder:
    """`.NAME.partial` beside the folder NAME. It keeps what is finished as long as the plan is the same.

    shards: becomes the folder. done: one file for each finished shard.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards, self.done, self._plan = folder / "shards", folder / "done", folder / "plan"
        self.has_other_plan = False

    def follow(self, plan: str) -> None:
        """Keep finished shards of this plan. Raises ValueError if there are finished shards of another plan."""
        other = self._plan.is_file() and self._plan.read_text() != plan
        if other and not self.empty:
            self.has_other_plan = True
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
        """Remove shards, whole or partial, that a former run wrote and this one does not need."""
        for path in self.shards.iterdir():
            if path.name not in names:
                path.unlink()

    def finish(self) -> None:
        """Remove what is kept for a run that would continue."""
        shutil.rmtree(self.shards)

    @property
    def empty(self) -> bool:
        return not self.done.is_dir() or not any(self.done.iterdir())


@contextmanager
def staging_folder(out: Path) -> Iterator[StagingFolder]:
    """Lock the staging folder of `out` for this process.

    At the end the staging folder is removed if `out` has been made, if nothing is finished, or on a ValueError, which
    the same command would raise again. Otherwise it stays, and the same command continues from it.
    Raises ValueError if another process has locked it.
    """
    staging = StagingFolder(out.with_name(f".{out.name}.partial"))
    with only_process(staging.folder, f"another process is writing {out}; wait for it or give another --out"):
        try:
            yield staging
        except ValueError:
            if not staging.has_other_plan:
                shutil.rmtree(staging.folder, ignore_errors=True)
            raise
        except KeyboardInterrupt:
            if not staging.empty:
                print(
                    f"\nFinished shards are kept in {staging.folder}; the same command goes on from them.",
                    file=sys.stderr,
                )
            raise
        finally:
            if not staging.shards.is_dir() or staging.empty:
                shutil.rmtree(staging.folder, ignore_errors=True)
