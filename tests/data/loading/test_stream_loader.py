"""StreamLoader: deterministic draws of shards, a resume at the same place, damaged shards."""

import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from prefixvlm.data.loading.mixture import find_sources
from prefixvlm.data.loading.stream_loader import StreamLoader
from prefixvlm.data.sample import Sample
from prefixvlm.data.shard_cache import ShardCache

Make = Callable[..., Path]


def keys(samples: list[Sample], rng: random.Random) -> list[str]:
    return [sample.key for sample in samples]


def keys_and_luck(samples: list[Sample], rng: random.Random) -> tuple[list[str], float]:
    return keys(samples, rng), rng.random()


def stream(shards: Any, batch_size: int = 4, shuffle_buffer: int = 6, epoch_samples: int = 24, **kwargs: Any):
    sources = find_sources(shards if isinstance(shards, dict) else str(shards), "train", ShardCache())
    kwargs = {"collate": keys, "max_bad_fraction": 1} | kwargs
    return StreamLoader(sources, batch_size, shuffle_buffer=shuffle_buffer, epoch_samples=epoch_samples, **kwargs)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_a_function_of_the_seed(make_shards: Make, workers: int) -> None:
    folder = make_shards(5, train=23)
    read = [
        [batch for _ in range(3) for batch in loader]
        for loader in (stream(folder, collate=keys_and_luck, num_workers=workers, seed=seed) for seed in (0, 0, 1))
    ]
    assert len(read[0]) == 18
    assert read[0] == read[1] != read[2]
    assert len({luck for _, luck in read[0]}) == 18


@pytest.mark.parametrize(("workers", "stop"), [(0, 3), (2, 7)])
def test_a_resumed_stream_reads_on(make_shards: Make, workers: int, stop: int) -> None:
    folder = make_shards(5, train=50)
    loader = stream(folder, num_workers=workers, shuffle_buffer=1)
    whole = [batch for _ in range(4) for batch in loader]
    loader = stream(folder, num_workers=workers, shuffle_buffer=1)
    read: list[Any] = []
    while len(read) < stop:
        read += islice(loader, min(len(loader), stop - len(read)))
    resumed = stream(folder, num_workers=workers, shuffle_buffer=1)
    resumed.load_state_dict(loader.state_dict())
    for _ in range(2):
        read += resumed
    assert read == whole[: len(read)]
    assert len(read) >= stop + 6
