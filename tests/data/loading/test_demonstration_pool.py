"""Pool of demonstrations: drawn by the seed, only the needed shards are read, blind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prefixvlm.data.loading import demonstration_pool
from prefixvlm.data.loading.demonstration_pool import DemonstrationPool

Make = Callable[..., Path]


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("train-*.tar"))


def test_the_same_seed_draws_the_same_samples_and_each_once(make_shards: Make) -> None:
    paths = shards(make_shards(train=23))
    drawn = DemonstrationPool(paths, 9, seed=1).keys
    assert len(drawn) == len(set(drawn)) == 9
    assert DemonstrationPool(paths, 9, seed=1).keys == drawn
    assert any(set(DemonstrationPool(paths, 9, seed=seed).keys) != set(drawn) for seed in (2, 3))


def test_every_sample_may_be_drawn(make_shards: Make) -> None:
    paths = shards(make_shards(train=7))
    assert {key for seed in range(30) for key in DemonstrationPool(paths, 2, seed).keys} == {
        f"train{n:03d}" for n in range(7)
    }
    assert DemonstrationPool(paths, 100, seed=0).keys == [f"train{n:03d}" for n in range(7)]
    assert len(DemonstrationPool([], 5, seed=0)) == 0


def test_samples_by_number(make_shards: Make) -> None:
    found = DemonstrationPool(shards(make_shards(train=12)), 5, seed=3)
    for number, key in enumerate(found.keys):
        sample = found[number]
        assert sample.key == key
        assert sample.captions == (f"number {int(key.removeprefix('train'))}",)
        assert sample.image.getpixel((0, 0)) == (int(key.removeprefix("train")), 0, 0)


def test_a_blind_pool_has_one_image(make_shards: Make) -> None:
    black = Image.new("RGB", (8, 8))
    found = DemonstrationPool(shards(make_shards(train=5)), 3, 0, black)
    assert all(found[number].image is black for number in range(3))
    assert found[0].captions


def test_only_drawn_samples_are_read_and_decoded_on_access(make_shards: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = shards(make_shards(train=20, samples_per_shard=2))
    read: dict[str, set[int]] = {}

    def watched(path: Path, numbers: Any) -> Any:
        read[path.name] = set(numbers)
        return original(path, numbers)

    original = demonstration_pool.read_shard
    monkeypatch.setattr(demonstration_pool, "read_shard", watched)
    decoded: list[str] = []
    monkeypatch.setattr(demonstration_pool, "decode", lambda key, *_: decoded.append(key))
    found = DemonstrationPool(paths, 3, seed=0)
    assert len(read) <= 3
    assert sum(map(len, read.values())) == 3
    assert decoded == []
    found[1]
    assert decoded == found.keys[1:2]
