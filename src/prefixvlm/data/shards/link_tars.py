"""Tars that someone else wrote go in; a folder of links to them with a manifest, checked and counted, comes out."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from prefixvlm.data.sample import BLACK, decode
from prefixvlm.data.shards.manifest import Manifest, Shard, Split, sha256
from prefixvlm.data.shards.read import read_shard
from prefixvlm.data.shards.reencode import ReencodeOptions
from prefixvlm.data.shards.staging import StagingFolder
from prefixvlm.data.shards.tar_writer import SampleOrError, ShardJob, ShardRecord, fingerprint, text_length
from prefixvlm.data.shards.write import make_shards


def link_tars(splits: Mapping[str, Sequence[Path]], out: Path, source: str, licence: str, workers: int) -> Manifest:
    """`out`/SPLIT-NAME.tar are hard links to the tars (symbolic ones to another disk): no byte is copied or changed.

    A tar that is damaged or holds no samples is left out, and the manifest says why.
    """

    def tasks(partial: StagingFolder) -> Iterator[ShardJob]:
        for split, paths in splits.items():
            for path in paths:
                name = f"{split}-{path.name}"
                candidates: list[SampleOrError] = [(path.name, {"tar": path})]
                sidecar = partial.done / f"{name}.json"
                yield ShardJob(
                    split, partial.shards / name, sidecar, candidates, ReencodeOptions(), fingerprint(candidates)
                )

    manifest = Manifest(source, licence, 0, {split: Split() for split in splits})
    return make_shards(manifest, out, tasks, link_tar, workers, None)


def link_tar(task: ShardJob) -> Iterator[int | ShardRecord]:
    """Reads the whole tar, links to it; yields 1 for each sample, and at last what it is."""
    ((name, members),) = task.candidates
    assert isinstance(members, dict)
    path = members["tar"]
    assert isinstance(path, Path)
    shard, left_out = Shard(task.path.name, 0, 0, ""), {}
    try:
        lengths = []
        for key, found in read_shard(path):
            lengths.append(_text_length(key, found))
            yield 1
        if reason := _told(path, len(lengths)):
            left_out[name] = reason
        if lengths:
            shard = Shard(task.path.name, len(lengths), path.stat().st_size, sha256(path), lengths)
            _link(path, task.path)
    except ValueError as error:
        left_out[name] = str(error)
    made = ShardRecord(task.split, task.fingerprint, shard, left_out)
    made.save(task.sidecar)
    yield made


def _text_length(key: str, members: dict[str, bytes]) -> int:
    try:
        return text_length(decode(key, members, "", BLACK))
    except ValueError:
        return 0  # a bad sample stays in a tar that is used as it is; whoever reads it counts it


def _told(path: Path, samples: int) -> str:
    """What img2dataset's own statistics say that is not in the tar. Raises ValueError if both cannot be true."""
    stats = path.with_name(f"{path.stem}_stats.json")
    if not stats.is_file():
        return "" if samples else "it holds no samples"
    content = json.loads(stats.read_bytes())
    wanted, written = content.get("count"), content.get("successes")
    if written != samples:
        raise ValueError(f"it holds {samples} samples, but {stats.name} says {written}; download it again")
    return f"{wanted - written} of its {wanted} images could not be had, says {stats.name}" if wanted != written else ""


def _link(path: Path, link: Path) -> None:
    link.unlink(missing_ok=True)
    try:
        os.link(path.resolve(), link)
    except OSError:  # another disk, or a file that is not ours
        link.symlink_to(path.resolve())
