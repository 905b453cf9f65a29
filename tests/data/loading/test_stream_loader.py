"""StreamLoader: draws of shards by seed, rank and worker, a resume at the same place, damaged shards."""

import logging
import random
import re
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from prefixvlm.data.loading.mixture import find_sources
from prefixvlm.data.loading.stream_loader import StreamLoader
from prefixvlm.data.loading.train_loader import TrainLoader
from prefixvlm.data.sample import Sample
from prefixvlm.data.shard_cache import ShardCache
from tests.data.conftest import raw_samples, write_tar
from tests.data.loading.test_bad_samples import spoil

Make = Callable[..., Path]
SRC = Path(__file__).parents[3] / "src" / "prefixvlm"


def keys(samples: list[Sample], rng: random.Random) -> list[str]:
    return [sample.key for sample in samples]


def keys_and_luck(samples: list[Sample], rng: random.Random) -> tuple[list[str], float]:
    return keys(samples, rng), rng.random()


def contents(samples: list[Sample], rng: random.Random) -> list[Any]:
    return [(sample.key, sample.captions, sample.questions, sample.image.tobytes()) for sample in samples]


def refuse(samples: list[Sample], rng: random.Random) -> None:
    raise ValueError("no captions; set task to another")


def stream(shards: Any, batch_size: int = 4, shuffle_buffer: int = 6, epoch_samples: int = 24, **kwargs: Any) -> Any:
    sources = find_sources(shards if isinstance(shards, dict) else str(shards), "train", ShardCache())
    kwargs = {"collate": keys, "max_bad_fraction": 1} | kwargs
    return StreamLoader(sources, batch_size, shuffle_buffer=shuffle_buffer, epoch_samples=epoch_samples, **kwargs)


@pytest.fixture
def tars(tmp_path: Path) -> Callable[[int], Path]:
    """Write a folder of so many shards of one sample each, without a manifest."""

    def make(number: int, name: str = "tars") -> Path:
        (tmp_path / name).mkdir()
        for key, members in raw_samples(number):
            write_tar(tmp_path / name / f"train-{key}.tar", [(f"{key}.{name}", data) for name, data in members.items()])
        return tmp_path / name

    return make


def read(loader: StreamLoader, number: int) -> list[Any]:
    """Return so many batches, like Lightning, which stops at len(loader) without exhausting the iterator."""
    batches: list[Any] = []
    while len(batches) < number:
        batches += islice(loader, min(len(loader), number - len(batches)))
    return batches


def flat(batches: Any) -> list[Any]:
    return [each for batch in batches for each in batch]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_a_function_of_the_seed(make_shards: Make, workers: int) -> None:
    folder = make_shards(5, train=23)
    before = torch.get_rng_state(), random.getstate()
    loaders = [stream(folder, collate=keys_and_luck, num_workers=workers, seed=seed) for seed in (0, 0, 1)]
    first, again, other = ([batch for _ in range(3) for batch in loader] for loader in loaders)
    assert len(first) == 18
    assert first == again != other
    assert len({luck for _, luck in first}) == 18
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_samples_are_those_of_the_exact_mode(make_shards: Make) -> None:
    shards = {"a": {"shards": str(make_shards(5, "a", train=7))}, "b": {"shards": str(make_shards(5, "b", train=6))}}
    exact = TrainLoader(find_sources(shards, "train", ShardCache()), 1, contents, epoch_samples=200)
    expected = {key: sample for key, *sample in flat(exact)}
    streamed = {key: sample for key, *sample in flat(stream(shards, 1, epoch_samples=200, collate=contents))}
    assert len(expected) == 13
    assert streamed == expected


def test_every_shard_is_drawn_as_often_as_others_and_sources_by_weight(tars: Any) -> None:
    shards = {
        "a": {"shards": str(tars(10, "a")), "weight": 1},
        "b": {"shards": str(tars(5, "b")), "weight": 2.5},
    }
    drawn = Counter(flat(stream(shards, 7, epoch_samples=1400)))
    assert sum(drawn.values()) == 1400
    # Binomial: 40 and 200 of each shard, with deviations of 6.2 and 13.
    assert len(drawn) == 15
    assert all(abs(count - (40 if key < "b" else 200)) < (25 if key < "b" else 52) for key, count in drawn.items())
    assert len({count for key, count in drawn.items() if key < "b"}) > 3, "with replacement"


def test_every_worker_of_every_rank_draws_shards_of_its_own(tars: Any) -> None:
    folder = tars(40)
    ranks = [
        list(stream(folder, 1, 1, 120, collate=keys_and_luck, rank=rank, world=2, num_workers=2)) for rank in (0, 1)
    ]
    assert [len(rank) for rank in ranks] == [60, 60]
    readers = [[key for (key,), _ in rank[worker::2]] for rank in ranks for worker in (0, 1)]
    agreeing = [sum(map(str.__eq__, a, b)) for a in readers for b in readers if a is not b]
    assert max(agreeing) < 6, "of 30 draws, each equal by chance once in 40"
    assert [luck for _, luck in ranks[0]] == [luck for _, luck in ranks[1]], "ranks draw the same task in a step"


@pytest.mark.parametrize(("workers", "stops"), [(0, range(13)), (2, (3, 7))])
@pytest.mark.parametrize("samples_per_shard", [5, 100])
def test_a_resumed_stream_goes_on_at_its_place(
    make_shards: Make, workers: int, stops: Any, samples_per_shard: int
) -> None:
    folder = make_shards(samples_per_shard, train=20)
    options = {"num_workers": workers, "shuffle_buffer": 1, "collate": keys_and_luck}
    whole = read(stream(folder, **options), 25)
    for stop in stops:
        loader, resumed = stream(folder, **options), stream(folder, **options)
        start = read(loader, stop)
        resumed.load_state_dict(loader.state_dict())
        assert resumed.state_dict() == loader.state_dict()
        assert start + read(resumed, 12) == whole[: stop + 12]


@pytest.mark.parametrize("stop", [1, 2, 7, 30])
def test_a_resume_leaves_out_no_more_than_the_shuffle_buffer(tars: Any, stop: int, caplog) -> None:
    folder = tars(300)
    in_order = flat(read(stream(folder, 4, 1), 100))  # what is read is the same for any buffer
    loader = stream(folder, 4, 16)
    consumed = Counter(flat(read(loader, stop)))
    resumed = stream(folder, 4, 1)
    resumed.load_state_dict(loader.state_dict())
    with caplog.at_level(logging.WARNING):
        after = flat(read(resumed, 20))
    place = next(n for n in range(len(in_order)) if in_order[n : n + len(after)] == after)
    left_out = Counter(in_order[:place]) - consumed
    assert consumed <= Counter(in_order[:place]), "no sample comes twice"
    assert left_out.total() == place - 4 * stop <= 16
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("the stream of shards goes on at its place in the checkpoint; the samples in")
    again = stream(folder, 4, 16)
    again.load_state_dict(loader.state_dict())
    assert flat(read(again, 5)) != in_order[place : place + 20], "shuffled"


def test_other_shards_ranks_or_workers_draw_anew(tars: Any, caplog) -> None:
    folder = tars(40)
    loader = stream(folder)
    read(loader, 5)
    state = loader.state_dict()
    others: list[tuple[str, Any, dict[str, int]]] = [
        ("world", folder, {"world": 2, "batch_size": 2}),
        ("num_workers", folder, {"num_workers": 2}),
        ("seed", folder, {"seed": 1}),
        ("shards", tars(39, "other"), {}),
    ]
    for changed, shards, options in others:
        options["shuffle_buffer"] = 1
        resumed, fresh = stream(shards, **options), stream(shards, **options)
        resumed.load_state_dict(state)
        with caplog.at_level(logging.WARNING):
            batches = list(resumed)
        assert len(batches) == 1, "the rest of the epoch"
        assert caplog.messages == [f"{changed} differ from the checkpoint's: the stream of shards is drawn anew"]
        assert batches + read(resumed, 5) != read(fresh, 6), "not what the run has seen first"
        again = stream(shards, **options)
        again.load_state_dict(resumed.state_dict())
        assert again.state_dict() == resumed.state_dict()
        caplog.clear()


def test_a_checkpoint_of_the_other_mode_continues_with_fresh_draws(make_shards: Make, caplog) -> None:
    folder = make_shards(5, train=24)
    exact, streamed = TrainLoader(find_sources(str(folder), "train", ShardCache()), 4, keys), stream(folder)
    read(exact, 8)
    streamed.load_state_dict(exact.state_dict())
    with caplog.at_level(logging.WARNING):
        assert len(list(streamed)) == 4
    assert "the stream of shards is drawn anew" in caplog.text
    with pytest.warns(UserWarning, match="differ from the checkpoint's: epoch 1 starts"):
        exact.load_state_dict(streamed.state_dict())
    assert sorted(flat(exact)) == [f"train{n:03d}" for n in range(24)]


def gather(rank: int, folder: Path, shards: Path) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    loader = stream(shards, rank=rank, world=2, num_workers=2, shuffle_buffer=1, epoch_samples=80)
    expected = read(loader, 10)
    loader = stream(shards, rank=rank, world=2, num_workers=2, shuffle_buffer=1, epoch_samples=80)
    read(loader, 3)
    states = [loader.state_dict()]
    dist.broadcast_object_list(states)  # Lightning saves the state of rank 0
    resumed = stream(shards, rank=rank, world=2, num_workers=2, shuffle_buffer=1, epoch_samples=80)
    resumed.load_state_dict(states[0])
    assert read(resumed, 7) == expected[3:]
    dist.destroy_process_group()


def test_the_state_of_rank_0_has_the_places_of_all_ranks(tars: Any, tmp_path: Path) -> None:
    mp.start_processes(gather, (tmp_path, tars(60)), nprocs=2, start_method="fork")


# A sample is a header and a block of 512 bytes for its png and for its json.
def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:700] if path.stat().st_size <= 10240 else path.read_bytes()[: 2 * 2048 + 700])


def damage_header(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[2 * 2048 + 148] ^= 255  # the checksum of a header
    path.write_bytes(bytes(data))


def as_text(path: Path) -> None:
    path.write_bytes(b"not found" * 1000)


# What is done to the second of four shards, the reason, and the first of its samples that is lost.
DAMAGE: dict[str, tuple[Callable[[Path], None], str, int]] = {
    "cut": (cut, "is damaged", 7),
    "header": (damage_header, "is damaged", 6),
    "text": (as_text, "is damaged, cut short or not an uncompressed tar", 5),
    "missing": (Path.unlink, "No such file", 5),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_shard_is_named_counted_and_skipped(make_shards: Make, kind: str, workers: int, caplog) -> None:
    folder = make_shards(5, train=20)
    (folder / "manifest.json").unlink()
    loader = stream(folder, 1, 1, 200, max_bad_fraction=0.25, num_workers=workers)
    strict = stream(folder, 1, 1, 200, max_bad_fraction=0.24, num_workers=workers)
    damage, reason, first_lost = DAMAGE[kind]
    damage(folder / "train-000001.tar")
    with caplog.at_level(logging.WARNING):
        seen = Counter(flat(loader))
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("skipped a bad shard: shard ")
    assert "train-000001.tar" in caplog.messages[0]
    assert reason in caplog.messages[0]
    assert (len(loader.bad_shards), len(loader.bad_samples)) == (1, 0)
    whole = {f"train{n:03d}" for n in range(20)}
    lost = whole - set(seen)
    assert seen.total() == 200
    assert lost == {f"train{n:03d}" for n in range(first_lost, 10)}
    with pytest.raises(ValueError, match=r"train-000001.tar.*bad shards: 1, more than data.max_bad_fraction=0.24 of 4"):
        list(strict)


@pytest.mark.parametrize("damage", [cut, Path.unlink, lambda path: write_tar(path, [])])
def test_shards_without_a_sample_are_an_error_and_no_endless_loop(tars: Any, damage: Any) -> None:
    folder = tars(3)
    loader, strict = stream(folder), stream(folder, max_bad_fraction=0.34)
    for path in folder.glob("*.tar"):
        damage(path)
    with pytest.raises(ValueError, match=r"^shard .*; none of 3 shards gave a sample; correct data.shards$"):
        list(loader)
    with pytest.raises(
        ValueError, match=r"bad shards: 2, more than|holds no samples; none of 3"
    ):  # before a batch is full
        list(strict)


def test_samples_that_do_not_collate_are_an_error_and_no_endless_loop(make_shards: Make) -> None:
    with pytest.raises(ValueError, match=r"no captions; set task to another; the same holds for 64 batches"):
        list(stream(make_shards(5, train=20), collate=refuse))


def test_bad_samples_are_skipped_up_to_a_fraction_of_each_epoch(make_shards: Make, caplog) -> None:
    folder = spoil(make_shards(5, train=20), ["train003", "train004"])
    loader = stream(folder, 1, epoch_samples=100, max_bad_fraction=0.02)
    for epoch in (1, 2, 3):
        assert not {"train003", "train004"} & set(flat(loader))
        assert len(loader.bad_samples) == 2 * epoch
    resumed = stream(folder, 1, epoch_samples=100, max_bad_fraction=0.02)
    resumed.load_state_dict(loader.state_dict())
    assert len(resumed.bad_samples) == 6
    with pytest.raises(ValueError, match=r"bad samples: 2, more than data.max_bad_fraction=0.019 of 100"):
        list(stream(folder, 1, epoch_samples=100, max_bad_fraction=0.019))


def test_an_epoch_must_have_a_batch_for_every_rank(make_shards: Make) -> None:
    with pytest.raises(ValueError, match=r"data.epoch_samples=7 does not fill one batch of 4 on each of 2 ranks"):
        stream(make_shards(train=8), epoch_samples=7, world=2)


def test_workers_end_with_the_loader(make_shards: Make) -> None:
    before = set(mp.active_children())
    loader = stream(make_shards(train=8), num_workers=2)
    read(loader, 3)
    workers = set(mp.active_children()) - before
    assert len(workers) == 2
    loader.close()
    assert not any(worker.is_alive() for worker in workers)


def test_only_this_mode_imports_webdataset() -> None:
    """Its import takes 3 s and 200 MB in every process."""
    lines = re.compile(r"^(import|from) (webdataset|prefixvlm\.data\.loading\.stream_)", re.MULTILINE)
    importing = {path.name for path in SRC.rglob("*.py") if lines.search(path.read_text(encoding="utf-8"))}
    assert importing == {"stream_batches.py", "stream_loader.py"}
