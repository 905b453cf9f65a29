"""Write the tar of one shard, and a sidecar file that records what is in it."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from prefixvlm.atomic import replacing_file, write_text
from prefixvlm.data.image import read_image, reason_of
from prefixvlm.data.sample import BLACK_IMAGE, Sample, decode
from prefixvlm.data.shards.manifest import Shard
from prefixvlm.data.shards.reencode import ReencodeOptions
from prefixvlm.strict_json import read_json

Members = dict[str, bytes | Path]  # by extension; a Path is read when the shard is written
SampleOrError = tuple[str, Members | ValueError]  # a key with its members, or with the reason why it is left out


@dataclass(frozen=True)
class ShardJob:
    """A shard to write.

    sidecar: the file that marks the shard as finished. fingerprint: see `fingerprint`. check_fields: leave a sample out
    if any field of its json member is not valid; otherwise only captions and questions are read.
    """

    split: str
    path: Path
    sidecar: Path
    candidates: Sequence[SampleOrError]
    encoding: ReencodeOptions
    fingerprint: str
    check_fields: bool = True


@dataclass
class ShardRecord:
    """Content of a sidecar. The file of the shard exists unless it has no samples."""

    split: str
    fingerprint: str
    shard: Shard
    left_out: dict[str, str]

    def save(self, path: Path) -> None:
        write_text(path, json.dumps(asdict(self)))


def fingerprint(candidates: Sequence[SampleOrError]) -> str:
    """Hash what a shard is made from: keys, bytes, and the names, sizes and times of files."""
    digest = hashlib.sha256()
    for key, members in candidates:
        content: object = str(members)
        if not isinstance(members, ValueError):
            content = [(name, _stat(each) if isinstance(each, Path) else hashlib.sha256(each).hexdigest())
                       for name, each in sorted(members.items())]  # fmt: skip
        digest.update(repr((key, content)).encode())
    return digest.hexdigest()


def finished(job: ShardJob) -> ShardRecord | None:
    """Return the record of a former run if it finished this shard from the same candidates."""
    try:
        record = read_json(job.sidecar, ShardRecord, "the record of a shard")
        whole = not record.shard.samples or record.shard.url or job.path.stat().st_size == record.shard.bytes
    except (OSError, ValueError):
        return None
    return record if whole and record.fingerprint == job.fingerprint else None


def write_tar(job: ShardJob) -> Iterator[int | ShardRecord]:
    """Write a shard and its sidecar. Yields 1 for each candidate, then the record of the shard.

    Raises OSError if a file cannot be written.
    """
    left_out: dict[str, str] = {}
    text_lengths = []
    image = BLACK_IMAGE if job.encoding.reencodes else None  # re-encoding has decoded the images already
    with replacing_file(job.path) as file:
        with tarfile.open(fileobj=file, mode="w:", format=tarfile.PAX_FORMAT) as tar:
            for key, candidate in job.candidates:
                try:
                    members = job.encoding(_read(candidate))
                    sample = decode(key, members, job.split, image, job.encoding.decoder)
                    length = text_length(sample.check() if job.check_fields else sample)
                except Exception as error:  # MemoryError of an image, say
                    left_out[key] = reason_of(error)
                else:
                    for extension in sorted(members):
                        _add(tar, f"{key}.{extension}", members[extension])
                    text_lengths.append(length)
                yield 1
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
    if not text_lengths:
        job.path.unlink()
    shard = Shard(job.path.name, len(text_lengths), size, sha256, text_lengths)
    record = ShardRecord(job.split, job.fingerprint, shard, left_out)
    record.save(job.sidecar)
    yield record


def text_length(sample: Sample) -> int:
    """Return the mean number of characters of captions and questions, 0 if there are none."""
    lengths = [len(text) for text in (*sample.captions, *(question.question for question in sample.questions))]
    return round(sum(lengths) / len(lengths)) if lengths else 0


def length_of(key: str, members: dict[str, bytes]) -> int:
    """Return the text length of the members of a sample, 0 if they do not decode."""
    try:
        return text_length(decode(key, members, "", BLACK_IMAGE))
    except ValueError:
        return 0  # a bad sample stays in its tar; the training loader skips and counts it


def _stat(path: Path) -> object:
    try:
        stat = path.stat()
    except OSError:
        return str(path)
    return str(path), stat.st_size, stat.st_mtime_ns


def _read(members: Members | ValueError) -> dict[str, bytes]:
    if isinstance(members, ValueError):
        raise members
    try:
        return {name: read_image(each) if isinstance(each, Path) else each for name, each in members.items()}
    except OSError as error:
        raise ValueError(f"the image {error.filename} cannot be read ({error.strerror})") from error


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a member with the fields that webdataset's TarWriter sets, whose import takes three seconds and 200 MB."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.uname, info.gname = len(data), 0o444, "bigdata", "bigdata"
    tar.addfile(info, io.BytesIO(data))
    tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header
