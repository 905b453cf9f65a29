"""Build a folder of shards from existing tars: hard links to them, and a manifest."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefixvlm.data.shards.manifest import Manifest, Shard, Split, sha256
from prefixvlm.data.shards.read import read_shard
from prefixvlm.data.shards.reencode import ReencodeOptions
from prefixvlm.data.shards.staging import StagingFolder
from prefixvlm.data.shards.tar_writer import SampleOrError, ShardJob, ShardRecord, fingerprint, length_of
from prefixvlm.data.shards.write import make_shards
from prefixvlm.strict_json import read_json


@dataclass
class _Stats:
    """The numbers of images that img2dataset requested, and that it wrote."""

    count: int
    successes: int


def link_tars(splits: Mapping[str, Sequence[Path]], out: Path, source: str, licence: str, workers: int) -> Manifest:
    """Link `out`/SPLIT-NAME.tar to the tars, by symbolic links if they are on another disk. No byte is copied.

    A tar that is damaged or holds no samples is left out, and the manifest says why.
    """

    def jobs(staging: StagingFolder) -> Iterator[ShardJob]:
        for split, paths in splits.items():
            for path in paths:
                name = f"{split}-{path.name}"
                candidates: list[SampleOrError] = [(path.name, {"tar": path})]
                sidecar = staging.done / f"{name}.json"
                yield ShardJob(
                    split, staging.shards / name, sidecar, candidates, ReencodeOptions(), fingerprint(candidates)
                )

    manifest = Manifest(source, licence, 0, {split: Split() for split in splits})
    return make_shards(manifest, out, jobs, link_tar, workers, None)


def link_tar(job: ShardJob) -> Iterator[int | ShardRecord]:
    """Check a whole tar and link to it. Yields 1 for each sample, then the record of the shard."""
    ((name, members),) = job.candidates
    assert isinstance(members, dict)
    path = members["tar"]
    assert isinstance(path, Path)
    shard, left_out = Shard(job.path.name, 0, 0, ""), dict[str, str]()
    try:
        lengths = []
        for key, sample in read_shard(path):
            lengths.append(length_of(key, sample))
            yield 1
        if reason := _missing_samples(path, len(lengths)):
            left_out[name] = reason
        if lengths:
            shard = Shard(job.path.name, len(lengths), path.stat().st_size, sha256(path), lengths)
            _link(path, job.path)
    except ValueError as error:
        left_out[name] = str(error)
    record = ShardRecord(job.split, job.fingerprint, shard, left_out)
    record.save(job.sidecar)
    yield record


def _missing_samples(path: Path, samples: int) -> str:
    """Return how many images img2dataset could not download, as a sentence. Raises ValueError if its count is wrong."""
    stats = path.with_name(f"{path.stem}_stats.json")
    if not stats.is_file():
        return "" if samples else "it holds no samples"
    content = read_json(stats, _Stats, "img2dataset's statistics of a shard")
    requested, written = content.count, content.successes
    if written != samples:
        raise ValueError(f"it holds {samples} samples, but {stats.name} says {written}; download it again")
    if requested == written:
        return ""
    return f"{requested - written} of its {requested} images could not be downloaded, according to {stats.name}"


def _link(path: Path, link: Path) -> None:
    link.unlink(missing_ok=True)
    try:
        os.link(path.resolve(), link)
    except OSError:  # another disk, or a file of another user (fs.protected_hardlinks)
        link.symlink_to(path.resolve())
