"""The manifest of a folder of shards, and the paths of the shards of a split."""

import glob
import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tarfile import BLOCKSIZE
from typing import Annotated, Any

import braceexpand
from msgspec import Meta

from prefixvlm.strict_json import read_json

MANIFEST = "manifest.json"
HOW_TO_MAKE = "make shards with `prefixvlm shards easy-vqa --out data/easy-vqa` and set data.shards to their folder"
OTHER_SPLITS = {
    "val": "make them again with this split, as by --val-share",
    "test": "make them again with this split, as by --test-share, or train with test=false",
}
Count = Annotated[int, Meta(ge=0, le=10**9)]
Bytes = Annotated[int, Meta(ge=0, le=2**40)]
MAX_MANIFEST = 2**28  # bytes: some 50 million samples
_NAME = re.compile(r"(?!\.{1,2}$)[^/\\:?#\x00-\x1f\x7f\ud800-\udfff]{1,255}")  # within the folder, and no URL


@dataclass
class Shard:
    """Manifest entry of a shard.

    text_lengths: for each sample, the mean number of characters of its captions and questions, 0 if it has none. Empty
        in manifests that were written before the field existed.
    """

    name: str
    samples: Count
    bytes: Bytes
    sha256: str
    text_lengths: list[Count] = field(default_factory=list)


@dataclass
class Split:
    """Manifest entry of a split. left_out: by key, the reason why a sample of the source is in no shard."""

    shards: list[Shard] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass
class Manifest:
    """What `prefixvlm shards` wrote, from which source and how. options: those that changed the images."""

    source: str
    licence: str
    samples_per_shard: Count
    splits: dict[str, Split]
    options: dict[str, Any] = field(default_factory=dict)

    def num_samples(self, split: str) -> int:
        return sum(shard.samples for shard in self.splits[split].shards)

    def has(self, split: str) -> bool:
        return split in self.splits and self.num_samples(split) > 0

    def recipe(self) -> dict[str, Any]:
        """Return the source and how the shards are made of it; equal recipes give the same shards."""
        names = ("source", "licence", "samples_per_shard", "options")
        return {"splits": list(self.splits), **{name: getattr(self, name) for name in names}}

    def totals(self) -> dict[str, int]:
        shards = [shard for split in self.splits.values() for shard in split.shards]
        return {"samples": sum(shard.samples for shard in shards), "bytes": sum(shard.bytes for shard in shards)}

    def to_json(self) -> str:
        text = json.dumps({"totals": self.totals(), **asdict(self)}, indent=1, ensure_ascii=False) + "\n"
        return re.sub(r'(?<="text_lengths": )\[[^]]*]', lambda match: "".join(match[0].split()), text)  # on one line


@dataclass
class _Totals:
    totals: dict[str, int]


def read_manifest(folder: Path, check_totals: bool = False) -> Manifest | None:
    """Return the manifest of a folder of shards, None if there is none.

    check_totals: also compare its totals with its shards. Raises ValueError if the file is not a manifest.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = read_json(path, Manifest, "a manifest of shards", MAX_MANIFEST)
        totals = read_json(path, _Totals, "a manifest of shards", MAX_MANIFEST).totals if check_totals else None
        if problem := _problem(manifest, totals):
            raise ValueError(f"{path} is not a manifest of shards ({problem})")
    except ValueError as error:
        raise ValueError(f"{error}; make the shards again") from error
    return manifest


def _problem(manifest: Manifest, totals: dict[str, int] | None) -> str:
    names = set[str]()
    for shard in (shard for split in manifest.splits.values() for shard in split.shards):
        if not _NAME.fullmatch(shard.name):
            return f"the name of a shard is {shard.name!r:.80}, which is not that of a file in the folder itself"
        if shard.name in names:
            return f"it has the shard {shard.name} twice"
        # A sample takes a header and a block of the tar, which bounds what a false count can make us allocate.
        if 2 * BLOCKSIZE * shard.samples > shard.bytes:
            return f"the {shard.samples} samples of {shard.name} do not fit in its {shard.bytes} bytes"
        names.add(shard.name)
    if totals not in (None, manifest.totals()):
        return f"its totals are {totals}, but those of its shards {manifest.totals()}"
    return ""


def verify(folder: Path) -> None:
    """Raise ValueError naming the first shard whose bytes differ from the manifest."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise ValueError(f"{folder} has no {MANIFEST}, so its shards cannot be verified; {HOW_TO_MAKE}")
    for shard in (shard for split in manifest.splits.values() for shard in split.shards):
        path = folder / shard.name
        if not path.is_file():
            raise ValueError(f"shard {path} is missing, though {MANIFEST} has it; delete the folder and make it again")
        if sha256(path) != shard.sha256:
            raise ValueError(f"shard {path} is not what {MANIFEST} says; delete the folder and make it again")


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


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
