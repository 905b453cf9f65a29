"""Text lengths are kept in one file for a split, and read a shard at a time."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from prefixvlm.data.loading.mixture import find_sources
from prefixvlm.data.loading.shard_source import ShardSource
from prefixvlm.data.shard_cache import ShardCache
from prefixvlm.data.shards.manifest import MANIFEST
from prefixvlm.data.shards.text_lengths import read_lengths, write_lengths
from prefixvlm.data.shards.write import write_shards
from tests.data.conftest import png


def samples(lengths: list[int]):
    for number, length in enumerate(lengths):
        yield f"s{number}", {"png": png(), "txt": b"x" * length}


def source_of(folder: Path) -> ShardSource:
    (source,) = find_sources(str(folder), "train", ShardCache())
    return source


@pytest.mark.parametrize(("largest", "bytes_each"), [(65535, 2), (65536, 4)])
def test_numbers_are_stored_in_as_few_bytes_as_hold_them(tmp_path: Path, largest: int, bytes_each: int) -> None:
    parts = [np.array([1, 2, 300], np.uint32), np.array([largest], np.uint32), np.array([7, 0], np.uint32)]
    entry = write_lengths(tmp_path, "train", parts)
    assert (entry.bytes_each, entry.bytes) == (bytes_each, 6 * bytes_each)
    path = tmp_path / entry.name
    assert path.read_bytes() == b"".join(n.to_bytes(bytes_each, "little") for n in (1, 2, 300, largest, 7, 0))
    for first, part in ((0, parts[0]), (3, parts[1]), (4, parts[2])):
        assert read_lengths(path, entry, first, len(part)).tolist() == part.tolist()


@pytest.mark.parametrize("workers", [1, 2])
def test_each_shard_has_its_own_also_after_samples_that_were_left_out(tmp_path: Path, workers: int) -> None:
    lengths = [3, 1, 4, 1, 5, 9, 2, 6, 70000, 5, 3]
    rows = [*samples(lengths)]
    rows.insert(2, ("bad", ValueError("no image")))
    write_shards({"val": samples([8]), "train": rows}, tmp_path / "out", "a test", "none", 4, workers)
    source = source_of(tmp_path / "out")
    source.check_lengths()
    assert [source.lengths_of(n).tolist() for n in range(3)] == [[3, 1, 4], [1, 5, 9, 2], [6, 70000, 5, 3]]
    assert source.lengths_of(1).dtype == np.int64


def test_an_older_manifest_with_the_numbers_in_it_is_read(tmp_path: Path) -> None:
    write_shards({"train": samples([3, 1, 4])}, tmp_path / "out", "a test", "none", 2)
    content = json.loads((tmp_path / "out" / MANIFEST).read_text())
    del content["splits"]["train"]["text_lengths"]
    for shard, lengths in zip(content["splits"]["train"]["shards"], ([3, 1], [4]), strict=True):
        shard["text_lengths"] = lengths
    (tmp_path / "out" / MANIFEST).write_text(json.dumps(content))
    (tmp_path / "out" / "train.text_lengths").unlink()
    source = source_of(tmp_path / "out")
    source.check_lengths()
    assert [source.lengths_of(n).tolist() for n in range(2)] == [[3, 1], [4]]


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(bytes(4))])
def test_a_file_that_is_cut_short_or_missing(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    write_shards({"train": samples([3, 1, 4])}, tmp_path / "out", "a test", "none", 2)
    damage(tmp_path / "out" / "train.text_lengths")
    with pytest.raises(ValueError, match=r"train.text_lengths has \d bytes and its manifest says 6; copy it again"):
        source_of(tmp_path / "out").lengths_of(0)
