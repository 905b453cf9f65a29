"""Webdataset tars: the path of a shard goes in, its samples' members come out, or one sentence about what is wrong."""

import tarfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from webdataset.tariterators import base_plus_ext

from prefixvlm.data.manifest import MANIFEST, read_manifest
from prefixvlm.data.sample import EXTENSION, IMAGE_EXTENSIONS, MAX_BYTES

RawSample = tuple[str, dict[str, bytes]]  # a key and its members, by extension


def read_shard(path: Path, wanted: Container[int] | None = None) -> Iterator[RawSample]:
    """The samples of a shard in their order; `wanted`: only those with these numbers, the others' bytes are not read.

    Raises ValueError naming the shard if it is damaged, cut short, splits or repeats a sample, or has foreign members.
    """
    with _open(path) as tar:
        for number, (key, members) in enumerate(_samples(path, tar)):
            if wanted is None or number in wanted:
                yield key, {extension: _read(tar, info) for extension, info in members.items()}


def count_samples(path: Path) -> int:
    """From the manifest beside the shard, or else from the headers in it."""
    expected = _expected(path)
    if expected is not None:
        return expected
    with _open(path) as tar:
        return sum(1 for _ in _samples(path, tar))


def check_member(key: str, extension: str) -> None:
    """Raises ValueError if a sample may not have this key or a member with this extension."""
    name = f"{key}.{extension}"
    if base_plus_ext(name) != (key, extension) or not EXTENSION.fullmatch(extension.lower()):
        accepted = ", ".join((*IMAGE_EXTENSIONS, "json", "txt"))
        raise ValueError(f"member {name!r} is not KEY.EXTENSION with one of {accepted}")
    if key.startswith("/") or ".." in key.split("/") or not key.isprintable():
        raise ValueError(f"the key {key!r} leaves its folder or has unprintable letters")


@contextmanager
def _open(path: Path) -> Iterator[tarfile.TarFile]:
    try:  # "r:" is a plain tar: a compressed one could unpack without limit
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            yield tar
    except tarfile.TarError as error:
        raise ValueError(f"shard {path} is damaged, cut short or not an uncompressed tar ({error})") from error


def _read(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(info)
    assert file is not None, "_entries lets only regular files through"
    return file.read()


def _samples(path: Path, tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    seen: set[str] = set()
    for key, entries in groupby(_entries(path, tar), key=itemgetter(0)):
        if key in seen:
            raise ValueError(f"shard {path}: sample {key} comes twice or its members are not neighbours")
        seen.add(key)
        members: dict[str, tarfile.TarInfo] = {}
        for _, extension, info in entries:
            if extension in members:
                raise ValueError(f"shard {path}: sample {key} has two members .{extension}; a key must be unique")
            members[extension] = info
        yield key, members
    expected = _expected(path)
    if expected is not None and len(seen) != expected:
        raise ValueError(f"shard {path} holds {len(seen)} samples, but {MANIFEST} says {expected}; make it again")


def _entries(path: Path, tar: tarfile.TarFile) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Key, extension and header of each member.

    Not webdataset's own reader: like tarfile, it takes a damaged header for the end of the shard, without a word.
    """
    while (info := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header
        if info.isdir():
            continue
        key, extension = base_plus_ext(info.name)
        try:
            check_member(key or "", extension or "")
        except ValueError as error:
            raise ValueError(f"shard {path}: {error}") from error
        if not info.isreg() or not 0 <= info.size <= MAX_BYTES:
            raise ValueError(f"shard {path}: member {info.name} is not a plain file of at most {MAX_BYTES} bytes")
        yield key, extension.lower(), info
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # the mark of a tar's end
        raise ValueError(f"shard {path} is damaged or cut short at byte {tar.offset}")


def _expected(path: Path) -> int | None:
    manifest = path.with_name(MANIFEST)
    return _counts(path.parent, manifest.stat().st_mtime_ns).get(path.name) if manifest.is_file() else None


@lru_cache(maxsize=8)  # a manifest of thousands of shards is not parsed again for each of them
def _counts(folder: Path, _changed: int) -> dict[str, int]:
    manifest = read_manifest(folder)
    return {s.name: s.samples for split in manifest.splits.values() for s in split.shards} if manifest else {}
