"""Text lengths of the samples of a split: a file of unsigned integers beside the manifest."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from prefixvlm.atomic import replacing_file


@dataclass
class TextLengths:
    """Manifest entry of a file with the mean number of characters of the texts of each sample of a split, in order.

    bytes: the size of the file. bytes_each: of a number, which is unsigned and little-endian.
    """

    name: str
    bytes: Annotated[int, Meta(ge=0, le=2**40)]
    sha256: str
    bytes_each: Literal[2, 4]


def write_lengths(folder: Path, split: str, lengths: Sequence[NDArray[np.unsignedinteger]]) -> TextLengths:
    """Write the lengths of a split, an array for each shard, and return the manifest entry."""
    path = folder / f"{split}.text_lengths"
    bytes_each: Literal[2, 4] = 2 if all(int(each.max(initial=0)) < 2**16 for each in lengths) else 4
    digest = hashlib.sha256()
    with replacing_file(path) as file:
        for each in lengths:
            data = each.astype(f"<u{bytes_each}").tobytes()
            digest.update(data)
            file.write(data)
        size = file.tell()
    return TextLengths(path.name, size, digest.hexdigest(), bytes_each)


def read_lengths(path: Path, entry: TextLengths, first: int, count: int) -> NDArray[np.int64]:
    """Return `count` lengths from number `first` on; no others are read.

    Raises ValueError if the file is not as large as its entry says.
    """
    size = path.stat().st_size if path.is_file() else 0
    if size != entry.bytes:
        raise ValueError(
            f"{path} has {size} bytes and its manifest says {entry.bytes}; copy it again with its shards, or set "
            "data.bucket_batches=0"
        )
    numbers = np.fromfile(path, f"<u{entry.bytes_each}", count, offset=first * entry.bytes_each)
    return numbers.astype(np.int64)
