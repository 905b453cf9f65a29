"""Lanes: each rank reads its share of the shards, and what is left of an epoch goes on with any number of ranks."""

import logging
import random
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefixvlm.data.loading import sample_reader
from prefixvlm.data.loading.eval_loader import EvalLoader
from prefixvlm.data.loading.mixture import find_sources
from prefixvlm.data.loading.plan.epoch_order import EpochOrder
from prefixvlm.data.loading.plan.rank_worker_split import MAX_LANES, Deal, Piece, lane_sizes, lanes_of_rank
from prefixvlm.data.loading.plan.source_order import SourceOrder, SourceReader
from prefixvlm.data.loading.train_loader import TrainLoader
from prefixvlm.data.sample import Sample
from prefixvlm.data.shard_cache import ShardCache
from tests.data.loading.test_mixture import with_lengths

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # three workers on two cores
Make = Callable[..., Path]


def keys_and_luck(samples: list[Sample], rng: random.Random) -> tuple[list[str], float]:
    return [sample.key for sample in samples], rng.random()


@pytest.fixture
def shards(make_shards: Make) -> Any:
    """38 shards of 3 samples: 4 lanes for each of 2 ranks, 3 for each of 3, 2 of 4."""
    return str(make_shards(3, train=114))


def train(shards: Any, world: int = 2, batch_size: int = 3, **kwargs: Any) -> list[TrainLoader]:
    """Return the loaders of all ranks."""
    sources = find_sources(shards, "train", ShardCache())
    return [
        TrainLoader(sources, batch_size, keys_and_luck, 8, rank=rank, world=world, **kwargs) for rank in range(world)
    ]


def flat(ranks: Any) -> list[str]:
    return [key for batches in ranks for keys, _ in batches for key in keys]


def test_the_number_of_lanes() -> None:
    assert lanes_of_rank(3, 1) == lanes_of_rank(7, 2) == 0, "shared"
    assert lanes_of_rank(38, 2) == 4
    assert lanes_of_rank(5000, 64) == lanes_of_rank(10**5, 8) == MAX_LANES


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ranks_get_equally_many_batches_of_shards_of_their_own(shards, monkeypatch, world: int) -> None:
    opened: list[Path] = []
    original = sample_reader.IndexedShard

    def indexed(path: Path, count: int) -> Any:
        opened.append(path)
        return original(path, count)

    monkeypatch.setattr(sample_reader, "IndexedShard", indexed)
    loaders = train(shards, world)
    for _ in range(2):
        read = [list(loader) for loader in loaders]
        assert {len(batches) for batches in read} == {114 // (3 * world)} == {len(loaders[0])}
        assert max(Counter(flat(read)).values()) == 1
        assert len(flat(read)) == 114 // (3 * world) * 3 * world
    ends = world * loaders[0].whole.lanes  # two lanes may meet in a block, which spans up to 4 shards
    assert 2 * 38 - ends <= len(opened) <= 2 * (38 + 3 * ends)
    assert loaders[0].whole.lanes == {1: 8, 2: 4, 3: 3, 4: 2}[world]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_lanes_are_the_same_with_any_number_of_workers_and_resume_exactly(shards, workers: int) -> None:
    expected = [[batch for _ in range(2) for batch in loader] for loader in train(shards)]
    length = len(train(shards)[0])
    again = [list(loader) for loader in train(shards, num_workers=workers)]
    assert again == [batches[:length] for batches in expected]
    for stop in (1, 6, length - 1, length, length + 5) if workers == 1 else (7,):
        before = train(shards)
        for loader in before:
            done = 0
            while done < stop:
                done += len(list(islice(loader, min(length, stop - done))))
        for rank, loader in enumerate(train(shards, num_workers=workers)):
            loader.load_state_dict(before[0].state_dict())
            end = (stop // length + 1) * length
            assert list(loader) == expected[rank][stop:end]


@pytest.mark.parametrize(
    ("worlds", "sizes"), [((2, 3), (3, 3)), ((2, 4, 1), (3, 2, 5)), ((3, 2), (2, 2)), ((1, 2), (3, 3))]
)
@pytest.mark.parametrize("samples_per_shard", [3, 50])  # with 50, all ranks share one lane
def test_on_other_ranks_an_epoch_goes_on_with_what_it_has_not_had(
    make_shards: Make, caplog, worlds: Any, sizes: Any, samples_per_shard: int
) -> None:
    folder = str(make_shards(samples_per_shard, train=114))
    seen: list[str] = []
    state: dict[str, Any] = {}
    for number, (world, batch_size) in enumerate(zip(worlds, sizes, strict=True)):
        loaders = train(folder, world, batch_size)
        for loader in loaders:
            if state:
                with caplog.at_level(logging.WARNING):
                    loader.load_state_dict(state)
        last = number == len(worlds) - 1
        read = [list(loader if last else islice(loader, 5)) for loader in loaders]
        assert len({len(batches) for batches in read}) == 1
        seen += flat(read)
        state = loaders[0].state_dict()
    assert max(Counter(seen).values()) == 1, "none twice"
    tails = sum(world * batch_size - 1 for world, batch_size in zip(worlds, sizes, strict=True))
    assert len(seen) >= 114 - tails, "all but those that do not fill a batch on every rank"
    assert f"epoch 0 goes on with {worlds[-1]} ranks" in caplog.text
    assert loaders[0].batches == len(loaders[0]), "the end of the epoch is that of any other"
    then = flat([list(loader) for loader in loaders])
    assert loaders[0].epoch == 1
    assert len(then) == len(set(then)) == len(loaders[0]) * worlds[-1] * sizes[-1]


@pytest.mark.parametrize("world", [1, 2])
def test_an_epoch_of_fewer_batches_than_lanes(make_shards: Make, world: int) -> None:
    """With a mixture's draws, whose rows are of lanes, and with lanes that are empty."""
    shards = {"a": {"shards": str(make_shards(2, train=64))}}
    loaders = train(shards, world, batch_size=14, epoch_samples=30)
    for _ in range(2):
        assert len(seen := flat([list(loader) for loader in loaders])) == len(set(seen)) == 28
    assert loaders[0]._order().end == [56]
    order = EpochOrder([SourceOrder(np.full(9, 4), 5, 1, 0)], [1], [3], np.array([0, 4, 0, 0, 8, 0]), 0, 0)
    lanes = [[place for part in order.lane(lane, 0, size) for _, place in part] for lane, size in ((1, 4), (4, 8))]
    assert len({*lanes[0], *lanes[1]}) == 12
    assert order.end == [15]


def test_a_run_may_change_its_ranks_before_the_first_step(shards) -> None:
    state = train(shards, 4)[0].state_dict()
    for loader in (loaders := train(shards, 2)):
        loader.load_state_dict(state)
    assert len(flat([list(loader) for loader in loaders])) == len(loaders[0]) * 2 * 3


def test_few_files_are_open_at_once(make_shards: Make, monkeypatch) -> None:
    """Of one worker of three, which reads the last sample of a shard for the others seldom."""
    open_files: set[int] = set()
    most = 0
    original = sample_reader.IndexedShard

    class Counted(original):  # type: ignore[misc, valid-type]
        def read(self, numbers: Any) -> Any:
            nonlocal most
            yield from super().read(numbers)
            (open_files.discard if self.finished else open_files.add)(id(self))
            most = max(most, len(open_files))

        def finish(self) -> None:
            super().finish()
            open_files.discard(id(self))

        def close(self) -> None:
            super().close()
            open_files.discard(id(self))

    monkeypatch.setattr(sample_reader, "IndexedShard", Counted)
    sources = find_sources(str(make_shards(3, train=180)), "train", ShardCache())
    loader = TrainLoader(sources, 3, keys_and_luck, 1000, rank=0, world=3)
    assert len(list(loader)) == 20
    assert 10 < most <= sample_reader.MAX_OPEN + 1
    assert not open_files


def test_an_elastic_epoch_resumes_exactly(shards) -> None:
    before = train(shards, 2)
    for loader in before:
        list(islice(loader, 4))
    middle = train(shards, 3)
    for loader in middle:
        loader.load_state_dict(before[0].state_dict())
    expected = [list(loader) for loader in middle]
    stopped = train(shards, 3)
    for loader in stopped:
        loader.load_state_dict(before[0].state_dict())
    first = [list(islice(loader, 3)) for loader in stopped]
    after = train(shards, 3, num_workers=2)
    for rank, loader in enumerate(after):
        loader.load_state_dict(stopped[0].state_dict())
        assert first[rank] + list(loader) == expected[rank]


def test_a_mixture_in_lanes_draws_each_sample_once_a_pass_on_changing_ranks(make_shards: Make) -> None:
    mixture = {
        name: {"shards": str(make_shards(2, name, train=size)), "weight": weight}
        for name, size, weight in (("a", 40, 1), ("b", 30, 2), ("c", 6, 1))
    }
    drawn: Counter[str] = Counter()
    state: dict[str, Any] = {}
    for world in (2, 3, 1, 2, 4):
        loaders = train(mixture, world, epoch_samples=36)
        for loader in loaders:
            if state:
                loader.load_state_dict(state)
            drawn.update(flat([loader]))
        state = loaders[0].state_dict()
    for name, size in {"a": 40, "b": 30, "c": 6}.items():
        times = [drawn[f"{name}/train{number:03d}"] for number in range(size)]
        assert max(times) - min(times) <= 1
    assert drawn.total() == 5 * 36


@pytest.mark.parametrize("world", [2, 3])
def test_lanes_bucket_by_length_alike_on_every_rank(make_shards: Make, world: int) -> None:
    folder = with_lengths(make_shards(3, train=288), lambda number: number * 37 % 96)
    read = [list(loader) for loader in train(str(folder), world, 4, bucket_batches=6)]
    assert len(set(flat(read))) == len(flat(read))
    lengths = np.array([[[int(key[-3:]) * 37 % 96 for key in keys] for keys, _ in batches] for batches in read])
    assert (lengths.max(2) - lengths.min(2)).mean() < 30, "a batch at random spreads over 58 of 96"
    assert np.abs(np.diff(lengths.max(2), axis=0)).mean() < 20, "ranks have similar lengths in a step"


@pytest.mark.parametrize("world", [1, 2, 5])
def test_each_rank_evaluates_neighbouring_shards(make_shards: Make, world: int) -> None:
    sources = find_sources(str(make_shards(3, val=40)), "val", ShardCache())
    read = [[keys for keys, _ in EvalLoader(sources, 4, keys_and_luck, rank=r, world=world)] for r in range(world)]
    assert [key for batches in read for keys in batches for key in keys] == [f"val{n:03d}" for n in range(40)]
    assert max(map(len, read)) - min(map(len, read)) <= 1


def test_any_part_of_an_order_is_what_the_whole_has_there() -> None:
    """Against the order computed from its beginning, over the ends of blocks, shards, passes and rows of draws."""
    counts = [np.array([5, 0, 7, 11]), np.array([3])]
    sources = [SourceOrder(count, 4, 1, index) for index, count in enumerate(counts)]
    whole = SourceReader(sources[0], 0).take(100)
    assert [sorted(whole[start : start + 23] % 23) for start in (0, 23, 46)] == [list(range(23))] * 3
    assert all(np.array_equal(SourceReader(sources[0], n).take(20), whole[n : n + 20]) for n in range(60))
    sizes = lane_sizes(13, 4, 3)
    order = EpochOrder(sources, [1, 3], [5, 2], sizes, 0, 7)
    for lane, size in enumerate(sizes.tolist()):
        all_of_it = np.concatenate(list(order.lane(lane, 0, size)))
        assert all(np.array_equal(np.concatenate(list(order.lane(lane, n, size))), all_of_it[n:]) for n in range(size))


def test_rows_of_draws_join(monkeypatch) -> None:
    monkeypatch.setattr("prefixvlm.data.loading.plan.epoch_order.ROW", 10)
    sources = [SourceOrder(np.full(9, 4), 5, 1, index) for index in range(2)]
    order = EpochOrder(sources, [1, 1], [0, 0], np.array([36, 36]), 0, 0)
    lanes = [np.concatenate(list(order.lane(lane, 0, 36))) for lane in range(2)]
    assert len({tuple(row) for lane in lanes for row in lane.tolist()}) == 72
    assert np.array_equal(np.concatenate(list(order.lane(1, 23, 36))), lanes[1][23:])


@pytest.mark.parametrize("lanes", [0, 1, 3])
def test_a_batch_of_a_lane_is_found_again_by_its_step(lanes: int) -> None:
    deal = Deal([Piece(0, 0, 200), Piece(1, 50, 147)], 4, 5, lanes)
    seen = Counter[tuple[int, int]]()
    for rank in range(4):
        for sequence in range(rank * lanes, (rank + 1) * lanes) if lanes else [0]:
            size = sum(piece.stop - piece.start for piece in deal.sequences[sequence])
            for step in deal.steps_of(rank, sequence, np.arange(size // 5)).tolist():
                if step >= 0:
                    seen[rank, step] += 1
                    assert deal.sequence_of(rank, step) == sequence
    assert set(seen.values()) == {1}
    assert set(seen) == {(rank, step) for rank in range(4) for step in range(297 // 20)}
