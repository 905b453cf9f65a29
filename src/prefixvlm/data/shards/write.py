"""Write a folder of webdataset tars with a manifest, whole or not at all."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from prefixvlm.atomic import write_text
from prefixvlm.data.shards.manifest import MANIFEST, Manifest, Split, read_manifest, verify
from prefixvlm.data.shards.read import check_member
from prefixvlm.data.shards.reencode import ReencodeOptions
from prefixvlm.data.shards.staging import StagingFolder, staging_folder
from prefixvlm.data.shards.tar_writer import SampleOrError, ShardJob, ShardRecord, fingerprint, finished, write_tar
from prefixvlm.data.shards.text_lengths import write_lengths
from prefixvlm.data.shards.worker_pool import run

Lengths = NDArray[np.uint32]
Record = tuple[ShardRecord, Lengths]  # without text_lengths, and these
WriteShard = Callable[[ShardJob], Iterator[int | ShardRecord]]


def write_shards(
    splits: Mapping[str, Iterable[SampleOrError]],
    out: Path,
    source: str,
    licence: str,
    samples_per_shard: int = 1000,
    workers: int = 1,
    encoding: ReencodeOptions | None = None,
) -> Manifest:
    """Write `out`/SPLIT-NNNNNN.tar and manifest.json, all of them or none.

    The same samples give the same bytes, with any number of workers and after any interruption. Finished shards of an
    interrupted run are kept beside `out` and not written again. A sample that is an error or does not decode is left
    out, with the reason in the manifest; it counts towards `samples_per_shard`. If `out` holds these shards already,
    they are verified and nothing is written.
    Raises ValueError if `out` holds anything else, a key comes twice or a split is empty; OSError if the disk is full.
    """
    if samples_per_shard < 1:
        raise ValueError(f"samples_per_shard is {samples_per_shard}; it must be 1 or more")
    encoding = encoding or ReencodeOptions()
    manifest = Manifest(source, licence, samples_per_shard, {split: Split() for split in splits}, encoding.options())

    def jobs(staging: StagingFolder) -> Iterator[ShardJob]:
        for split, candidates in splits.items():
            checked, number = _checked(candidates, split), 0
            while chunk := list(islice(checked, samples_per_shard)):
                name = f"{split}-{number:06d}.tar"
                path, sidecar = staging.shards / name, staging.done / f"{name}.json"
                yield ShardJob(split, path, sidecar, chunk, encoding, fingerprint(chunk))
                number += 1

    total = sum(len(candidates) for candidates in splits.values() if isinstance(candidates, Sized))
    return make_shards(manifest, out, jobs, write_tar, workers, total or None)


def make_shards(
    manifest: Manifest,
    out: Path,
    jobs: Callable[[StagingFolder], Iterable[ShardJob]],
    write_shard: WriteShard,
    workers: int,
    total: int | None,
) -> Manifest:
    """Write the shards of the jobs to `out`, add them to the manifest and write that, too.

    jobs: makes the jobs for a staging folder; shards that a former run finished there are not written again.
    total: the number of candidates, if it is known.
    """
    if existing := existing_manifest(out, manifest):
        return existing
    with staging_folder(out) as staging:
        if existing := existing_manifest(out, manifest):  # another process may have finished before the lock was ours
            return existing
        staging.follow(_plan(manifest))
        with tqdm(total=total, desc="writing", unit=" samples") as bar:
            records = write_all(jobs(staging), write_shard, workers, bar)
        complete(manifest, records, staging.shards)
        for split, content in manifest.splits.items():
            if not manifest.num_samples(split):
                reason = next(iter(content.left_out.values()), "there are none")
                raise ValueError(f"{manifest.source}: no {split} samples to write ({reason})")
        staging.keep_only({entry.name for split in manifest.splits.values() for entry in split.files()})
        write_text(staging.shards / MANIFEST, manifest.to_json())
        staging.shards.rename(out)
    return manifest


def complete(manifest: Manifest, records: Iterable[Record], folder: Path) -> None:
    """Add the shards of the records to the manifest, sorted by name, and write their text lengths to the folder."""
    lengths: dict[str, list[Lengths]] = {split: [] for split in manifest.splits}
    for record, each in sorted(records, key=lambda pair: pair[0].shard.name):
        manifest.splits[record.split].left_out |= record.left_out
        if record.shard.samples:
            manifest.splits[record.split].shards.append(record.shard)
            lengths[record.split].append(each)
    for name, split in manifest.splits.items():
        if split.shards:
            split.text_lengths = write_lengths(folder, name, lengths[name])


def existing_manifest(out: Path, wanted: Manifest, what: str = "shards", needed: str = MANIFEST) -> Manifest | None:
    """Return the manifest of `out` if it holds the wanted shards, None if it is empty or does not exist.

    needed: a file that `out` must have, too. Raises ValueError if `out` holds anything else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    existing = read_manifest(out) if (out / needed).is_file() else None
    if existing is None or existing.recipe() != wanted.recipe():
        details = f" ({_differences(existing.recipe(), wanted.recipe())})" if existing is not None else ""
        raise ValueError(f"{out} exists and does not hold these {what}; delete it or give another --out{details}")
    verify(out)
    print(f"{out} holds these {what} already; nothing to do.")
    return existing


def _differences(existing: dict[str, Any], wanted: dict[str, Any]) -> str:
    return "; ".join(
        f"its {name} {'are' if name in ('splits', 'options') else 'is'} {value!r} and not {wanted[name]!r}"
        for name, value in existing.items()
        if value != wanted[name]
    )


def _plan(manifest: Manifest) -> str:
    """Hash what the shards are made from, except the samples: each job has the fingerprint of its own."""
    content = [manifest.source, manifest.licence, manifest.samples_per_shard, list(manifest.splits), manifest.options]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def write_all(
    jobs: Iterable[ShardJob],
    write_shard: WriteShard,
    workers: int,
    bar: tqdm,
    on_record: Callable[[ShardRecord], None] = lambda _: None,
) -> Sequence[Record]:
    """Return the records of all jobs, of which those that a former run has finished are not done again.

    on_record: called with each record; what it raises ends the work.
    """
    records = list[Record]()

    def add(record: ShardRecord) -> None:
        # As an array: a list takes 8 bytes for a length, and more for one above 256.
        lengths = np.array(record.shard.text_lengths, np.uint32)
        on_record(record)
        records.append((replace(record, shard=replace(record.shard, text_lengths=[])), lengths))

    def unfinished() -> Iterator[ShardJob]:
        for job in jobs:
            if record := finished(job):
                add(record)
                bar.update(len(job.candidates))
            else:
                yield job

    with closing(run(write_shard, unfinished(), workers)) as results:
        for result in results:
            if isinstance(result, ShardRecord):
                add(result)
            else:
                bar.update(result)
    return records


def _checked(samples: Iterable[SampleOrError], split: str) -> Iterator[SampleOrError]:
    """Yield the samples, with an error for one whose key or extensions are not accepted."""
    keys = set()
    for key, members in samples:
        if key in keys:
            raise ValueError(f"the key {key} comes twice in the {split} split; keys must be unique")
        keys.add(key)
        try:
            for extension in members if isinstance(members, dict) else ():
                check_member(key, extension)
        except ValueError as error:
            members = error
        yield key, members
