"""The manifest of a folder of shards."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tarfile import BLOCKSIZE
from typing import Annotated, Any

from msgspec import Meta

from prefixvlm.data.remote import is_remote
from prefixvlm.data.shards.text_lengths import TextLengths
from prefixvlm.strict_json import read_json

MANIFEST = "manifest.json"
HOW_TO_MAKE = (
    "make shards, as by `prefixvlm shards easy-vqa --out data/easy-vqa` (`prefixvlm shards --help` has the others), "
    "and set data.shards to their folder"
)
Count = Annotated[int, Meta(ge=0, le=10**9)]
Bytes = Annotated[int, Meta(ge=0, le=2**40)]
MAX_MANIFEST = 2**28  # bytes: some 50 million samples
SHARD_NAME = re.compile(r"(?!\.{1,2}$)[^/\\:?#\x00-\x1f\x7f\ud800-\udfff]{1,255}")  # within the folder, and no URL


@dataclass
class Shard:
    """Manifest entry of a shard.

    text_lengths: for each sample, the mean number of characters of its captions and questions, 0 if it has none. A
        manifest stores them here if it was written before Split.text_lengths existed, and otherwise none.
    url: where the shard is, if not in the folder of the manifest.
    """

    name: str
    samples: Count
    bytes: Bytes
    sha256: str
    text_lengths: list[Count] = field(default_factory=list)
    url: str = ""


@dataclass
class Split:
    """Manifest entry of a split.

    left_out: by key, the reason why a sample of the source is in no shard. text_lengths: the file with those of all
        shards, in their order; None in older manifests, and where no lengths are known.
    """

    shards: list[Shard] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    text_lengths: TextLengths | None = None

    @property
    def num_samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    def files(self) -> list["Shard | TextLengths"]:
        """Return the entries of all files of the split."""
        return [*self.shards, *([self.text_lengths] if self.text_lengths else [])]


@dataclass
class Manifest:
    """What `prefixvlm shards` wrote, from which source and how.

    options: those that changed the images. images: of features, the folder of the shards of their images, seen from the
        folder of the manifest; "" of others.
    """

    source: str
    licence: str
    samples_per_shard: Count
    splits: dict[str, Split]
    options: dict[str, Any] = field(default_factory=dict)
    images: str = ""

    def num_samples(self, split: str) -> int:
        return self.splits[split].num_samples

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
        content = {"totals": self.totals(), **asdict(self)}
        for entry in (content, *(each for split in content["splits"].values() for each in (split, *split["shards"]))):
            for name in ("text_lengths", "url", "images"):
                if not entry.get(name, True):
                    del entry[name]
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
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
    for split in manifest.splits.values():
        if (lengths := split.text_lengths) is None:
            continue
        if not SHARD_NAME.fullmatch(lengths.name) or lengths.name == MANIFEST:
            return f"the name of text lengths is {lengths.name!r:.80}, which is not that of a file in the folder itself"
        if lengths.bytes != lengths.bytes_each * split.num_samples:
            return f"{lengths.name} has {lengths.bytes} bytes, which are not {lengths.bytes_each} for each sample"
    for shard in (shard for split in manifest.splits.values() for shard in split.shards):
        if not SHARD_NAME.fullmatch(shard.name):
            return f"the name of a shard is {shard.name!r:.80}, which is not that of a file in the folder itself"
        if shard.name in names:
            return f"it has the shard {shard.name} twice"
        if shard.url and not _is_accepted(shard.url):
            return f"the URL of {shard.name} is not one of a store that is accepted, without a password and a query"
        # A sample takes a header and a block of the tar, which bounds what a false count can make us allocate.
        if 2 * BLOCKSIZE * shard.samples > shard.bytes:
            return f"the {shard.samples} samples of {shard.name} do not fit in its {shard.bytes} bytes"
        names.add(shard.name)
    if totals not in (None, manifest.totals()):
        return f"its totals are {totals}, but those of its shards {manifest.totals()}"
    return ""


def _is_accepted(url: str) -> bool:
    try:
        return is_remote(url) and "?" not in url
    except ValueError:
        return False


def verify(folder: Path) -> None:
    """Raise ValueError naming the first file whose bytes differ from the manifest."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise ValueError(f"{folder} has no {MANIFEST}, so its shards cannot be verified; {HOW_TO_MAKE}")
    for entry in (entry for split in manifest.splits.values() for entry in split.files()):
        path, what = folder / entry.name, "shard" if isinstance(entry, Shard) else "file"
        if not path.is_file():
            raise ValueError(f"{what} {path} is missing, though {MANIFEST} has it; delete the folder and make it again")
        if sha256(path) != entry.sha256:
            raise ValueError(f"{what} {path} is not what {MANIFEST} says; delete the folder and make it again")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
