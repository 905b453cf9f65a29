"""Bad samples: training skips and counts them up to a limit, a test raises an error."""

import json
import logging
import random
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from prefixvlm.batch import Row
from prefixvlm.data.collates import Collates
from prefixvlm.data.datamodule import ShardDataModule
from prefixvlm.data.loading import bad_samples
from prefixvlm.data.loading.bad_samples import BadSamples
from prefixvlm.data.loading.eval_loader import EvalLoader
from prefixvlm.data.loading.mixture import find_sources
from prefixvlm.data.loading.train_loader import TrainLoader
from prefixvlm.data.sample import Sample
from prefixvlm.data.shard_cache import ShardCache
from prefixvlm.data.shards.read import read_shard
from prefixvlm.data.shards.write import write_shards
from prefixvlm.task.captioning import Captioning
from prefixvlm.task.rows.loader_rows import TrainingRows
from prefixvlm.task.vqa import Vqa
from tests.conftest import collator_of
from tests.data.conftest import png, raw_samples, write_tar
from tests.training.test_module import data_of, module_of, trainer_of

Make = Callable[..., Path]


def keys(samples: list[Sample], rng: random.Random) -> list[str]:
    return [sample.key for sample in samples]


def spoil(folder: Path, bad: Sequence[str]) -> Path:
    """Truncate the image, or for every second one the json, of the samples with these keys."""
    for path in sorted(folder.glob("*.tar")):
        members_of_shard = []
        for key, members in read_shard(path):
            for extension, data in members.items():
                cut = key in bad and extension == ("png", "json")[bad.index(key) % 2]
                members_of_shard.append((f"{key}.{extension}", data[: len(data) // 2] if cut else data))
        write_tar(path, members_of_shard)
    (folder / "manifest.json").unlink()
    return folder


def train(folder: Path, batch_size: int = 4, fraction: float = 1, collate: Any = keys, **kwargs: Any) -> TrainLoader:
    sources = find_sources(str(folder), "train", ShardCache())
    return TrainLoader(sources, batch_size, collate, 6, max_bad_fraction=fraction, **kwargs)


BAD = ["train003", "train004", "train017"]


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_samples_are_skipped_counted_and_logged_once(make_shards: Make, workers: int, caplog) -> None:
    good = [list(loader) for loader in [train(make_shards(name="good", train=24))] for _ in range(2)]
    loader = train(spoil(make_shards(train=24), BAD), num_workers=workers)
    with caplog.at_level(logging.WARNING):
        for epoch in good:
            assert list(loader) == [[key for key in batch if key not in BAD] for batch in epoch]
    assert sorted(loader.bad_samples.bad) == [f"train-00000{n // 5}.tar: train{n:03d}" for n in (3, 4, 17)]
    messages = [record.message for record in caplog.records]
    assert len(messages) == 3, "once each, though there were two epochs"
    assert all("skipped a bad sample: shard" in message and "train-00000" in message for message in messages)
    for reason in ("the image does not decode", "the json member does not parse"):
        assert any(reason in message for message in messages)


def test_too_many_bad_samples_raise_one_sentence_that_names_the_last(make_shards: Make) -> None:
    folder = spoil(make_shards(train=24), BAD)
    assert len(list(train(folder, fraction=3 / 24))) == 6
    for fraction in (0, 0.001, 2.9 / 24):
        loader = train(folder, fraction=fraction)
        with pytest.raises(ValueError, match=r"^shard .*, sample train0(03|04|17): .*: make the shards again") as error:
            list(loader)
        count = int(fraction * 24) + 1
        assert f"bad samples: {count}, more than data.max_bad_fraction={fraction:g} of 24" in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="data.max_bad_fraction is 2; set it to 0"):
        train(folder, fraction=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_counts_and_batches_survive_a_resume(make_shards: Make, workers: int) -> None:
    folder = spoil(make_shards(train=24), BAD)
    whole = train(folder)
    expected = [batch for _ in range(2) for batch in whole]
    for stop in (1, 4, 6):
        loader = train(folder, num_workers=workers)
        read = list(islice(loader, stop))
        state = loader.state_dict()
        resumed = train(folder, num_workers=workers)
        resumed.load_state_dict(state)
        assert len(resumed.bad_samples) == len(loader.bad_samples) == len(state["bad"])
        assert read + list(resumed) == expected[: 6 if stop < 6 else 12]
        assert len(resumed.bad_samples) == 3
    strict = train(folder, fraction=2 / 24)
    strict.load_state_dict(state)
    with pytest.raises(ValueError, match="bad samples: 4"):
        strict.bad_samples.add([("another", "shard x, sample y: it is bad")])


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_batch_of_bad_samples_only_is_replaced_by_the_next_good_sample(make_shards: Make, workers: int) -> None:
    """Every rank has len(loader) batches, with any number of workers and wherever a run is resumed."""
    folder = spoil(make_shards(train=8), ["train003", "train004", "train007"])
    loader = train(folder, 1)
    epoch = list(loader)
    assert len(epoch) == len(loader) == 8
    assert all(len(batch) == 1 for batch in epoch)
    assert {batch[0] for batch in epoch} == {f"train{n:03d}" for n in (0, 1, 2, 5, 6)}
    assert list(train(folder, 1, num_workers=workers)) == epoch
    for stop in range(8):
        resumed = train(folder, 1, num_workers=0 if stop else workers)
        resumed.load_state_dict({**loader.state_dict(), "epoch": 0, "batches": stop})
        assert list(resumed) == epoch[stop:]
    ranks = [list(train(folder, 1, rank=rank, world=2)) for rank in range(2)]
    assert [batch for step in zip(*ranks, strict=True) for batch in step] == epoch
    all_bad = spoil(make_shards(name="bad", train=8), [f"train{n:03d}" for n in range(8)])
    with pytest.raises(ValueError, match="the same holds for its whole batch and the 7 samples after it"):
        list(train(all_bad, 2))


def keys_of_rows(rows: Sequence[Row], supervised: bool, task: str) -> list[str]:
    return [row.key for row in rows]


CAPTIONS = TrainingRows({"captioning": Captioning()}, keys_of_rows)  # type: ignore[arg-type]
VQA = TrainingRows({"vqa": Vqa(questions_per_image=1)}, keys_of_rows)  # type: ignore[arg-type]


def partly_annotated(tmp_path: Path, missing: Sequence[str], split: str = "train") -> Path:
    """24 samples; those with these keys have no caption and no answer."""
    samples = []
    for key, members in raw_samples(24, split):
        if key in missing:
            members["json"] = b'{"questions": [{"id": "x", "question": "what?", "answers": []}]}'
        samples.append((key, members))
    write_shards({split: samples}, tmp_path / split, "a test", "none", 5)
    return tmp_path / split


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("rows", [CAPTIONS, VQA])
def test_a_sample_without_the_texts_of_the_task_is_bad(
    make_shards: Make, tmp_path: Path, workers: int, rows: TrainingRows
) -> None:
    good = list(train(make_shards(name="good", train=24), collate=rows))
    folder = partly_annotated(tmp_path, BAD)
    loader = train(folder, collate=rows, num_workers=workers)
    read = list(loader)
    assert read == [[key for key in batch if key not in BAD] for batch in good]
    assert sorted(loader.bad_samples.bad) == [f"train-00000{n // 5}.tar: train{n:03d}" for n in (3, 4, 17)]
    for stop in (1, 4):
        resumed = train(folder, collate=rows, num_workers=workers)
        resumed.load_state_dict({**loader.state_dict(), "epoch": 0, "batches": stop})
        assert list(resumed) == read[stop:]
    alone = list(train(folder, 1, collate=rows, num_workers=workers))
    assert [len(batch) for batch in alone] == [1] * 24, "an empty batch is replaced"
    ranks = [list(train(folder, 1, collate=rows, rank=rank, world=2)) for rank in range(2)]
    assert [batch for step in zip(*ranks, strict=True) for batch in step] == alone
    sentence = r"^shard .*\.tar(: |, sample ).*'(train|x).* has no (caption|answer).*; bad samples: 1, more than"
    with pytest.raises(ValueError, match=sentence):
        list(train(folder, fraction=0.001, collate=rows))
    all_bad = partly_annotated(tmp_path / "all", [f"train{n:03d}" for n in range(24)])
    with pytest.raises(ValueError, match=r"has no (caption|answer).*; the same holds for its .* and the 23 samples"):
        list(train(all_bad, collate=rows, num_workers=workers))


def test_validation_skips_samples_without_a_caption_and_a_test_raises(tmp_path: Path) -> None:
    sources = find_sources(str(partly_annotated(tmp_path, ["val003"], "val")), "val", ShardCache())
    loader = EvalLoader(sources, 4, CAPTIONS, max_bad_fraction=0.1)
    assert [key for batch in loader for key in batch] == [f"val{n:03d}" for n in range(24) if n != 3]
    assert list(loader.bad_samples.bad) == ["val-000000.tar: val003"]
    with pytest.raises(ValueError, match=r"^shard .*val-000000.tar: sample 'val003' has no caption"):
        list(EvalLoader(sources, 4, CAPTIONS))


def test_the_validation_loss_skips_bad_samples_and_predictions_raise(make_shards: Make) -> None:
    folder = spoil(make_shards(val=8, test=8, train=1), ["val003", "val006", "val007", "test005"])
    made = ShardDataModule(str(folder), 2, max_bad_fraction=0.5, collates=Collates(val=keys, test={"captioning": keys}))
    loss, predictions = made.val_dataloader()
    assert [key for batch in loss for key in batch] == [f"val{n:03d}" for n in (0, 1, 2, 4, 5)]
    assert len(loss.bad_samples) == 3
    for loader, key in ((predictions, "val003"), (made.test_dataloader()[0], "test005")):
        with pytest.raises(ValueError, match=rf"^shard .*\.tar, sample {key}: "):
            list(loader)
        with pytest.raises(ValueError, match=rf"^shard .*\.tar, sample {key}: "):
            list(loader.samples(images=True))
    sources = find_sources(str(folder), "val", ShardCache())
    with pytest.raises(ValueError, match=r"more than data.max_bad_fraction=0.1 of 8"):
        list(EvalLoader(sources, 4, keys, max_bad_fraction=0.1))


def test_structural_damage_is_never_skipped(make_shards: Make) -> None:
    folder = make_shards(train=23)
    path = folder / "train-000002.tar"
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"^shard {path} is damaged"):
        list(train(folder))


def test_the_data_module_counts_for_the_log(make_shards: Make) -> None:
    folder = spoil(make_shards(train=24), BAD)
    made = ShardDataModule(str(folder), 4, max_bad_fraction=1, collates=Collates(keys))
    assert made.num_bad_samples == 0
    assert made.state_dict() == {}
    list(made.train_dataloader())
    assert made.num_bad_samples == 3
    other = ShardDataModule(str(folder), 4, max_bad_fraction=1, collates=Collates(keys))
    other.load_state_dict(made.state_dict())
    other.train_dataloader()
    assert other.num_bad_samples == 3


def gather(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    counted = BadSamples(1, 100)
    counted.add([("both", "shard a, sample b: bad"), (f"rank {rank}", f"shard {rank}, sample c: bad")])
    counted.gather()
    assert sorted(counted.bad) == ["both", "rank 0", "rank 1"]
    strict = BadSamples(0.02, 100)
    strict.restore({"both": "bad", f"rank {rank}": "bad"})
    with pytest.raises(ValueError, match="bad samples: 3, more than"):
        strict.gather()
    dist.destroy_process_group()


def test_gather_collects_the_bad_samples_of_all_ranks(tmp_path: Path) -> None:
    mp.start_processes(gather, (str(tmp_path),), nprocs=2, start_method="fork")
    alone = bad_samples.BadSamples(0.5, 2)
    alone.add([("a", "b")])
    alone.gather()
    assert len(alone) == 1


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning")
@pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode")
@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
def test_a_run_logs_padding_bad_samples_and_cut_texts_and_resumes_them(make_shards: Make, tmp_path: Path) -> None:
    folder = spoil(make_shards(train=24, val=2), BAD)

    def run(**keywords: Any) -> tuple[Any, Any]:
        module = module_of(tasks={"captioning": Captioning()})
        module.collate = collator_of(module.model, max_target_length=9)  # "number 1" and EOS just fit
        trainer = trainer_of(limit_val_batches=0, **keywords)
        ckpt = tmp_path / "x.ckpt"
        data = data_of(module, str(folder), batch_size=4, max_bad_fraction=1)
        trainer.fit(module, data, ckpt_path=ckpt if ckpt.exists() else None, weights_only=True)
        trainer.save_checkpoint(ckpt)
        return module, {name: value.item() for name, value in trainer.callback_metrics.items()}

    module, logged = run(max_epochs=1)
    cut = sum(len(str(number)) > 1 for number in range(24) if f"train{number:03d}" not in BAD)
    assert logged["train/bad_samples"] == 3
    assert logged["train/cut_texts"] == int(module.cut_texts) == cut
    assert 0 <= logged["train/padding"] < 0.5
    module, logged = run(max_epochs=2)
    assert logged["train/bad_samples"] == 3
    assert logged["train/cut_texts"] == 2 * cut


@pytest.mark.parametrize(
    "error", [MemoryError(), OverflowError("too large"), RecursionError("deep"), SyntaxError("no TIFF")]
)
@pytest.mark.parametrize("workers", [0, 2])
def test_whatever_a_sample_raises_is_its_own(make_shards: Make, error: Exception, workers: int, caplog) -> None:
    def collate(samples: list[Sample], rng: random.Random) -> list[str]:
        if any(sample.key == "train003" for sample in samples):
            raise error  # as the transform of an image might
        return keys(samples, rng)

    folder = make_shards(train=24)
    loader = train(folder, collate=collate, num_workers=workers)
    assert sorted(key for batch in loader for key in batch) == [f"train{n:03d}" for n in range(24) if n != 3]
    assert list(loader.bad_samples.bad) == ["train-000000.tar: train003"]
    reason = f"sample train003: {type(error).__name__}"
    assert reason in caplog.text
    with pytest.raises(ValueError, match=f"^shard .*train-000000.tar, {reason}") as raised:
        list(EvalLoader(find_sources(str(folder), "train", ShardCache()), 4, collate, num_workers=workers))
    assert "\n" not in str(raised.value)


def test_an_error_of_the_whole_batch_is_no_bad_sample(make_shards: Make) -> None:
    def collate(samples: list[Sample], rng: random.Random) -> list[str]:
        if len(samples) > 1:
            raise TypeError("our own mistake")
        return keys(samples, rng)

    with pytest.raises(TypeError, match="our own mistake"):
        list(train(make_shards(train=24), collate=collate))


def test_a_task_reads_only_its_own_fields(tmp_path: Path) -> None:
    """As img2dataset's columns: labels is a text there, and captioning does not need it."""
    content = {"labels": "square,shape", "boxes": 3, "values": "high", "groups": {}, "captions": ["a square"]}
    samples = [(f"{n:03d}.{kind}", data) for n in range(4)
               for kind, data in (("png", png()), ("json", json.dumps(content).encode()))]  # fmt: skip
    write_tar(tmp_path / "train-000000.tar", samples)
    assert [len(batch) for batch in train(tmp_path, 2, 0, CAPTIONS)] == [2, 2]
    mixed = {"a": {"shards": str(tmp_path), "weight": 1}}
    sources = find_sources(mixed, "train", ShardCache())
    assert next(sample.key for sample in next(iter(EvalLoader(sources, 4, lambda samples, rng: samples)))) == "a/000"
    (sample, *_) = EvalLoader(sources, 4, keys).samples()
    with pytest.raises(ValueError, match=r"^shard .*, sample 000: labels is 'square,shape'; it must be an object"):
        _ = sample.labels
    with pytest.raises(ValueError, match="boxes is 3; it must be a list|values is 'high'|labels is"):
        sample.check()
