"""One's own files: names go in, keys and splits that depend on nothing else come out."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import TypeVar

T = TypeVar("T")
SPLITS = ("train", "val", "test")
VAL_SHARE = "X: the share of the training images that becomes val, as 0.1; drawn by their names, so always the same"


def keys(names: Iterable[str]) -> dict[str, str]:
    """A key for each path of an image: without its extension, "_" for dots, numbered where that makes two alike."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in dict.fromkeys(names):
        path = PurePosixPath(name)
        wanted = key = str(path.with_name(path.stem)).replace(".", "_")
        number = 2
        while key in taken:
            key, number = f"{wanted}-{number}", number + 1
        taken.add(key)
        found[name] = key
    return found


def share(name: str) -> float:
    """0 to 1, evenly over all names."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


def check_share(val_share: float | None) -> None:
    if val_share is not None and not 0 < val_share < 1:
        raise ValueError(f"the share of val is {val_share}; set --val-share to more than 0 and less than 1")


def divided(splits: Mapping[str, dict[str, T]], val_share: float | None) -> dict[str, dict[str, T]]:
    """The images of each split, by name, with a share of train as val if one is wanted."""
    check_share(val_share)
    found = {split: dict(splits[split]) for split in SPLITS if splits.get(split)}
    if val_share is None:
        return found
    if "val" in found:
        raise ValueError("there is a val already; leave --val-share out")
    train = found.get("train", {})
    val = {name: each for name, each in train.items() if share(name) < val_share}
    parts = {"train": {name: each for name, each in train.items() if name not in val}, "val": val}
    return {split: (found | parts)[split] for split in SPLITS if split in found | parts}
