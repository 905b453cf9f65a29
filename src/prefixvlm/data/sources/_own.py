"""One's own files: names go in, keys and splits that depend on nothing else come out."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import TypeVar

T = TypeVar("T")
SPLITS = ("train", "val", "test")
VAL_SHARE = "X: about this share of the training images becomes val, as 0.1; drawn by their names, so always the same"
TEST_SHARE = "X: about this share of the training images becomes test, as 0.1; drawn likewise"


def keys(splits: Mapping[str, Iterable[str]]) -> dict[str, dict[str, str]]:
    """By split, a key for each path of an image: no extension, "_" for dots, numbered where that makes two alike."""
    found: dict[str, dict[str, str]] = {split: {} for split in splits}
    taken: set[str] = set()
    for split, names in splits.items():
        for name in dict.fromkeys(names):
            path = PurePosixPath(name)
            wanted = key = str(path.with_name(path.stem)).replace(".", "_")
            number = 2
            while key in taken:
                key, number = f"{wanted}-{number}", number + 1
            taken.add(key)
            found[split][name] = key
    return found


def share(name: str) -> float:
    """0 to 1, evenly over all names."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


def divided(
    splits: Mapping[str, dict[str, T]], val_share: float | None, test_share: float | None
) -> dict[str, dict[str, T]]:
    """The images of each split, by name, with shares of train as val and test if they are wanted."""
    shares = {split: value for split, value in (("val", val_share), ("test", test_share)) if value is not None}
    found = {split: dict(splits[split]) for split in SPLITS if splits.get(split)}
    for split, value in shares.items():
        if not 0 < value < 1 or sum(shares.values()) >= 1:
            raise ValueError(f"the share of {split} is {value}; set --{split}-share to more than 0, all to less than 1")
        if split in found:
            raise ValueError(f"there is a {split} already; leave --{split}-share out")
    rest, first = found.get("train", {}), 0.0
    for split, value in shares.items():
        drawn = {name: each for name, each in rest.items() if first <= share(name) < first + value}
        if not drawn:
            raise ValueError(f"--{split}-share {value} draws none of the {len(rest)} training images; set it to more")
        found[split], first = drawn, first + value
    drawn_names = {name for split in shares for name in found[split]}
    found["train"] = {name: each for name, each in rest.items() if name not in drawn_names}
    return {split: found[split] for split in SPLITS if found.get(split)}
