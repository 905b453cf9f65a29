"""Each split's samples go in, a folder of webdataset tars with a manifest comes out: whole or not at all."""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path

from tqdm import tqdm
from webdataset.writer import TarWriter

from prefixvlm.data.manifest import MANIFEST, Manifest, Shard, Split, read_manifest, sha256, verify
from prefixvlm.data.sample import decode
from prefixvlm.data.shards import RawSample, check_member

Written = tuple[str, dict[str, bytes] | ValueError]  # instead of its members, why a sample has none


def write_shards(
    splits: Mapping[str, Iterable[Written]], out: Path, source: str, licence: str, samples_per_shard: int = 1000
) -> Manifest:
    """Writes `out`/SPLIT-NNNNNN.tar and manifest.json: all of them or, whatever happens, none.

    The same samples give the same bytes. A sample that is an error or does not decode is left out, and the manifest
    says why. If `out` holds just these shards already, they are verified and nothing is written.
    Raises ValueError if `out` holds something else, a key comes twice or a split is empty; OSError if the disk is full.
    """
    if samples_per_shard < 1:
        raise ValueError(f"samples_per_shard is {samples_per_shard}; it must be 1 or more")
    manifest = Manifest(source, licence, samples_per_shard, {split: Split() for split in splits})
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        return _already_written(out, manifest)
    out.parent.mkdir(parents=True, exist_ok=True)
    _sweep(out)
    folder = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        folder.mkdir()
        for split, samples in splits.items():
            manifest.splits[split] = _write_split(samples, folder, split, samples_per_shard)
            if not manifest.num_samples(split):
                reason = next(iter(manifest.splits[split].left_out.values()), "there are none")
                raise ValueError(f"{source}: no {split} samples to write ({reason})")
        (folder / MANIFEST).write_text(manifest.to_json())
        folder.rename(out)
    finally:  # also on Ctrl-C; after the renaming there is nothing to remove
        shutil.rmtree(folder, ignore_errors=True)
    return manifest


def _already_written(out: Path, wanted: Manifest) -> Manifest:
    found = read_manifest(out) if out.is_dir() else None
    if found is None or not found.made_like(wanted):
        raise ValueError(f"{out} exists and does not hold these shards; delete it or give another --out")
    verify(out)
    print(f"{out} holds these shards already; nothing to do.")
    return found


def _sweep(out: Path) -> None:
    """Removes what a killed run left beside `out`."""
    for folder in out.parent.glob(f".{out.name}.*.partial"):
        try:
            pid = int(folder.name.split(".")[-2])
            if pid == os.getpid():  # of a run before this one: in containers the same number comes back
                raise ProcessLookupError
            os.kill(pid, 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (ValueError, OverflowError, PermissionError):
            pass  # not ours, or still being written


def _write_split(samples: Iterable[Written], folder: Path, split: str, samples_per_shard: int) -> Split:
    result = Split()
    checked = _checked(tqdm(samples, desc=f"writing {split}", unit=" samples"), split, result.left_out)
    for number, first in enumerate(checked):
        path = folder / f"{split}-{number:06d}.tar"
        with path.open("wb") as file, TarWriter(file, encoder=False, mtime=0, format="PAX_FORMAT") as tar:
            count = 0
            for key, members in chain([first], islice(checked, samples_per_shard - 1)):
                tar.write({"__key__": key, **members})
                count += 1
        result.shards.append(Shard(path.name, count, path.stat().st_size, sha256(path)))
    return result


def _checked(samples: Iterable[Written], split: str, left_out: dict[str, str]) -> Iterator[RawSample]:
    seen = set()
    for key, members in samples:
        if key in seen:
            raise ValueError(f"the key {key} comes twice in the {split} split; keys must be unique")
        seen.add(key)
        try:
            if isinstance(members, ValueError):
                raise members
            for extension in members:
                check_member(key, extension)
            decode(key, members, where=split)
        except ValueError as error:
            left_out[key] = str(error)
        else:
            yield key, members
