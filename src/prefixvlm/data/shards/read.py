"""Read webdataset tars, and find what is wrong with one."""

import logging
import re
import tarfile
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO, NamedTuple

from prefixvlm.data.feature_codec import MAX_BYTES
from prefixvlm.data.sample import EXTENSION, TEXT_EXTENSIONS, VISUAL_EXTENSIONS
from prefixvlm.data.shards.lookup import manifest_entry
from prefixvlm.data.shards.manifest import MANIFEST
from prefixvlm.data.tar_headers import MAX_HEADER, BoundedFile, Header

RawSample = tuple[str, dict[str, bytes]]  # a key and its members by extension
OnProblem = Callable[[str], None]
MAX_SAMPLE = 4 * MAX_BYTES
logger = logging.getLogger(__name__)
_said = set[Path]()  # the folders whose hidden members were mentioned
_NAME = re.compile(r"((?:.*/)?[^.]+)\.([^/]*)")


class Tar(NamedTuple):
    path: Path
    file: BinaryIO
    headers: tarfile.TarFile


def raise_problem(problem: str) -> None:
    raise ValueError(problem)


def read_shard(
    path: Path, numbers: Container[int] | None = None, on_problem: OnProblem = raise_problem
) -> Iterator[RawSample]:
    """Yield the samples of a shard in order.

    numbers: yield only the samples with these numbers; the bytes of the others are not read.
    on_problem: called with a sentence for a repeated or scattered sample and for a member that is repeated or not
        accepted, which are then left out, and for a wrong number of samples. By default it raises ValueError.
    Raises ValueError that names the shard if it is damaged or truncated.
    """
    with open_tar(path) as tar:
        for number, (key, members) in enumerate(sample_headers(tar, on_problem)):
            if numbers is None or number in numbers:
                yield key, {name: read_member(path, tar.file, i.offset_data, i.size) for name, i in members.items()}


def count_samples(path: Path) -> int:
    """Return the number of samples, from the manifest of the folder or else from the headers in the tar."""
    if (entry := manifest_entry(path)) is not None:
        return entry.samples
    with open_tar(path) as tar:
        return sum(1 for _ in sample_headers(tar, raise_problem))


def split_name(name: str) -> tuple[str, str]:
    """Split the name of a member at the first dot of its file name into key and extension, else ("", "").

    The same as webdataset's base_plus_ext, whose import takes three seconds and 200 MB in every process.
    """
    match = _NAME.fullmatch(name)
    return (match[1], match[2]) if match else ("", "")


def check_member(key: str, extension: str, name: str = "") -> None:
    """Raise ValueError if the key or the extension of a member is not accepted. name: as it stands in the tar."""
    name = name or f"{key}.{extension}"
    if split_name(name) != (key, extension) or not EXTENSION.fullmatch(extension.lower()):
        accepted = ", ".join((*VISUAL_EXTENSIONS, *TEXT_EXTENSIONS))
        raise ValueError(f"member {name!r} is not KEY.EXTENSION with one of {accepted}")
    if key.startswith("/") or ".." in key.split("/") or not key.isprintable():
        raise ValueError(f"the key {key!r} leaves its folder or has unprintable letters")


@contextmanager
def open_tar(path: Path) -> Iterator[Tar]:
    with path.open("rb") as file:
        try:  # "r:" accepts plain tars only: a compressed one could decompress without limit
            headers = tarfile.open(fileobj=BoundedFile(file), mode="r:", tarinfo=Header)  # type: ignore[call-overload]  # noqa: SIM115
        except Exception as error:  # on damaged headers tarfile raises TarError, ValueError, RecursionError and others
            raise _damaged(path, error) from error
        with headers:
            yield Tar(path, file, headers)


def _damaged(path: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())
    return ValueError(f"shard {path} is damaged, cut short or not an uncompressed tar ({reason})")


def read_member(path: Path, file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise _damaged(path, EOFError("unexpected end of data"))
    return data


def sample_headers(tar: Tar, on_problem: OnProblem) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    path, keys = tar.path, set[str]()
    for key, group in groupby(_members(tar, on_problem), key=itemgetter(0)):
        if key in keys:
            on_problem(f"shard {path}: sample {key} comes twice or its members are not neighbours")
            continue
        keys.add(key)
        members: dict[str, tarfile.TarInfo] = {}
        for _, extension, info in group:
            if extension in members:
                on_problem(f"shard {path}: sample {key} has two members .{extension}; a key must be unique")
                continue
            members[extension] = info
        if sum(info.size for info in members.values()) > MAX_SAMPLE:
            on_problem(f"shard {path}: sample {key} has more than {MAX_SAMPLE} bytes; give it fewer images")
            continue
        yield key, members
    # A tar that is cut at the boundary of a member is well-formed; only the count reveals it.
    entry = manifest_entry(path)
    if entry is not None and len(keys) != entry.samples:
        on_problem(f"shard {path} holds {len(keys)} samples, but {MANIFEST} says {entry.samples}; make it again")


def _members(tar: Tar, on_problem: OnProblem) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Yield key, extension and header of each member."""
    # Not with webdataset's reader: like tarfile's own iterator, it takes a damaged header for the end of the shard.
    path, offset = tar.path, -1
    while (info := _next(tar)) is not None:
        tar.headers.members = []  # type: ignore[attr-defined]  # tarfile keeps every header
        if info.offset <= offset:  # a negative size leads back to a former header, in an endless loop
            raise _damaged(path, ValueError(f"the header after byte {offset} leads back"))
        offset = info.offset
        if info.isdir():
            continue
        if any(part == "__MACOSX" or re.match(r"\.[^./]", part) for part in info.name.split("/")):
            _say_hidden(path.parent, path.name, info.name)
            continue
        key, extension = split_name(info.name)
        try:
            check_member(key, extension, info.name)
        except ValueError as error:
            on_problem(f"shard {path}: {error}")
            continue
        if not info.isreg() or info.issparse() or not 0 <= info.size <= MAX_BYTES:
            on_problem(f"shard {path}: member {info.name} is not a plain file of at most {MAX_BYTES} bytes")
            continue
        yield key, extension.lower(), info
    _check_end(tar)


def _say_hidden(folder: Path, shard: str, member: str) -> None:
    if folder not in _said:  # once for a folder of shards, not for each of thousands of members
        _said.add(folder)
        logger.warning("shard %s: hidden members, as %s, are passed over in all shards of the folder", shard, member)


def _next(tar: Tar) -> tarfile.TarInfo | None:
    try:
        return tar.headers.next()
    except Exception as error:  # as in open_tar
        raise _damaged(tar.path, error) from error


def _check_end(tar: Tar) -> None:
    """Raise ValueError unless the tar ends with a block of zeros, followed by nothing but zeros."""
    offset = tar.headers.offset
    tar.file.seek(offset)
    block = tar.file.read(tarfile.BLOCKSIZE)
    if len(block) != tarfile.BLOCKSIZE or any(block):
        raise ValueError(f"shard {tar.path} is damaged or cut short at byte {offset}")
    while rest := tar.file.read(MAX_HEADER):
        if any(rest):
            raise ValueError(f"shard {tar.path} is damaged: it goes on after its end at byte {offset}")
