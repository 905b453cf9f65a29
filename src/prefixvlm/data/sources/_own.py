"""Keys and splits of the user's own images, which depend only on the names of the images."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import TypeVar

T = TypeVar("T")
SPLITS = ("train", "val", "test")
VAL_SHARE = "X: about this share of the training images becomes val, as 0.1; drawn by their names, so always the same"
TEST_SHARE = "X: about this share of the training images becomes test, as 0.1; drawn likewise"


def unique_keys(splits: Mapping[str, Iterable[str]]) -> dict[str, dict[str, str]]:
    """Return by split a key for each path of an image: without extension, "_" for dots, numbered if not unique."""
    keys: dict[str, dict[str, str]] = {split: {} for split in splits}
    used: set[str] = set()
    for split, names in splits.items():
        for name in dict.fromkeys(names):
            path = PurePosixPath(name)
            # In a tar the extension of a member begins at the first dot.
            base = key = str(path.with_name(path.stem)).replace(".", "_")
            number = 2
            while key in used:
                key, number = f"{base}-{number}", number + 1
            used.add(key)
            keys[split][name] = key
    return keys


def hash_fraction(name: str) -> float:
    """Return a hash of the name that is uniform in [0, 1)."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


def split_by_name(
    splits: Mapping[str, dict[str, T]], val_share: float | None, test_share: float | None
) -> dict[str, dict[str, T]]:
    """Move shares of the training images to val and test, by hashes of their names.

    Images that are added or removed later leave the others in their splits.
    """
    shares = {split: value for split, value in (("val", val_share), ("test", test_share)) if value is not None}
    result = {split: dict(splits[split]) for split in SPLITS if splits.get(split)}
    for split, value in shares.items():
        if not 0 < value < 1 or sum(shares.values()) >= 1:
            raise ValueError(f"the share of {split} is {value}; set --{split}-share to more than 0, all to less than 1")
        if split in result:
            raise ValueError(f"there is a {split} already; leave --{split}-share out")
    train, start = result.get("train", {}), 0.0
    for split, value in shares.items():
        chosen = {name: each for name, each in train.items() if start <= hash_fraction(name) < start + value}
        if not chosen:
            raise ValueError(f"--{split}-share {value} draws none of the {len(train)} training images; set it to more")
        result[split], start = chosen, start + value
    moved = {name for split in shares for name in result[split]}
    result["train"] = {name: each for name, each in train.items() if name not in moved}
    return {split: result[split] for split in SPLITS if result.get(split)}
