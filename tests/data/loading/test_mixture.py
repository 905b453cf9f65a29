"""Mixtures of sources by weight, and batches of texts with similar lengths."""

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefixvlm.data.datamodule import ShardDataModule
from prefixvlm.data.loading.eval_loader import EvalLoader
from prefixvlm.data.loading.mixture import find_sources
from prefixvlm.data.loading.plan import epoch_order, source_order
from prefixvlm.data.loading.sample_reader import SampleReader
from prefixvlm.data.loading.train_loader import TrainLoader
from prefixvlm.data.sample import Sample
from prefixvlm.data.shard_cache import ShardCache
from prefixvlm.data.shards.text_lengths import write_lengths

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # three workers on two cores
Make = Callable[..., Path]


def keys(samples: list[Sample], rng: random.Random) -> list[str]:
    return [sample.key for sample in samples]


def texts(samples: list[Sample], rng: random.Random) -> list[str]:
    return [sample.captions[0] for sample in samples]


def ids(samples: list[Sample], rng: random.Random) -> list[str]:
    return [question.id for sample in samples for question in sample.questions]


def flat(batches: Any) -> list[Any]:
    return [each for batch in batches for each in batch]


@pytest.fixture
def mixture(make_shards: Make) -> dict[str, dict[str, Any]]:
    """12 samples of a, 30 of b, 5 of c; c is drawn as often as a and b together."""
    folders = {
        "a": make_shards(5, "a", train=12, val=3),
        "b": make_shards(4, "b", train=30),
        "c": make_shards(5, "c", train=5, val=4),
    }
    weights = {"a": 1, "b": 2, "c": 3}
    return {name: {"shards": str(folder), "weight": weights[name]} for name, folder in folders.items()}


def train(shards: Any, collate: Any = keys, shuffle_buffer: int = 6, **kwargs: Any) -> TrainLoader:
    return TrainLoader(find_sources(shards, "train", ShardCache()), 4, collate, shuffle_buffer, **kwargs)


def with_lengths(folder: Path, lengths: Callable[[int], int]) -> Path:
    """Change the manifest as if sample i had texts of lengths(i) letters."""
    manifest = json.loads((folder / "manifest.json").read_text())
    split, number = manifest["splits"]["train"], 0
    of_shards = []
    for shard in split["shards"]:
        of_shards.append(np.array([lengths(number + i) for i in range(shard["samples"])], np.uint32))
        number += shard["samples"]
    split["text_lengths"] = asdict(write_lengths(folder, "train", of_shards))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize("shuffle_buffer", [6, 1000])
def test_each_source_is_read_in_passes_and_drawn_by_its_weight(mixture, shuffle_buffer) -> None:
    loader = train(mixture, shuffle_buffer=shuffle_buffer)
    assert len(loader) == 47 // 4
    seen = [key for _ in range(30) for key in flat(loader)]
    drawn = {name: [key for key in seen if key.startswith(f"{name}/")] for name in mixture}
    assert len(seen) == 30 * 44
    for name, size in {"a": 12, "b": 30, "c": 5}.items():
        passes = [drawn[name][first : first + size] for first in range(0, len(drawn[name]) - size, size)]
        assert len({tuple(each) for each in passes}) > len(passes) / 2, "each pass in an order of its own"
        if shuffle_buffer == 1000:  # in one lane
            assert all(len(set(each)) == size for each in passes), "each sample once a pass, over the ends of epochs"
        times = Counter(drawn[name])
        assert len(times) == size
        assert max(times.values()) - min(times.values()) <= 1
    share = {name: len(drawn[name]) / len(seen) for name in mixture}
    assert share == pytest.approx({"a": 1 / 6, "b": 2 / 6, "c": 3 / 6}, abs=0.05)


def test_draws_are_independent(mixture) -> None:
    loader = train(mixture)
    names = [key[0] for _ in range(60) for key in flat(loader)]
    after_c = Counter(after for before, after in pairwise(names) if before == "c")
    assert after_c["c"] / after_c.total() == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_mixture_is_the_same_with_any_number_of_workers_and_resumes_exactly(mixture, workers: int) -> None:
    whole = train(mixture)
    expected = [batch for _ in range(3) for batch in whole]
    again = train(mixture, num_workers=workers)
    assert [batch for _ in range(3) for batch in again] == expected
    for stop in (1, 10, 11, 15):
        loader = train(mixture)
        read: list[Any] = []
        while len(read) < stop:
            read += islice(loader, min(len(loader), stop - len(read)))
        resumed = train(mixture, num_workers=workers if stop == 15 else 0)
        resumed.load_state_dict(loader.state_dict())
        read += [batch for _ in range(2) for batch in resumed]
        assert read == expected[: len(read)]


def test_no_two_uses_share_their_random_numbers(mixture, monkeypatch) -> None:
    used: list[tuple[int, ...]] = []
    original = source_order.generator

    def generator(*key: int) -> np.random.Generator:
        used.append(key)
        return original(*key)

    for module in (source_order, epoch_order):
        monkeypatch.setattr(module, "generator", generator)
    for options in mixture.values():
        with_lengths(Path(options["shards"]), lambda number: number)
    loader = train(mixture, bucket_batches=3)
    assert [list(loader) for _ in range(2)]
    assert len({key[1] for key in used}) == 5, "shards, blocks, draws, mixture, buckets"
    distinct = {original(*key).random() for key in set(used)}
    assert len(distinct) == len(set(used)) > 20


def test_an_epoch_may_have_any_number_of_samples(make_shards: Make, mixture) -> None:
    folder = str(make_shards(5, train=23))
    short = train(folder, epoch_samples=9)
    assert len(short) == 2
    seen = [key for _ in range(6) for key in flat(short)]
    assert sorted(seen[:23]) == [f"train{n:03d}" for n in range(23)], "an epoch goes on where the last one ended"
    assert len(flat(train(folder, epoch_samples=100))) == 100
    assert len(flat(train(mixture, epoch_samples=200))) == 200
    with pytest.raises(ValueError, match="3 training samples do not fill one batch"):
        train(folder, epoch_samples=3)


def test_epochs_without_shuffling_are_the_same(mixture) -> None:
    loader = train(mixture, shuffle_buffer=1)
    first = list(loader)
    assert list(loader) == first
    assert [key for key in flat(first) if key.startswith("b/")] == [f"b/train{n:03d}" for n in range(30)][
        : len([k for k in flat(first) if k[0] == "b"])
    ]


def test_the_buffer_of_each_source_is_bounded(mixture, monkeypatch) -> None:
    buffered, peak = Counter(), Counter()
    original = SampleReader.read

    def read(reader, order):
        for row, (shard, sample) in original(reader, order):
            buffered[shard.prefix] += 1
            peak[shard.prefix] = max(peak[shard.prefix], buffered[shard.prefix])
            yield row, (shard, sample)

    monkeypatch.setattr(SampleReader, "read", read)
    for batch in train(mixture, epoch_samples=400):
        buffered.subtract(f"{key[0]}/" for key in batch)
    assert set(peak) == {"a/", "b/", "c/"}
    assert max(peak.values()) <= 6 + 4  # the buffer, and the batch that is being made


def test_the_world_and_the_ranks_share_a_mixture(mixture) -> None:
    loaders = [train(mixture, rank=rank, world=3, shuffle_buffer=100) for rank in range(3)]
    read = [list(loader) for loader in loaders]
    assert {len(batches) for batches in read} == {47 // 12}
    mixed = [batch for step in zip(*read, strict=True) for batch in step]
    assert flat(mixed) == flat(TrainLoader(find_sources(mixture, "train", ShardCache()), 12, keys, 100))


def test_an_evaluation_takes_the_sources_that_have_the_split_each_sample_once(mixture) -> None:
    sources = find_sources(mixture, "val", ShardCache())
    assert flat(EvalLoader(sources, 2, keys)) == [f"a/val{n:03d}" for n in range(3)] + [
        f"c/val{n:03d}" for n in range(4)
    ]
    assert flat(EvalLoader(sources, 2, ids))[::3] == ["a/val0-0", "c/val0-0", "c/val3-0"]
    assert [sample.key for sample in EvalLoader(sources, 2, keys, limit=4).samples()][-2:] == ["a/val002", "c/val000"]
    assert set(ShardDataModule(mixture).images(["c/val003", "a/val003", "val001"], "val")) == {"c/val003"}
    with pytest.raises(ValueError, match=r"none of data.shards \(a, b, c\) has test samples"):
        find_sources(mixture, "test", ShardCache())


@pytest.mark.parametrize(
    ("shards", "reason"),
    [
        ({}, "give a folder, a pattern, a URL, or NAME: {shards, weight}"),
        (3, "data.shards is 3; give a folder"),
        ({"a": "x"}, "data.shards.a is 'x'; give it `shards`"),
        ({"a": {"shards": "x", "wieght": 1}}, "give it `shards` and, if you like, `weight`"),
        ({"a": {"shards": "x", "weight": 0}}, "data.shards.a.weight is 0; set it to a number above 0"),
        ({"a": {"shards": "x", "weight": True}}, "weight is True"),
        ({"a": {"shards": "x", "weight": float("inf")}}, "weight is inf"),
        ({"a/b": {"shards": "x"}}, "its name without /"),
        ({"a": {"shards": "nowhere"}}, "data.shards=nowhere does not exist"),
    ],
)
def test_impossible_mixtures(shards: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        find_sources(shards, "train", ShardCache())


def test_a_changed_weight_restarts_the_epoch(mixture) -> None:
    loader = train(mixture)
    list(islice(loader, 2))
    mixture["a"]["weight"] = 5
    with pytest.warns(UserWarning, match="shards differ from the checkpoint's"):
        train(mixture).load_state_dict(loader.state_dict())


@pytest.mark.parametrize("world", [1, 2])
def test_buckets_batch_texts_of_similar_length_each_sample_once(make_shards: Make, world: int) -> None:
    folder = with_lengths(make_shards(7, train=96), lambda number: number * 37 % 96)
    loaders = [train(str(folder), bucket_batches=6, shuffle_buffer=20, rank=r, world=world) for r in range(world)]
    for _ in range(2):
        read = [list(loader) for loader in loaders]
        assert {len(batches) for batches in read} == {96 // (4 * world)}
        assert len({key for batches in read for key in flat(batches)}) == 96
        lengths = np.array([[[int(key[-3:]) * 37 % 96 for key in batch] for batch in batches] for batches in read])
        spread = (lengths.max(2) - lengths.min(2)).mean()
        assert spread < 20, "a batch at random spreads over 58 of 96"
        assert np.abs(lengths.max(2)[0] - lengths.max(2)[-1]).mean() < 20, "ranks have similar lengths in a step"
        assert not (np.diff(lengths.mean((0, 2))) > 0).all(), "batches are shuffled"


@pytest.mark.parametrize(("world", "bucket_batches"), [(1, 5), (2, 2), (2, 3), (1, 100)])
def test_a_bucket_is_a_window_of_whole_steps(make_shards: Make, world: int, bucket_batches: int) -> None:
    """Against sorting each window of the order without buckets; the last window is smaller."""

    def length(key: str) -> int:
        return int(key[-3:]) * 37 % 50

    folder = str(with_lengths(make_shards(7, train=50), lambda number: number * 37 % 50))
    plain, bucketed = (
        [
            [sample for batch in step for sample in batch]
            for step in zip(
                *(train(folder, bucket_batches=n, rank=r, world=world, shuffle_buffer=50) for r in range(world)),
                strict=True,
            )
        ]
        for n in (0, bucket_batches)
    )
    size = 4 * world
    assert len(bucketed) == 50 // size
    for first in range(0, len(plain), bucket_batches):
        window = sorted(flat(plain[first : first + bucket_batches]), key=length)
        steps = [{*window[start : start + size]} for start in range(0, len(window), size)]
        found = [set(step) for step in bucketed[first : first + bucket_batches]]
        assert sorted(found, key=sorted) == sorted(steps, key=sorted)
        batches = [{*window[start : start + 4]} for start in range(0, len(window), 4)]
        assert all(set(step[start : start + 4]) in batches for step in bucketed[first : first + bucket_batches]
                   for start in range(0, size, 4)), "the batches of a step are neighbours in length"  # fmt: skip


def test_buckets_are_the_same_with_workers_and_resume_exactly(make_shards: Make) -> None:
    folder = with_lengths(make_shards(7, train=50), lambda number: number * 37 % 50)
    whole = train(str(folder), bucket_batches=5)
    expected = [batch for _ in range(2) for batch in whole]
    assert expected == [
        batch for loader in [train(str(folder), bucket_batches=5, num_workers=3)] for _ in range(2) for batch in loader
    ]
    loader = train(str(folder), bucket_batches=5)
    read = list(islice(loader, 7))
    resumed = train(str(folder), bucket_batches=5, num_workers=2)
    resumed.load_state_dict(loader.state_dict())
    assert read + list(resumed) == expected[:12]
    with pytest.warns(UserWarning, match="bucket_batches differ"):
        train(str(folder), bucket_batches=6).load_state_dict(loader.state_dict())


def test_buckets_of_a_mixture_cross_its_sources(mixture) -> None:
    for options in mixture.values():
        with_lengths(Path(options["shards"]), lambda number: number)
    loader = train(mixture, bucket_batches=1000, epoch_samples=200)
    spreads = [max(numbers) - min(numbers) for batch in loader for numbers in [[int(key[-3:]) for key in batch]]]
    assert np.mean(spreads) < 2


def test_buckets_need_lengths(make_shards: Make) -> None:
    folder = make_shards(5, train=12)
    (folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"train-000000.tar has no text_lengths.*or set data.bucket_batches=0"):
        train(str(folder), bucket_batches=2)
    with pytest.raises(ValueError, match="bucket_batches is -1"):
        train(str(folder), bucket_batches=-1)
