"""Local cache of remote shards, shared between processes, with least-recently-used eviction."""

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from prefixvlm.atomic import link_or_copy, write_bytes
from prefixvlm.data.remote import PATIENCE, MissingError, Patience, UnreachableError, download, exists, without_query
from prefixvlm.data.shards.lookup import entries
from prefixvlm.data.shards.manifest import MANIFEST, MAX_MANIFEST

DEFAULT_FOLDER = "~/.cache/prefixvlm/shards"
logger = logging.getLogger(__name__)


class PinnedFile:
    """A local file that is not evicted from the cache before `close` is called."""

    def __init__(self, path: Path, lock: ExitStack | None = None) -> None:
        self.path, self.lock = path, lock or ExitStack()

    def close(self) -> None:
        self.lock.close()


class ShardCache:
    """A folder of downloaded shards. Any number of processes may use it at once.

    limit: size in GB. It is exceeded only while the shards in use are larger.
    """

    def __init__(self, folder: str = DEFAULT_FOLDER, limit: float | None = None, patience: Patience = PATIENCE):
        if limit is not None and limit <= 0:
            raise ValueError(f"data.cache_limit is {limit}; set it to more than 0 GB, or to null for no limit")
        self.folder, self.limit, self.patience = Path(folder).expanduser(), limit, patience
        self._warned = False

    def folder_of(self, url: str) -> Path:
        """Return the local folder of a remote folder of shards, with its manifest.

        The manifest is downloaded on each call, because the shards may have been replaced. Without a network the last
        downloaded one is used.
        """
        url = url.rstrip("/")
        newest = self.folder / _digest(url) / MANIFEST
        newest.parent.mkdir(parents=True, exist_ok=True)
        with _locked(newest):
            cached = newest.is_file()
            patience = self.patience._replace(tries=min(2, self.patience.tries)) if cached else self.patience
            try:
                download(f"{url}/{MANIFEST}", newest, None, None, patience, MAX_MANIFEST)
            except MissingError as error:
                raise ValueError(f"{error}: a folder needs a {MANIFEST}, else give a pattern of tars") from error
            except UnreachableError as error:
                if not cached:
                    raise
                logger.warning("%s; the copy in %s is used", error, self.folder)
            content = newest.read_bytes()
            # Each version of a manifest has a folder of its own, so shards of one version never mix with another's.
            version = self.folder / _digest(url + hashlib.sha256(content).hexdigest()) / MANIFEST
            if not version.is_file():
                write_bytes(version, content)
        return version.parent

    def folder_of_index(self, index: Path) -> Path:
        """Return the local folder of shards whose URLs the manifest of `index` has, with that manifest."""
        content = (index / MANIFEST).read_bytes()
        folder = self.folder / _digest(f"index {hashlib.sha256(content).hexdigest()}")
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / MANIFEST):
            if not (folder / MANIFEST).is_file():
                for entry in {id(each.lengths): each.lengths for each in entries(index).values()}.values():
                    if entry is not None and (index / entry.name).is_file():
                        link_or_copy(index / entry.name, folder / entry.name)
                write_bytes(folder / MANIFEST, content)
        return folder

    def path_of(self, url: str) -> Path:
        """Return the local path of a shard of a pattern."""
        parent, _, name = without_query(url).rpartition("/")
        return self.folder / _digest(f"{parent}/*") / name

    def has(self, url: str) -> bool:
        """Return whether a shard of a pattern exists, in the cache or remotely."""
        return self.path_of(url).is_file() or exists(url, self.patience)

    def pin(self, url: str, path: Path, size: int | None = None, sha256: str | None = None) -> PinnedFile:
        """Return the shard at `path`, downloaded if it is not there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            if not path.is_file() or size not in (None, path.stat().st_size):
                for partial in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed
                    partial.unlink()
                self._make_room(size or 0)
                download(url, path, size, sha256, self.patience)
            pin = ExitStack()
            file = pin.enter_context(path.open("rb"))
            fcntl.flock(file, fcntl.LOCK_SH)  # FileLock has no shared mode, and several readers pin one shard
            os.utime(path)
        if size is None:
            self._make_room(0)
        return PinnedFile(path, pin)

    def _make_room(self, incoming: int) -> None:
        if self.limit is None:
            return
        with _locked(self.folder / "room"):
            files = sorted((path.stat().st_mtime_ns, path.stat().st_size, path) for path in self.folder.glob("*/*.tar"))
            excess = sum(size for _, size, _ in files) + incoming - self.limit * 1e9
            for _, size, path in files:
                if excess <= 0:
                    return
                if _evict(path):
                    excess -= size
            if excess > 0 and not self._warned:
                self._warned = True
                logger.warning("the shards that are being read are %d bytes more than data.cache_limit", excess)


def _evict(path: Path) -> bool:
    """Remove a shard and return True, or return False if it is in use."""
    try:
        with _locked(path, timeout=0), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except (BlockingIOError, Timeout):
        return False
    return True


@contextmanager
def _locked(path: Path, timeout: float = -1) -> Iterator[None]:
    # A lock of the kernel, which releases it when a process is killed.
    with FileLock(path.with_name(f"{path.name}.lock"), timeout):
        yield


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
