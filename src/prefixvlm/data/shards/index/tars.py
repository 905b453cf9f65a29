"""Which tars are indexed, and which split each is of."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import braceexpand

from prefixvlm.data.remote import PATIENCE, exists, is_remote, without_query
from prefixvlm.data.shards.manifest import MANIFEST, SHARD_NAME
from prefixvlm.data.shards.resolve import tars_by_split

SPLITS = ("train", "val", "test")


class Tar(NamedTuple):
    """A tar to index: its name in the manifest, and its path or its URL."""

    name: str
    path: Path | None = None
    url: str = ""


def find_tars(shards: str, splits: Sequence[str] | None, val_tars: int, test_tars: int) -> dict[str, list[Tar]]:
    """Return the tars of each split.

    shards: a folder of tars, or a pattern of URLs. splits: those of {split} in the pattern, by default all whose first
        tar exists. val_tars, test_tars: without {split} and without names such as train-000000.tar, the last tars are
        val, and those before these test.
    Raises ValueError if there are none, or if a manifest cannot hold their names.
    """
    tars = _find(shards, splits, val_tars, test_tars)
    names = Counter(tar.name for each in tars.values() for tar in each)
    for name, count in names.items():
        if count > 1:
            raise ValueError(f"{count} tars have the name {name}, and a manifest holds each once; index them by folder")
        if not SHARD_NAME.fullmatch(name):
            raise ValueError(f"the tar {name!r} has a letter in its name that a manifest does not accept; rename it")
    return tars


def _find(shards: str, splits: Sequence[str] | None, val_tars: int, test_tars: int) -> dict[str, list[Tar]]:
    if not is_remote(shards):
        by_split = _tars_of_folder(Path(shards))
        named = any(split in SPLITS for split in by_split) and not (val_tars or test_tars)
        return by_split if named else _divided(sorted(chain.from_iterable(by_split.values())), val_tars, test_tars)
    _check_pattern(shards)
    if "{split}" not in shards:
        return _divided(_named({"": shards})[""], val_tars, test_tars)
    if val_tars or test_tars:
        raise ValueError("the pattern has {split} in it, so --val-tars and --test-tars have no meaning; leave them out")
    patterns = {split: shards.replace("{split}", split) for split in splits or SPLITS}
    if splits is None:
        patterns = {
            split: pattern
            for split, pattern in patterns.items()
            if exists(next(braceexpand.braceexpand(pattern)), PATIENCE)
        }
    if not patterns:
        raise ValueError(f"{shards} has no first tar for any of {', '.join(SPLITS)}; correct the pattern, or --splits")
    return _named(patterns)


def _check_pattern(shards: str) -> None:
    if "?" in shards:
        raise ValueError(
            f"{without_query(shards)} has a ?, and what follows it may be a signature, which the manifest would keep; "
            "give a pattern without it"
        )
    if not shards.endswith(".tar") or "*" in shards:
        raise ValueError(
            f"{shards} is not a pattern of tars; a server does not list its files, so give a range such as "
            f"https://host/{{split}}-{{000000..000012}}.tar (a URL of a folder needs no index if it has a {MANIFEST})"
        )


def _tars_of_folder(folder: Path) -> dict[str, list[Tar]]:
    if "{" in str(folder) or "*" in str(folder):
        raise ValueError(f"{folder} is a pattern; give the folder of the tars")
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; give one of tars, or a pattern of URLs")
    splits = tars_by_split(folder)
    if not splits:
        raise ValueError(f"{folder} holds no .tar files")
    return {split: [Tar(path.name, path) for path in paths] for split, paths in splits.items()}


def _named(patterns: dict[str, str]) -> dict[str, list[Tar]]:
    urls = {split: list(braceexpand.braceexpand(pattern)) for split, pattern in patterns.items()}
    names = Counter(url.rpartition("/")[2] for each in urls.values() for url in each)
    repeated = max(names.values()) > 1  # as in train/00000.tar and val/00000.tar
    return {
        split: [Tar(f"{split}-{name}" if repeated else name, url=url) for url in each for name in [url.split("/")[-1]]]
        for split, each in urls.items()
    }


def _divided(tars: Sequence[Tar], val_tars: int, test_tars: int) -> dict[str, list[Tar]]:
    val = len(tars) - val_tars
    test = val - test_tars
    if test <= 0:
        raise ValueError(
            f"of {len(tars)} tars {val_tars} are val and {test_tars} test, so none are train; set --val-tars and "
            "--test-tars to less"
        )
    splits = {"train": list(tars[:test]), "val": list(tars[val:]), "test": list(tars[test:val])}
    return {split: each for split, each in splits.items() if each}
