"""The manifest of a folder, parsed once for all of its shards."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from prefixvlm.data.shards.manifest import MANIFEST, Manifest, Shard, read_manifest
from prefixvlm.data.shards.text_lengths import TextLengths


class Entry(NamedTuple):
    """A shard in a manifest. first: the number of samples of its split before it. lengths: those of its split."""

    shard: Shard
    first: int
    lengths: TextLengths | None


def entries(folder: Path) -> Mapping[str, Entry]:
    """Return the entries of a manifest by the names of the shards; none without a manifest."""
    path = folder / MANIFEST
    return _entries(folder, path.stat().st_mtime_ns) if path.is_file() else {}


def cached_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a folder as read_manifest, parsed once; it must not be changed."""
    path = folder / MANIFEST
    return _parsed(folder, path.stat().st_mtime_ns) if path.is_file() else None


@lru_cache(maxsize=64)  # a manifest of thousands of shards is not parsed again for each of them
def _parsed(folder: Path, _changed: int) -> Manifest | None:
    return read_manifest(folder)


@lru_cache(maxsize=64)
def _entries(folder: Path, changed: int) -> dict[str, Entry]:
    manifest, found = _parsed(folder, changed), dict[str, Entry]()
    for split in manifest.splits.values() if manifest else ():
        first = 0
        for shard in split.shards:
            found[shard.name] = Entry(shard, first, split.text_lengths)
            first += shard.samples
    return found


def manifest_entry(path: Path) -> Shard | None:
    """Return the entry of a shard in the manifest of its folder, None if there is none."""
    entry = entries(path.parent).get(path.name)
    return entry.shard if entry else None
