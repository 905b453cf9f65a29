"""URLs of shards go in, local paths come out: fetched once for all processes, the least recently used removed first."""

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from prefixvlm.data.remote import PATIENCE, MissingError, Patience, UnreachableError, download, exists, shown
from prefixvlm.data.shards.manifest import MANIFEST

DEFAULT_FOLDER = "~/.cache/prefixvlm/shards"
MAX_MANIFEST = 2**30  # bytes
logger = logging.getLogger(__name__)


class PinnedFile:
    """A file that is there until this is closed."""

    def __init__(self, path: Path, lock: ExitStack | None = None) -> None:
        self.path, self.lock = path, lock or ExitStack()

    def close(self) -> None:
        self.lock.close()


class ShardCache:
    """A folder of shards from elsewhere; any number of processes may use it at once.

    limit: its size in GB, which is exceeded only while more than that is being read.
    """

    def __init__(self, folder: str = DEFAULT_FOLDER, limit: float | None = None, patience: Patience = PATIENCE):
        if limit is not None and limit <= 0:
            raise ValueError(f"data.cache_limit is {limit}; set it to more than 0 GB, or to null for no limit")
        self.folder, self.limit, self.patience = Path(folder).expanduser(), limit, patience
        self._warned = False

    def folder_of(self, url: str) -> Path:
        """Where the shards of a folder with a manifest go: its manifest lies there.

        The manifest is fetched anew, for what was made anew has other shards; without a network the last one serves.
        """
        url = url.rstrip("/")
        newest = self.folder / _digest(url) / MANIFEST
        newest.parent.mkdir(parents=True, exist_ok=True)
        with _locked(newest):
            there = newest.is_file()
            patience = self.patience._replace(tries=min(2, self.patience.tries)) if there else self.patience
            try:
                download(f"{url}/{MANIFEST}", newest, None, None, patience, MAX_MANIFEST)
            except MissingError as error:
                raise ValueError(f"{error}: a folder needs a {MANIFEST}, else give a pattern of tars") from error
            except UnreachableError as error:
                if not there:
                    raise
                logger.warning("%s; the copy in %s is used", error, self.folder)
            content = newest.read_bytes()
            own = self.folder / _digest(url + hashlib.sha256(content).hexdigest()) / MANIFEST
            if not own.is_file():
                own.parent.mkdir(exist_ok=True)
                part = own.with_name(f"{MANIFEST}.partial")
                part.write_bytes(content)
                part.replace(own)
        return own.parent

    def path_of(self, url: str) -> Path:
        """Where a shard of a pattern goes."""
        parent, _, name = shown(url).rpartition("/")
        return self.folder / _digest(f"{parent}/*") / name

    def has(self, url: str) -> bool:
        """Whether there is such a shard of a pattern, here or there."""
        return self.path_of(url).is_file() or exists(url, self.patience)

    def pin(self, url: str, path: Path, size: int | None = None, sha256: str | None = None) -> PinnedFile:
        """The shard at `path`, fetched if it is not there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            if not path.is_file() or size not in (None, path.stat().st_size):
                self._make_room(size or 0)
                download(url, path, size, sha256, self.patience)
            held = ExitStack()
            file = held.enter_context(path.open("rb"))
            fcntl.flock(file, fcntl.LOCK_SH)  # whoever makes room leaves it alone
            os.utime(path)
        if size is None:
            self._make_room(0)
        return PinnedFile(path, held)

    def _make_room(self, incoming: int) -> None:
        if self.limit is None:
            return
        with _locked(self.folder / "room"):
            found = sorted((path.stat().st_mtime_ns, path.stat().st_size, path) for path in self.folder.glob("*/*.tar"))
            excess = sum(size for _, size, _ in found) + incoming - self.limit * 1e9
            for _, size, path in found:
                if excess <= 0:
                    return
                if _remove(path):
                    excess -= size
            if excess > 0 and not self._warned:
                self._warned = True
                logger.warning("the shards that are being read are %d bytes more than data.cache_limit", excess)


def _remove(path: Path) -> bool:
    """Whether it was in no one's use."""
    try:
        with _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except BlockingIOError:
        return False
    return True


@contextmanager
def _locked(path: Path, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    """By the kernel, so that a process that is killed holds nothing."""
    with path.with_name(f"{path.name}.lock").open("ab") as file:
        fcntl.flock(file, how)
        yield


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
