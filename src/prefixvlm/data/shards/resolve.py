"""The shards of a folder or of a pattern."""

import glob
from pathlib import Path

import braceexpand

from prefixvlm.data.shards.manifest import HOW_TO_MAKE, MANIFEST, Shard, read_manifest

OTHER_SPLITS = {
    "val": "make them again with this split, as by --val-share",
    "test": "make them again with this split, as by --test-share, or train with test=false",
}


def resolve_shards(shards: str, split: str, how: str = "") -> list[Path]:
    """Return the shards of a split: of a folder with a manifest or SPLIT-*.tar, or of a pattern with {split}.

    shards: a folder, or a pattern such as "coco/{split}-{000000..000012}.tar" or "coco/{split}/*.tar".
    how: the advice that ends the error message, if not the usual one.
    Raises ValueError if there are none, or if a shard is missing or its size differs from the manifest.
    """
    folder = Path(shards)
    has_shards = "{split}" in shards or any(folder.glob("*.tar"))
    how = how or (OTHER_SPLITS.get(split, HOW_TO_MAKE) if has_shards else HOW_TO_MAKE)
    if folder.is_dir():
        manifest = read_manifest(folder)
        if manifest is not None and not manifest.has(split):
            raise ValueError(f"{folder} holds no {split} samples, only {', '.join(manifest.splits)}; {how}")
        if manifest is not None:
            paths = _existing([str(folder / shard.name) for shard in manifest.splits[split].shards], split, how)
            for path, shard in zip(paths, manifest.splits[split].shards, strict=True):
                if path.stat().st_size != shard.bytes:
                    raise ValueError(
                        f"shard {path} has {path.stat().st_size} bytes and its manifest says {shard.bytes}; "
                        "it is damaged, or was cut short: make or copy it again"
                    )
            return paths
        return _existing([str(Path(glob.escape(shards), f"{split}-*.tar"))], split, how)
    if "{split}" not in shards:  # otherwise the same files would silently be train, val and test
        reason = "has no {split} in it" if shards.endswith(".tar") else "does not exist"
        raise ValueError(f"data.shards={shards} {reason}; give a folder or a pattern with {{split}}, or {how}")
    return _existing(list(braceexpand.braceexpand(shards.replace("{split}", split))), split, how)


def _existing(patterns: list[str], split: str, how: str) -> list[Path]:
    paths: list[str] = []
    for pattern in patterns:
        matches = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern))
        if not matches:
            raise ValueError(f"no shard {pattern} for the {split} split; correct data.shards, or {how}")
        paths += matches
    return [Path(path) for path in paths]


def all_shards(folder: Path) -> list[tuple[str, Path, Shard | None]]:
    """Return split, path and manifest entry of each shard of a folder.

    Without a manifest these are all tars, and the split is the name up to its last hyphen.
    Raises ValueError if there are none.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; give its folder" if folder.exists() else f"there is no folder {folder}")
    manifest = read_manifest(folder)
    if manifest is not None:
        return [(name, folder / shard.name, shard) for name, split in manifest.splits.items() for shard in split.shards]
    paths = sorted(folder.glob("*.tar"))
    if not paths:
        raise ValueError(f"{folder} holds neither a {MANIFEST} nor .tar files")
    return [(path.stem.rpartition("-")[0] or "all", path, None) for path in paths]
