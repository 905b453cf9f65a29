"""Webdataset tars: the path of a shard goes in, its samples' members come out, or one sentence about what is wrong."""

import re
import tarfile
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO, NamedTuple

from prefixvlm.data.sample import EXTENSION, MAX_BYTES, SEEN, TEXT_EXTENSIONS
from prefixvlm.data.shards.manifest import MANIFEST, Shard, read_manifest

RawSample = tuple[str, dict[str, bytes]]  # a key and its members, by extension
Say = Callable[[str], None]
MAX_HEADER = 2**20  # bytes of a long name or of the fields of a member
MAX_SAMPLE = 4 * MAX_BYTES
_NAME = re.compile(r"((?:.*/)?[^.]+)\.([^/]*)")


class _Tar(NamedTuple):
    path: Path
    file: BinaryIO
    headers: tarfile.TarFile


def _refuse(problem: str) -> None:
    raise ValueError(problem)


def read_shard(path: Path, wanted: Container[int] | None = None, say: Say = _refuse) -> Iterator[RawSample]:
    """The samples of a shard in their order; `wanted`: only those with these numbers, the others' bytes are not read.

    Raises ValueError naming the shard if it is damaged, cut short, splits or repeats a sample, or has foreign members.
    say: is told of all these, but for damage, instead; a foreign or repeated member is passed over then.
    """
    with _open(path) as tar:
        for number, (key, members) in enumerate(_samples(tar, say)):
            if wanted is None or number in wanted:
                yield key, {extension: _read(tar, info) for extension, info in members.items()}


def count_samples(path: Path) -> int:
    """From the manifest beside the shard, or else from the headers in it."""
    if (shard := listed(path)) is not None:
        return shard.samples
    with _open(path) as tar:
        return sum(1 for _ in _samples(tar, _refuse))


def listed(path: Path) -> Shard | None:
    """What the manifest beside the shard, if there is one, says of it."""
    manifest = path.with_name(MANIFEST)
    return _shards(path.parent, manifest.stat().st_mtime_ns).get(path.name) if manifest.is_file() else None


@lru_cache(maxsize=8)  # a manifest of thousands of shards is not parsed again for each of them
def _shards(folder: Path, _changed: int) -> dict[str, Shard]:
    manifest = read_manifest(folder)
    return {shard.name: shard for split in manifest.splits.values() for shard in split.shards} if manifest else {}


def split_name(name: str) -> tuple[str, str]:
    """The key and the extension, which begins after the first dot of the file's name; of others two empty texts.

    As webdataset's base_plus_ext, but importing that takes three seconds and 200 MB in every process.
    """
    match = _NAME.fullmatch(name)
    return (match[1], match[2]) if match else ("", "")


def check_member(key: str, extension: str) -> None:
    """Raises ValueError if a sample may not have this key or a member with this extension."""
    name = f"{key}.{extension}"
    if split_name(name) != (key, extension) or not EXTENSION.fullmatch(extension.lower()):
        accepted = ", ".join((*SEEN, *TEXT_EXTENSIONS))
        raise ValueError(f"member {name!r} is not KEY.EXTENSION with one of {accepted}")
    if key.startswith("/") or ".." in key.split("/") or not key.isprintable():
        raise ValueError(f"the key {key!r} leaves its folder or has unprintable letters")


class _Headers:
    """A file that tarfile reads headers from; tarfile itself would read as much as a header declares."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header declares {size} bytes")
        return self.file.read(size)


@contextmanager
def _open(path: Path) -> Iterator[_Tar]:
    with path.open("rb") as file:
        try:  # "r:" is a plain tar: a compressed one could unpack without limit
            headers = tarfile.open(fileobj=_Headers(file), mode="r:")  # type: ignore[call-overload]  # noqa: SIM115
        except Exception as error:  # on damaged headers tarfile raises TarError, ValueError, RecursionError and others
            raise _damaged(path, error) from error
        with headers:
            yield _Tar(path, file, headers)


def _damaged(path: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())
    return ValueError(f"shard {path} is damaged, cut short or not an uncompressed tar ({reason})")


def _read(tar: _Tar, info: tarfile.TarInfo) -> bytes:
    tar.file.seek(info.offset_data)
    data = tar.file.read(info.size)
    if len(data) != info.size:
        raise _damaged(tar.path, EOFError("unexpected end of data"))
    return data


def _samples(tar: _Tar, say: Say) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    path, seen = tar.path, set[str]()
    for key, entries in groupby(_entries(tar, say), key=itemgetter(0)):
        if key in seen:
            say(f"shard {path}: sample {key} comes twice or its members are not neighbours")
            continue
        seen.add(key)
        members: dict[str, tarfile.TarInfo] = {}
        for _, extension, info in entries:
            if extension in members:
                say(f"shard {path}: sample {key} has two members .{extension}; a key must be unique")
                continue
            members[extension] = info
        if sum(info.size for info in members.values()) > MAX_SAMPLE:
            say(f"shard {path}: sample {key} has more than {MAX_SAMPLE} bytes; give it fewer images")
            continue
        yield key, members
    shard = listed(path)
    if shard is not None and len(seen) != shard.samples:
        say(f"shard {path} holds {len(seen)} samples, but {MANIFEST} says {shard.samples}; make it again")


def _entries(tar: _Tar, say: Say) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Key, extension and header of each member.

    Not webdataset's own reader: like tarfile, it takes a damaged header for the end of the shard, without a word.
    """
    path, reached = tar.path, -1
    while (info := _next(tar)) is not None:
        tar.headers.members = []  # type: ignore[attr-defined]  # tarfile would keep every header
        if info.offset <= reached:  # a size below zero leads back, and around for ever
            raise _damaged(path, ValueError(f"the header after byte {reached} leads back"))
        reached = info.offset
        if info.isdir():
            continue
        key, extension = split_name(info.name)
        try:
            check_member(key, extension)
        except ValueError as error:
            say(f"shard {path}: {error}")
            continue
        if not info.isreg() or info.issparse() or not 0 <= info.size <= MAX_BYTES:
            say(f"shard {path}: member {info.name} is not a plain file of at most {MAX_BYTES} bytes")
            continue
        yield key, extension.lower(), info
    _check_end(tar)


def _next(tar: _Tar) -> tarfile.TarInfo | None:
    try:
        return tar.headers.next()
    except Exception as error:  # as in _open
        raise _damaged(tar.path, error) from error


def _check_end(tar: _Tar) -> None:
    """A tar ends with a block of zeros, and nothing but zeros comes after it."""
    offset = tar.headers.offset
    tar.file.seek(offset)
    block = tar.file.read(tarfile.BLOCKSIZE)
    if len(block) != tarfile.BLOCKSIZE or any(block):
        raise ValueError(f"shard {tar.path} is damaged or cut short at byte {offset}")
    while rest := tar.file.read(MAX_HEADER):
        if any(rest):
            raise ValueError(f"shard {tar.path} is damaged: it goes on after its end at byte {offset}")
