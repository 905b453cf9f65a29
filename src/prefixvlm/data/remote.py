"""The URL of a file goes in; the file, whole and checked, lies in its place, or one sentence says why it does not."""

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

MAX_SHARD = 64 * 2**30  # bytes
CHUNK = 2**20
WEB = ("http", "https")
STORES = ("s3", "gs", "gcs", "az", "abfs", "abfss", "hdfs", "webhdfs", "oss", "hf", "memory")  # by way of fsspec
LATER = (408, 425, 429)  # answers below 500 that may be others the next time


class UnreachableError(ValueError):
    """The network or the server failed, again and again."""


class MissingError(ValueError):
    """The server answered, and does not give this file."""


class _TransientError(Exception):
    """What another try may mend."""


class Patience(NamedTuple):
    """timeout: seconds without a byte. pause: seconds before the second try; doubled before each further one."""

    timeout: float = 30
    tries: int = 5
    pause: float = 1


PATIENCE = Patience()


def is_remote(shards: str) -> bool:
    """Whether this is a URL. Raises ValueError for one that is never opened."""
    if shards.startswith("pipe:"):
        raise ValueError("data.shards begins with pipe:, and no shell is ever run; give a folder, a pattern or a URL")
    scheme, separator, rest = shards.partition("://")
    if not separator:
        return False
    if "::" in shards or scheme not in WEB + STORES:
        raise ValueError(f"data.shards begins with {scheme}://; accepted are {', '.join(WEB + STORES)}")
    if "@" in rest.partition("/")[0]:
        raise ValueError(
            "data.shards holds a user name or a password, which checkpoints and logs would keep; set credentials in "
            "the environment, and give the URL without them"
        )
    return True


def shown(url: str) -> str:
    """The URL without its query, which may hold a signature."""
    return url.partition("?")[0]


def download(
    url: str, path: Path, size: int | None, sha256: str | None, patience: Patience, largest: int = MAX_SHARD
) -> None:
    """Writes `path` whole or not at all. size, sha256: what the file must have, where that is known.

    Raises MissingError, UnreachableError or another ValueError, each one sentence.
    """
    part = path.with_name(f"{path.name}.partial")
    try:
        _patiently(lambda: _copy(url, part, size, sha256, patience.timeout, largest), url, patience)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def exists(url: str, patience: Patience) -> bool:
    """Raises UnreachableError where no one answers."""

    def look() -> None:
        with _opened(url, patience.timeout):
            pass

    try:
        _patiently(look, url, patience)
    except MissingError:
        return False
    return True


def _patiently(attempt: Callable[[], None], url: str, patience: Patience) -> None:
    reason = ""
    for number in range(patience.tries):
        if number:
            time.sleep(patience.pause * 2 ** (number - 1))
        try:
            return attempt()
        except _TransientError as error:
            reason = str(error)
    raise UnreachableError(f"{shown(url)} was not fetched in {patience.tries} tries ({reason}); is the network there?")


def _copy(url: str, part: Path, size: int | None, sha256: str | None, timeout: float, largest: int) -> None:
    with _opened(url, timeout) as (source, length), part.open("wb") as target:
        announced = length if length is not None else size
        if size is not None and announced != size:
            raise ValueError(f"{shown(url)} has {length} bytes and its manifest says {size}; it was made anew or cut")
        if (announced or 0) > largest:
            raise ValueError(f"{shown(url)} has {announced} bytes; at most {largest} are fetched")
        digest, done = hashlib.sha256(), 0
        while chunk := _read(source):
            done += len(chunk)
            if done > (largest if announced is None else announced):
                raise ValueError(f"{shown(url)} has more bytes than were announced, or than the {largest} allowed")
            digest.update(chunk)
            target.write(chunk)
        if announced is not None and done != announced:
            raise _TransientError(f"it broke off after {done} of {announced} bytes")
        if sha256 is not None and digest.hexdigest() != sha256:
            raise _TransientError("its sha256 is not what its manifest says")
        target.flush()
        os.fsync(target.fileno())


def _read(source: Any) -> bytes:
    try:
        return source.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _TransientError(_reason(error)) from error


@contextmanager
def _opened(url: str, timeout: float) -> Iterator[tuple[Any, int | None]]:
    """What is read from, and its number of bytes where that is told."""
    source, length = (_web if url.startswith(("http://", "https://")) else _store)(url, timeout)
    with source:
        yield source, length


def _web(url: str, timeout: float) -> tuple[Any, int | None]:
    request = urllib.request.Request(url, headers={"User-Agent": "prefixvlm"})
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code >= 500 or error.code in LATER:
            raise _TransientError(f"{error.code} {error.reason}") from error
        raise MissingError(f"{shown(url)}: {error.code} {error.reason}; correct data.shards") from error
    except (OSError, http.client.HTTPException) as error:
        raise _TransientError(_reason(error)) from error
    length = response.headers.get("Content-Length", "")
    return response, int(length) if length.isdigit() else None


def _store(url: str, timeout: float) -> tuple[Any, int | None]:
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(url)
        return files.open(path, "rb"), files.info(path).get("size")
    except ImportError as error:
        scheme = url.partition("://")[0]
        package = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}.get(scheme, "its fsspec package")
        raise ValueError(f"{scheme}:// URLs need {package}, which is not installed: pip install {package}") from error
    except (FileNotFoundError, PermissionError) as error:
        raise MissingError(f"{shown(url)}: {type(error).__name__}; correct data.shards or its credentials") from error
    except Exception as error:  # each store raises its own errors, and their texts may hold credentials
        raise _TransientError(type(error).__name__) from error


def _reason(error: Exception) -> str:
    inner = getattr(error, "reason", error)
    return getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
