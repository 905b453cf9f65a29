"""Each split's samples go in, a folder of webdataset tars with a manifest comes out: whole or not at all."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from prefixvlm.data.shards.manifest import MANIFEST, Manifest, Split, read_manifest, verify
from prefixvlm.data.shards.read import check_member
from prefixvlm.data.shards.reencode import ReencodeOptions
from prefixvlm.data.shards.staging import StagingFolder, staging_folder
from prefixvlm.data.shards.tar_writer import SampleOrError, ShardJob, ShardRecord, fingerprint, finished, write_tar
from prefixvlm.data.shards.worker_pool import run

Make = Callable[[ShardJob], Iterator[int | ShardRecord]]


def write_shards(
    splits: Mapping[str, Iterable[SampleOrError]],
    out: Path,
    source: str,
    licence: str,
    samples_per_shard: int = 1000,
    workers: int = 1,
    encoding: ReencodeOptions | None = None,
) -> Manifest:
    """Writes `out`/SPLIT-NNNNNN.tar and manifest.json: all of them or, whatever happens, none.

    The same samples give the same bytes, with any number of workers and after any interruption; what is finished of
    an interrupted run is kept beside `out` and not made again. A shard is of `samples_per_shard` candidates; one that
    is an error or does not decode is left out, and the manifest says why. If `out` holds just these shards already,
    they are verified and nothing is written.
    Raises ValueError if `out` holds something else, a key comes twice or a split is empty; OSError if the disk is full.
    """
    if samples_per_shard < 1:
        raise ValueError(f"samples_per_shard is {samples_per_shard}; it must be 1 or more")
    encoding = encoding or ReencodeOptions()
    manifest = Manifest(source, licence, samples_per_shard, {split: Split() for split in splits}, encoding.options())

    def tasks(partial: StagingFolder) -> Iterator[ShardJob]:
        for split, candidates in splits.items():
            checked, number = _checked(candidates, split), 0
            while chunk := list(islice(checked, samples_per_shard)):
                name = f"{split}-{number:06d}.tar"
                path, sidecar = partial.shards / name, partial.done / f"{name}.json"
                yield ShardJob(split, path, sidecar, chunk, encoding, fingerprint(chunk))
                number += 1

    total = sum(len(found) for found in splits.values() if isinstance(found, Sized))
    return make_shards(manifest, out, tasks, write_tar, workers, total or None)


def make_shards(
    manifest: Manifest,
    out: Path,
    tasks: Callable[[StagingFolder], Iterable[ShardJob]],
    make: Make,
    workers: int,
    total: int | None,
) -> Manifest:
    """Fills in the manifest with the shards that `make` makes of the tasks, and `out` with both.

    tasks: of the folder in which they are made; those finished by an earlier run are taken from there.
    total: number of candidates, if it is known.
    """
    if found := already_there(out, manifest):
        return found
    with staging_folder(out) as partial:
        if found := already_there(out, manifest):  # by who held the folder before
            return found
        partial.follow(_plan(manifest))
        with tqdm(total=total, desc="writing", unit=" samples") as bar:
            made = _make(tasks(partial), make, workers, bar)
        for each in sorted(made, key=lambda each: each.shard.name):
            manifest.splits[each.split].left_out |= each.left_out
            manifest.splits[each.split].shards += [each.shard] if each.shard.samples else []
        for split, content in manifest.splits.items():
            if not manifest.num_samples(split):
                reason = next(iter(content.left_out.values()), "there are none")
                raise ValueError(f"{manifest.source}: no {split} samples to write ({reason})")
        partial.keep_only({each.shard.name for each in made if each.shard.samples})
        (partial.shards / MANIFEST).write_text(manifest.to_json())
        partial.shards.rename(out)
    return manifest


def already_there(out: Path, wanted: Manifest, what: str = "shards", needed: str = MANIFEST) -> Manifest | None:
    """The manifest of `out`, if it holds these shards and the file that is needed; None if it is empty or not there.

    Raises ValueError if it holds anything else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    found = read_manifest(out) if (out / needed).is_file() else None
    if found is None or (made := found.made_of()) != wanted.made_of():
        told = f" ({_differences(made, wanted.made_of())})" if found is not None else ""
        raise ValueError(f"{out} exists and does not hold these {what}; delete it or give another --out{told}")
    verify(out)
    print(f"{out} holds these {what} already; nothing to do.")
    return found


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    return "; ".join(
        f"its {name} {'are' if name in ('splits', 'options') else 'is'} {value!r} and not {wanted[name]!r}"
        for name, value in found.items()
        if value != wanted[name]
    )


def _plan(manifest: Manifest) -> str:
    """Of what the shards are made, but for the samples: those have fingerprints of their own."""
    said = [manifest.source, manifest.licence, manifest.samples_per_shard, list(manifest.splits), manifest.options]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _make(tasks: Iterable[ShardJob], make: Make, workers: int, bar: tqdm) -> Sequence[ShardRecord]:
    made = []

    def unfinished() -> Iterator[ShardJob]:
        for task in tasks:
            if earlier := finished(task):
                made.append(earlier)
                bar.update(len(task.candidates))
            else:
                yield task

    with closing(run(make, unfinished(), workers)) as results:
        for result in results:
            if isinstance(result, ShardRecord):
                made.append(result)
            else:
                bar.update(result)
    return made


def _checked(samples: Iterable[SampleOrError], split: str) -> Iterator[SampleOrError]:
    seen = set()
    for key, members in samples:
        if key in seen:
            raise ValueError(f"the key {key} comes twice in the {split} split; keys must be unique")
        seen.add(key)
        try:
            for extension in members if isinstance(members, dict) else ():
                check_member(key, extension)
        except ValueError as error:
            members = error
        yield key, members
