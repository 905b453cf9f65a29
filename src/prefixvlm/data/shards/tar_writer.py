"""Candidates for the samples of one shard go in; its tar and a sidecar that says what is in it come out."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from prefixvlm.data.sample import BLACK, Sample, decode
from prefixvlm.data.shards.manifest import Shard
from prefixvlm.data.shards.reencode import ReencodeOptions

Members = dict[str, bytes | Path]  # by extension; a Path is read by whoever writes the shard
SampleOrError = tuple[str, Members | ValueError]  # a key and its members, or why it is left out


@dataclass(frozen=True)
class ShardJob:
    """A shard that is to be made. folder: of the shards. sidecar: the file that says that it is finished."""

    split: str
    path: Path
    sidecar: Path
    candidates: Sequence[SampleOrError]
    encoding: ReencodeOptions
    fingerprint: str


@dataclass
class ShardRecord:
    """What a sidecar holds. The shard is there unless it would have no samples."""

    split: str
    fingerprint: str
    shard: Shard
    left_out: dict[str, str]

    def save(self, path: Path) -> None:
        with replacing(path) as file:
            file.write(json.dumps(asdict(self)).encode())


def fingerprint(candidates: Sequence[SampleOrError]) -> str:
    """Of what a shard is made from: keys, bytes, and the files' names, sizes and times."""
    digest = hashlib.sha256()
    for key, members in candidates:
        found: object = str(members)
        if not isinstance(members, ValueError):
            found = [(name, _stat(each) if isinstance(each, Path) else hashlib.sha256(each).hexdigest())
                     for name, each in sorted(members.items())]  # fmt: skip
        digest.update(repr((key, found)).encode())
    return digest.hexdigest()


def finished(task: ShardJob) -> ShardRecord | None:
    """What an earlier run made of the very same candidates, if it did."""
    try:
        content = json.loads(task.sidecar.read_text())
        made = ShardRecord(shard=Shard(**content.pop("shard")), **content)
        whole = not made.shard.samples or task.path.stat().st_size == made.shard.bytes
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return made if whole and made.fingerprint == task.fingerprint else None


def write_tar(task: ShardJob) -> Iterator[int | ShardRecord]:
    """Writes the shard; yields 1 for each candidate that is dealt with, and at last what was made.

    Both files come to be under other names, are flushed to the disk and renamed: they are whole or not there.
    Raises OSError if they cannot be written.
    """
    left_out: dict[str, str] = {}
    text_lengths = []
    decoded = BLACK if task.encoding.options() else None  # what is encoded anew was decoded for it
    with replacing(task.path) as file:
        with tarfile.open(fileobj=file, mode="w:", format=tarfile.PAX_FORMAT) as tar:
            for key, candidate in task.candidates:
                try:
                    members = task.encoding(_read(candidate))
                    sample = decode(key, members, task.split, decoded)
                except ValueError as error:
                    left_out[key] = str(error)
                else:
                    for extension in sorted(members):
                        _add(tar, f"{key}.{extension}", members[extension])
                    text_lengths.append(text_length(sample))
                yield 1
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
    if not text_lengths:
        task.path.unlink()
    shard = Shard(task.path.name, len(text_lengths), size, sha256, text_lengths)
    made = ShardRecord(task.split, task.fingerprint, shard, left_out)
    made.save(task.sidecar)
    yield made


def text_length(sample: Sample) -> int:
    """The mean number of characters of its captions and questions, 0 without any."""
    lengths = [len(text) for text in (*sample.captions, *(question.question for question in sample.questions))]
    return round(sum(lengths) / len(lengths)) if lengths else 0


def _stat(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return str(path)
    return str(path), found.st_size, found.st_mtime_ns


def _read(members: Members | ValueError) -> dict[str, bytes]:
    if isinstance(members, ValueError):
        raise members
    try:
        return {name: each.read_bytes() if isinstance(each, Path) else each for name, each in members.items()}
    except OSError as error:
        raise ValueError(f"the image {error.filename} cannot be read ({error.strerror})") from error


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """As webdataset's TarWriter does it; importing that takes three seconds and 200 MB in every process."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.uname, info.gname = len(data), 0o444, "bigdata", "bigdata"
    tar.addfile(info, io.BytesIO(data))
    tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header


@contextmanager
def replacing(path: Path) -> Iterator[io.BufferedRandom]:
    """A new file that takes the place of `path` when all is written, and is gone if something fails."""
    new = path.with_name(f"{path.name}.tmp")
    try:
        with new.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        new.unlink(missing_ok=True)
