"""Resolve data.shards: the sources of a split, with their weights and shards."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import braceexpand

from prefixvlm.data.loading.shard_source import ShardRef, ShardSource
from prefixvlm.data.remote import is_remote, without_query
from prefixvlm.data.shard_cache import ShardCache
from prefixvlm.data.shards.lookup import cached_manifest, entries
from prefixvlm.data.shards.manifest import Manifest
from prefixvlm.data.shards.resolve import resolve_shards

Shards = str | Mapping[str, Mapping[str, Any]]


def find_sources(shards: Shards, split: str, cache: ShardCache) -> list[ShardSource]:
    """Return the sources that have this split; for training, every source must have it.

    shards: a folder, a pattern or a URL of either (see resolve_shards), or NAME -> {shards: one of these, weight: W}.
        With names, sample keys become NAME/KEY and question ids NAME/ID, so that they stay unique.
    Raises ValueError if no source has the split.
    """
    if isinstance(shards, str):
        return [ShardSource(_shard_refs(shards, split, cache))]
    sources = []
    for name, options in _checked(shards).items():
        folder = options["shards"]
        if split == "train" or _has(folder, split, cache):
            weight = float(options.get("weight", 1))
            sources.append(ShardSource(_shard_refs(folder, split, cache, f"{name}/"), name, weight))
    if not sources:
        raise ValueError(f"none of data.shards ({', '.join(shards)}) has {split} samples; add one that has")
    return sources


def _checked(shards: Any) -> Mapping[str, Mapping[str, Any]]:
    if not isinstance(shards, Mapping) or not shards:
        raise ValueError(f"data.shards is {shards!r}; give a folder, a pattern, a URL, or NAME: {{shards, weight}}")
    for name, options in shards.items():
        if not isinstance(options, Mapping) or not {"shards"} <= options.keys() <= {"shards", "weight"}:
            raise ValueError(f"data.shards.{name} is {options!r}; give it `shards` and, if you like, `weight`")
        weight = options.get("weight", 1)
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not 0 < weight < math.inf:
            raise ValueError(f"data.shards.{name}.weight is {weight!r}; set it to a number above 0")
        if not isinstance(options["shards"], str) or not name.isprintable() or "/" in name:
            raise ValueError(f"data.shards.{name}.shards must be a folder, a pattern or a URL, and its name without /")
    return shards


def _shard_refs(shards: str, split: str, cache: ShardCache, prefix: str = "") -> list[ShardRef]:
    if not is_remote(shards):
        return _local_refs(shards, split, cache, prefix)
    if not without_query(shards).endswith(".tar"):
        folder = cache.folder_of(shards)
        manifest = _manifest(folder)
        if not manifest.has(split):
            raise ValueError(f"{without_query(shards)} holds no {split} samples, only {', '.join(manifest.splits)}")
        names = [shard.name for shard in manifest.splits[split].shards]
        return [ShardRef(folder / name, prefix, f"{shards.rstrip('/')}/{name}", cache) for name in names]
    if "{split}" not in shards or "*" in shards:
        raise ValueError(
            f"data.shards={without_query(shards)} must have {{split}} in it, and no *: a server does not list its "
            "files; give a range such as {split}-{000000..000012}.tar"
        )
    urls = braceexpand.braceexpand(shards.replace("{split}", split))
    return [ShardRef(cache.path_of(url), prefix, url, cache) for url in urls]


def _local_refs(shards: str, split: str, cache: ShardCache, prefix: str) -> list[ShardRef]:
    """Return the shards of a folder or pattern on the disk; with URLs, those that its manifest has."""
    paths = resolve_shards(shards, split)
    urls = {name: entry.shard.url for name, entry in entries(Path(shards)).items() if entry.shard.url}
    if not urls:
        return [ShardRef(path, prefix) for path in paths]
    folder = cache.folder_of_index(Path(shards))
    return [
        ShardRef(folder / path.name, prefix, urls[path.name], cache) if path.name in urls else ShardRef(path, prefix)
        for path in paths
    ]


def _has(shards: str, split: str, cache: ShardCache) -> bool:
    """Return whether the split exists. Damaged shards count as existing and raise their error later."""
    if is_remote(shards):
        if not without_query(shards).endswith(".tar"):
            return _manifest(cache.folder_of(shards)).has(split)
        return cache.has(_shard_refs(shards, split, cache)[0].url)
    folder = Path(shards)
    if folder.is_dir() and (manifest := cached_manifest(folder)) is not None:
        return manifest.has(split)
    try:
        return bool(resolve_shards(shards, split))
    except ValueError:
        return "{split}" not in shards and not folder.is_dir()  # a misspelt path must raise its error


def _manifest(folder: Path) -> Manifest:
    manifest = cached_manifest(folder)
    assert manifest is not None, "folder_of downloads it"
    return manifest
