"""data.mode=stream over HTTP: nothing is fetched ahead but the next shard, and what cannot be fetched is skipped."""

import logging
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prefixvlm.data.loading.mixture import find_sources
from prefixvlm.data.loading.stream_loader import StreamLoader
from prefixvlm.data.sample import Sample
from prefixvlm.data.shard_cache import ShardCache
from tests.data.conftest import raw_samples, write_tar
from tests.data.test_remote import cache  # noqa: F401  # a fixture

SHARDS, SAMPLES = 12, 4


def keys(samples: list[Sample], rng: random.Random) -> list[str]:
    return [sample.key for sample in samples]


@pytest.fixture
def stream(tmp_path: Path, server: Any, cache: ShardCache) -> Callable[..., StreamLoader]:  # noqa: F811
    """Return a loader of 12 shards of 4 samples on the server, without a manifest, as img2dataset writes them."""
    samples: Iterator[Any] = raw_samples(SHARDS * SAMPLES)
    for number in range(SHARDS):
        members = [(f"{key}.{name}", data) for key, parts in (next(samples) for _ in range(SAMPLES))
                   for name, data in parts.items()]  # fmt: skip
        write_tar(tmp_path / f"train-{number:06d}.tar", members)

    def make(**options: Any) -> StreamLoader:
        sources = find_sources(f"{server.url}/{{split}}-{{000000..{SHARDS - 1:06d}}}.tar", "train", cache)
        return StreamLoader(sources, 2, keys, **{"shuffle_buffer": 1, "epoch_samples": 200} | options)

    return make


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_is_fetched_before_the_first_step_but_the_first_shards(
    stream: Any,
    server: Any,
    cache: ShardCache,  # noqa: F811
    workers: int,
) -> None:
    loader = stream(num_workers=workers)
    assert not server.requests, "nothing is counted"
    batches = iter(loader)
    first = next(batches)
    time.sleep(0.2)  # what is fetched ahead arrives
    # Each worker prepares two batches, which are one shard here, and the shard after it.
    assert 1 <= server.requests.total() <= 3 * max(1, workers)
    seen = {*first, *(key for batch in batches for key in batch)}
    assert seen == {f"s{n:03d}" for n in range(SHARDS * SAMPLES)}
    assert server.requests == {f"train-{n:06d}.tar": 1 for n in range(SHARDS)}, "once, into the cache"
    assert not list(cache.folder.rglob("*.count"))


def test_a_shard_that_cannot_be_fetched_is_skipped(stream: Any, server: Any, tmp_path: Path, caplog) -> None:
    server.faults["train-000003.tar"] = ("500", 10**9)
    server.faults["train-000004.tar"] = ("breaks off", 2)  # and is whole at the third try
    (tmp_path / "train-000007.tar").unlink()
    loader = stream(max_bad_fraction=2 / SHARDS)
    with caplog.at_level(logging.WARNING):
        seen = {key for batch in loader for key in batch}
    lost = {f"s{SAMPLES * shard + n:03d}" for shard in (3, 7) for n in range(SAMPLES)}
    assert seen == {f"s{n:03d}" for n in range(SHARDS * SAMPLES)} - lost
    named = sorted(message for message in caplog.messages if message.startswith("skipped"))
    assert [message.split(":")[1].split()[-1] for message in named] == ["train-000003.tar", "train-000007.tar"]
    assert "was not fetched in 3 tries" in named[0]
    assert "404" in named[1]
    with pytest.raises(ValueError, match=r"bad shards: 2, more than data.max_bad_fraction=0.1 of 12"):
        list(stream(max_bad_fraction=0.1))


def test_a_server_that_is_gone_is_one_sentence(stream: Any, server: Any) -> None:
    loader = stream(max_bad_fraction=1)
    server.shutdown()
    server.server_close()
    with pytest.raises(ValueError, match=r"is the network there\?; none of 12 shards gave a sample"):
        list(loader)
