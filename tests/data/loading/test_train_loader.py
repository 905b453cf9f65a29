"""TrainLoader is deterministic and resumes exactly; EvalLoader yields each sample once."""

import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from prefixvlm.data.loading.eval_loader import EvalLoader
from prefixvlm.data.loading.mixture import find_sources
from prefixvlm.data.loading.shard_source import ShardSource
from prefixvlm.data.loading.train_loader import TrainLoader
from prefixvlm.data.sample import Sample
from prefixvlm.data.shard_cache import ShardCache
from prefixvlm.sentences import sentence

Make = Callable[..., Path]


def keys(samples: list[Sample], rng: random.Random) -> list[str]:
    return [sample.key for sample in samples]


def keys_and_luck(samples: list[Sample], rng: random.Random) -> tuple[list[str], float]:
    return keys(samples, rng), rng.random()


def images(samples: list[Sample], rng: random.Random) -> list[Image.Image]:
    return [sample.image for sample in samples]


def refuse(samples: list[Sample], rng: random.Random) -> None:
    raise ValueError("no captions; set task to another")


class Unsendable:
    """Cannot be pickled, as a tensor cannot be shared where /dev/shm is full."""

    def __reduce__(self) -> Any:
        raise RuntimeError("unable to allocate shared memory")


def unsendable(samples: list[Sample], rng: random.Random) -> Unsendable:
    return Unsendable()


def sources_of(folder: Path, split: str) -> list[ShardSource]:
    return find_sources(str(folder), split, ShardCache())


def train(
    folder: Path, batch_size: int = 4, collate: Any = keys, shuffle_buffer: int = 6, **kwargs: Any
) -> TrainLoader:
    return TrainLoader(sources_of(folder, "train"), batch_size, collate, shuffle_buffer, **kwargs)


def flat(batches: Any) -> list[str]:
    return [key for batch in batches for key in batch]


@pytest.mark.parametrize("samples_per_shard", [5, 100])
@pytest.mark.parametrize("shuffle_buffer", [1, 6, 1000])
def test_the_order_is_a_function_of_seed_and_epoch(
    make_shards: Make, samples_per_shard: int, shuffle_buffer: int
) -> None:
    folder = make_shards(samples_per_shard, train=24)
    loader = train(folder, shuffle_buffer=shuffle_buffer)
    epochs = [flat(loader) for _ in range(3)]
    again = train(folder, shuffle_buffer=shuffle_buffer)
    assert [flat(again) for _ in range(3)] == epochs
    assert all(len(set(epoch)) == 24 for epoch in epochs)
    if shuffle_buffer == 1:  # unshuffled, to overfit a few batches
        assert epochs[0] == epochs[1] == epochs[2] == sorted(epochs[0])
    else:
        assert len({tuple(epoch) for epoch in epochs}) == 3
        assert flat(train(folder, shuffle_buffer=shuffle_buffer, seed=1)) != epochs[0]


def test_a_sample_moves_no_further_than_the_buffer(make_shards: Make) -> None:
    order = flat(train(make_shards(100, train=60), shuffle_buffer=8))
    moves = [abs(place - int(key[-3:])) for place, key in enumerate(order)]
    assert 3 < max(moves) <= 8


@pytest.mark.parametrize("samples_per_shard", [5, 100])
def test_batches_are_the_same_with_any_number_of_workers(make_shards: Make, samples_per_shard: int) -> None:
    folder = make_shards(samples_per_shard, train=23)
    one, two, many = (train(folder, collate=keys_and_luck, num_workers=workers) for workers in (0, 1, 2))
    first = list(one)
    assert first == list(two) == list(many)
    assert len({luck for _, luck in first}) == 5
    assert list(one) == list(two) != first


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_get_equally_many_batches_and_share_no_sample(make_shards: Make, world: int, workers: int) -> None:
    folder = make_shards(100, train=26)  # one shard for all of them
    loaders = [train(folder, rank=rank, world=world, num_workers=workers) for rank in range(world)]
    for _ in range(2):
        read = [list(loader) for loader in loaders]
        assert {len(batches) for batches in read} == {len(loaders[0])} == {26 // (4 * world)}
        every = flat(flat(read))
        assert len(set(every)) == len(every) == 26 // (4 * world) * 4 * world


def test_ranks_draw_the_same_numbers_in_a_step(make_shards: Make) -> None:
    folder = make_shards(100, train=26)
    ranks = [[luck for _, luck in train(folder, collate=keys_and_luck, rank=rank, world=2)] for rank in range(2)]
    assert ranks[0] == ranks[1]
    assert len(set(ranks[0])) == len(ranks[0]) == 3


def test_every_rank_has_a_batch_of_few_samples(make_shards: Make) -> None:
    sources = sources_of(make_shards(100, val=4), "val")
    read = [list(EvalLoader(sources, 4, keys, rank=rank, world=3)) for rank in range(3)]
    assert read == [[["val000"]], [["val001"]], [["val002"], ["val003"]]]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize(("samples_per_shard", "limit"), [(5, None), (100, None), (5, 9)])
def test_evaluation_yields_each_sample_once(
    make_shards: Make, world: int, workers: int, samples_per_shard: int, limit: int | None
) -> None:
    sources = sources_of(make_shards(samples_per_shard, val=23), "val")
    loaders = [EvalLoader(sources, 4, keys, limit, num_workers=workers, rank=r, world=world) for r in range(world)]
    read = [list(loader) for loader in loaders]
    assert [len(batches) for batches in read] == [len(loader) for loader in loaders]
    assert sorted(flat(flat(read))) == [f"val{n:03d}" for n in range(min(limit or 23, 23))]
    if not workers:
        assert [list(loader) for loader in loaders] == read


@pytest.mark.parametrize(("workers", "then", "stops"), [(0, 0, range(12)), (2, 0, (3, 5)), (0, 2, (0, 6))])
def test_resuming_is_exact(make_shards: Make, workers: int, then: int, stops: Any) -> None:
    folder = make_shards(train=23)
    whole = train(folder, collate=keys_and_luck)
    expected = [batch for _ in range(4) for batch in whole]
    assert len(whole) == 5
    for stop in stops:
        loader = train(folder, collate=keys_and_luck, num_workers=workers)
        read: list[Any] = []
        while len(read) < stop:  # like Lightning, which stops at len(loader) without exhausting the iterator
            read += islice(loader, min(len(loader), stop - len(read)))
        state = loader.state_dict()
        resumed = train(folder, collate=keys_and_luck, num_workers=then)
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        read += [batch for _ in range(2) for batch in resumed]
        assert read == expected[: len(read)], f"stopped after {stop} batches"
        assert len(read) >= stop + 6


def test_the_state_of_rank_0_serves_rank_1(make_shards: Make) -> None:
    folder = make_shards(train=40)
    ranks = [train(folder, rank=rank, world=2) for rank in range(2)]
    expected = list(ranks[1])
    list(islice(ranks[0], 2))
    resumed = train(folder, rank=1, world=2)
    resumed.load_state_dict(ranks[0].state_dict())
    assert list(resumed) == expected[2:]


def test_a_changed_plan_restarts_the_epoch_with_a_warning(make_shards: Make) -> None:
    folder = make_shards(train=23)
    loader = train(folder)
    list(loader)
    list(islice(loader, 3))
    for change in ({"seed": 1}, {"shuffle_buffer": 7}):
        changed = train(folder, **change)
        with pytest.warns(UserWarning, match=f"{next(iter(change))} differ from the checkpoint's: epoch 1 starts"):
            changed.load_state_dict(loader.state_dict())
        fresh = train(folder, **change)
        list(fresh)
        assert list(changed) == list(fresh)


def test_the_global_random_state_is_unchanged(make_shards: Make) -> None:
    folder = make_shards(train=23)
    before = torch.get_rng_state()
    for workers in (0, 2):
        list(train(folder, num_workers=workers))
    assert torch.equal(torch.get_rng_state(), before)


def test_blind_is_one_black_image_for_a_batch(make_shards: Make) -> None:
    sources = sources_of(make_shards(val=7), "val")
    batches = list(EvalLoader(sources, 4, images, blind=True))
    assert [len(batch) for batch in batches] == [4, 3]
    assert len({id(image) for batch in batches for image in batch}) == 1
    assert batches[0][0].getextrema() == ((0, 0),) * 3


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_a_worker_is_one_sentence(make_shards: Make, workers: int) -> None:
    folder = make_shards(train=23)
    with pytest.raises(
        ValueError, match=r"^shard [^\n]*: no captions; set task to another; the same holds for its whole batch[^\n]*$"
    ):
        list(train(folder, collate=refuse, num_workers=workers))
    path = folder / "train-000002.tar"
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(ValueError, match=rf"^shard {path} is damaged[^\n]*$"):
        list(train(folder, num_workers=workers))
    path.unlink()
    loader = train(make_shards(name="other", train=23), num_workers=workers)
    loader.sources[0].shards[0].path.unlink()
    with pytest.raises(FileNotFoundError):
        list(loader)


@pytest.mark.timeout(60)
def test_a_batch_that_cannot_be_handed_over_ends_the_training_and_is_not_waited_for(make_shards: Make) -> None:
    loader = TrainLoader(sources_of(make_shards(5, "shards", train=8), "train"), 4, unsendable, 8, num_workers=1)
    with pytest.raises(RuntimeError, match="DataLoader worker") as error:
        list(loader)
    assert sentence(error.value).startswith("a data worker was killed")


def test_shards_without_a_manifest_are_counted(make_shards: Make) -> None:
    folder = make_shards(train=23)
    (folder / "manifest.json").unlink()
    loader = train(folder)
    assert loader.num_samples == 23
    (folder / "train-000003.tar").write_bytes((folder / "train-000004.tar").read_bytes())
    with pytest.raises(ValueError, match=r"train-000003.tar has lost samples since it was counted"):
        list(loader)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_workers": -1}, "data.num_workers is -1"),
        ({"shuffle_buffer": 0}, "shuffle_buffer is 0"),
        ({"batch_size": 24}, "23 training samples do not fill one batch of 24 on each of 1 ranks"),
        ({"world": 6}, "set data.batch_size to less"),
    ],
)
def test_impossible_settings(make_shards: Make, change: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        train(make_shards(train=23), **change)
    with pytest.raises(ValueError, match="limit of samples is 0"):
        EvalLoader(sources_of(make_shards(name="v", val=3), "val"), 4, keys, limit=0)
