"""Small real shards for the tests of data/."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from prefixvlm.data.writer import write_shards


def png(number: int = 0, size: tuple[int, int] = (4, 4), kind: str = "PNG", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, number).save(buffer, kind)
    return buffer.getvalue()


def raw_samples(count: int, prefix: str = "s") -> Iterator[tuple[str, dict[str, bytes]]]:
    for number in range(count):
        question = {"id": f"{prefix}{number}-0", "question": "how many?", "answers": [str(number)]}
        content = {"captions": [f"number {number}"], "questions": [question]}
        yield f"{prefix}{number:03d}", {"png": png(number), "json": json.dumps(content).encode()}


@pytest.fixture
def make_shards(tmp_path: Path) -> Callable[..., Path]:
    """make_shards(samples_per_shard=5, train=23, val=7) writes such a folder and returns its path."""

    def make(samples_per_shard: int = 5, name: str = "shards", **counts: int) -> Path:
        splits = {split: raw_samples(count, split) for split, count in counts.items()}
        write_shards(splits, tmp_path / name, "a test", "none", samples_per_shard)
        return tmp_path / name

    return make
