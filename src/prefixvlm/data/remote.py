"""Download of remote files over HTTP or fsspec, with retries, size limits and checksums."""

import hashlib
import http.client
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tarfile import BLOCKSIZE
from typing import Any, BinaryIO, NamedTuple

from prefixvlm.atomic import replacing_file
from prefixvlm.data.store import open_store
from prefixvlm.data.web import WEB, MissingError, Opened, TransientError, open_web, reason, without_query

MAX_SHARD = 64 * 2**30  # bytes
CHUNK = 2**20
STORES = ("s3", "gs", "gcs", "az", "abfs", "abfss", "hdfs", "webhdfs", "oss", "hf", "memory")  # read through fsspec


logger = logging.getLogger(__name__)


class UnreachableError(ValueError):
    """Every attempt failed because of the network or the server."""


class Patience(NamedTuple):
    """How long a download is attempted.

    timeout: seconds without a byte. tries: number of attempts.
    pause: seconds before the second attempt, doubled before each further one.
    """

    timeout: float = 30
    tries: int = 5
    pause: float = 1


PATIENCE = Patience()


def is_remote(shards: str) -> bool:
    """Return whether this is a URL. Raises ValueError for URLs that are not accepted."""
    if shards.startswith("pipe:"):  # webdataset runs such a URL as a shell command
        raise ValueError("data.shards begins with pipe:, and no shell is ever run; give a folder, a pattern or a URL")
    scheme, separator, rest = shards.partition("://")
    if not separator:
        return False
    if "***" in shards:  # of provenance/redaction.py
        raise ValueError(
            f"data.shards is {without_query(shards)} with *** in it, because a URL is stored without its password "
            "or signature; set data.shards, or shards of an evaluation, to the whole URL"
        )
    if "::" in shards or scheme not in WEB + STORES:
        raise ValueError(f"data.shards begins with {scheme}://; accepted are {', '.join(WEB + STORES)}")
    if "@" in rest.partition("/")[0]:
        raise ValueError(
            "data.shards holds a user name or a password, which checkpoints and logs would keep; set credentials in "
            "the environment, and give the URL without them"
        )
    return True


def download(
    url: str, path: Path, size: int | None, sha256: str | None, patience: Patience, max_size: int = MAX_SHARD
) -> None:
    """Download a file to `path`, whole or not at all.

    size, sha256: those of the file, if they are known.
    Raises MissingError, UnreachableError or another ValueError.
    """

    def fetch() -> None:
        with replacing_file(path) as target:
            _copy(url, target, size, sha256, patience.timeout, max_size)

    _retry(fetch, url, patience)


def exists(url: str, patience: Patience) -> bool:
    """Return whether the file exists. Raises UnreachableError if the server does not answer."""

    def look() -> None:
        with _open(url, patience.timeout):
            pass

    try:
        _retry(look, url, patience)
    except MissingError:
        return False
    return True


def _retry(attempt: Callable[[], None], url: str, patience: Patience) -> None:
    reason = ""
    for number in range(patience.tries):
        if number:
            time.sleep(patience.pause * 2 ** (number - 1))
        try:
            return attempt()
        except TransientError as error:
            reason = str(error)
    raise UnreachableError(
        f"{without_query(url)} was not fetched in {patience.tries} tries ({reason}); is the network there?"
    )


def _copy(url: str, target: BinaryIO, size: int | None, sha256: str | None, timeout: float, max_size: int) -> None:
    name = without_query(url)
    with _open(url, timeout) as (source, length, stated):
        expected = length if length is not None else size
        if size is not None and expected != size:
            raise ValueError(f"{name} has {length} bytes and its manifest says {size}; it was replaced or truncated")
        if (expected or 0) > max_size:
            raise ValueError(f"{name} has {expected} bytes; at most {max_size} are fetched")
        digest, other, done = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        while chunk := _read(source):
            done += len(chunk)
            # Checked at every chunk: a server may send more than it announced, without end.
            if done > (max_size if expected is None else expected):
                raise ValueError(f"{name} has more bytes than were announced, or than the {max_size} allowed")
            digest.update(chunk)
            other.update(chunk)
            target.write(chunk)
        if expected is not None and done != expected:
            raise TransientError(f"it broke off after {done} of {expected} bytes")
        if sha256 is not None and digest.hexdigest() != sha256:
            raise TransientError("its sha256 is not what its manifest says")
        if stated is not None and stated not in (digest.digest(), other.digest()):
            raise TransientError("its bytes do not have the checksum that the server states")
        if sha256 is None and name.endswith(".tar"):
            _check_end(target, done)
            if stated is None:
                _say_unchecked(name.rpartition("/")[0])


def _check_end(tar: BinaryIO, size: int) -> None:
    """Raise TransientError unless the tar ends as one does, with two blocks of zeros: a length may lack or be wrong."""
    tar.seek(max(0, size - 2 * BLOCKSIZE))
    if size % BLOCKSIZE or tar.read() != bytes(2 * BLOCKSIZE):
        raise TransientError(f"its {size} bytes do not end as a tar does, so it is cut short or no tar")


@lru_cache(maxsize=64)
def _say_unchecked(folder: str) -> None:
    logger.warning(
        "the shards of %s have no manifest, nor does the server state checksums: that they are whole is known, "
        "but not whether a byte was changed",
        folder,
    )


def _read(source: Any) -> bytes:
    try:
        return source.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise TransientError(reason(error)) from error


@contextmanager
def _open(url: str, timeout: float) -> Iterator[Opened]:
    opened = (open_web if url.startswith(("http://", "https://")) else open_store)(url, timeout)
    with opened.file:
        yield opened
