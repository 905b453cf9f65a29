"""The shards of a folder or of a pattern."""

import glob
import os
from pathlib import Path

import braceexpand

from prefixvlm.data.shards.lookup import cached_manifest
from prefixvlm.data.shards.manifest import HOW_TO_MAKE, MANIFEST, Shard

OTHER_SPLITS = {
    "val": "make them again with this split, as by --val-share",
    "test": "make them again with this split, as by --test-share, or train with test=false",
}


def resolve_shards(shards: str, split: str, how: str = "") -> list[Path]:
    """Return the shards of a split: of a folder with a manifest or SPLIT-*.tar, or of a pattern with {split}.

    shards: a folder, or a pattern such as "coco/{split}-{000000..000012}.tar" or "coco/{split}/*.tar".
    how: the advice that ends the error message, in place of one for data.shards.
    Raises ValueError if there are none, or if a shard is missing or its size differs from the manifest. Shards that
    their manifest has a URL of are not looked for.
    """
    folder = Path(shards)
    if folder.is_dir():
        manifest = cached_manifest(folder)
        if manifest is None:
            return _existing([str(Path(glob.escape(shards), f"{split}-*.tar"))], shards, split, how)
        if not manifest.has(split):
            advice = how or _how(shards, split)
            raise ValueError(f"{folder} holds no {split} samples, only {', '.join(manifest.splits)}; {advice}")
        return _checked(folder, manifest.splits[split].shards, split, how)
    if "{split}" not in shards:  # otherwise the same files would silently be train, val and test
        reason = "has no {split} in it" if shards.endswith(".tar") else "does not exist"
        if how:
            raise ValueError(f"{shards} {reason}; {how}")
        advice = f"give a folder or a pattern with {{split}}, or {_how(shards, split)}"
        raise ValueError(f"data.shards={shards} {reason}; {advice}")
    return _existing(list(braceexpand.braceexpand(shards.replace("{split}", split))), shards, split, how)


def _how(shards: str, split: str) -> str:
    has_shards = "{split}" in shards or any(Path(shards).glob("*.tar"))
    return OTHER_SPLITS.get(split, HOW_TO_MAKE) if has_shards else HOW_TO_MAKE


def _checked(folder: Path, shards: list[Shard], split: str, how: str) -> list[Path]:
    # The folder is listed once: three calls of the system for each of 100,000 shards take seconds, or minutes over NFS.
    listed = {entry.name: entry for entry in os.scandir(folder)}
    paths = []
    for shard in shards:
        path = folder / shard.name
        paths.append(path)
        if shard.url:
            continue
        entry = listed.get(shard.name)
        if entry is None or not entry.is_file():
            advice = how or f"correct data.shards, or {HOW_TO_MAKE}"
            raise ValueError(f"no shard {path} for the {split} split; {advice}")
        if (size := entry.stat().st_size) != shard.bytes:
            raise ValueError(
                f"shard {path} has {size} bytes and its manifest says {shard.bytes}; "
                "it is damaged, or was cut short: make or copy it again"
            )
    return paths


def _existing(patterns: list[str], shards: str, split: str, how: str) -> list[Path]:
    paths: list[str] = []
    for pattern in patterns:
        matches = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern))
        if not matches:
            advice = how or f"correct data.shards, or {_how(shards, split)}"
            raise ValueError(f"no shard {pattern} for the {split} split; {advice}")
        paths += matches
    return [Path(path) for path in paths]


def all_shards(folder: Path) -> list[tuple[str, Path, Shard | None]]:
    """Return split, path and manifest entry of each shard of a folder.

    Without a manifest these are all tars, and the split is the name up to its last hyphen.
    Raises ValueError if there are none, or if they are at URLs.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; give its folder" if folder.exists() else f"there is no folder {folder}")
    manifest = cached_manifest(folder)
    if manifest is not None:
        found = [(name, shard) for name, split in manifest.splits.items() for shard in split.shards]
        if url := next((shard.url for _, shard in found if shard.url), None):
            raise ValueError(f"{folder} is an index of shards at URLs, as {url}; this command reads shards on the disk")
        return [(name, folder / shard.name, shard) for name, shard in found]
    splits = tars_by_split(folder)
    if not splits:
        raise ValueError(f"{folder} holds neither a {MANIFEST} nor .tar files")
    return [(split, path, None) for split, paths in splits.items() for path in paths]


def tars_by_split(folder: Path) -> dict[str, list[Path]]:
    """Return the tars of a folder, in order, by their name up to its last hyphen, or "all"."""
    splits: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.tar")):
        splits.setdefault(path.stem.rpartition("-")[0] or "all", []).append(path)
    return splits
