"""ShardDataModule in Lightning runs: epochs, validation, resuming and limits."""

import multiprocessing
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from prefixvlm.data.collates import Collates
from prefixvlm.data.datamodule import ShardDataModule
from prefixvlm.data.sample import Sample
from tests.data.conftest import png

pytestmark = [
    # Lightning 2.6.6 with torch 2.15
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
]
Make = Callable[..., Path]


def keys(samples: list[Sample], rng: random.Random) -> list[str]:
    return [sample.key for sample in samples]


def upper_keys(samples: list[Sample], rng: random.Random) -> list[str]:
    return [sample.key.upper() for sample in samples]


class Recorder(LightningModule):
    """Records the batches of each stage."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen: dict[str, list[list[str]]] = {"train": []}
        self.seen |= {f"{stage} {n}": [] for stage in ("val", "test") for n in range(3)}

    def training_step(self, batch: list[str], index: int) -> torch.Tensor:
        self.seen["train"].append(batch)
        return self.weight.sum()

    def validation_step(self, batch: list[str], index: int, dataloader_idx: int = 0) -> None:
        self.seen[f"val {dataloader_idx}"].append(batch)

    def test_step(self, batch: list[str], index: int, dataloader_idx: int) -> None:
        self.seen[f"test {dataloader_idx}"].append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def data(folder: Path, **kwargs: Any) -> ShardDataModule:
    collates = Collates(keys, keys, {"captioning": keys, "vqa": upper_keys})
    return ShardDataModule(str(folder), 4, shuffle_buffer=6, collates=collates, **kwargs)


def numbered(prefix: str, *ranges: range) -> list[list[str]]:
    return [[f"{prefix}{n:03d}" for n in numbers] for numbers in ranges]


def trainer(folder: Path, callbacks: Any = None, **kwargs: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    kwargs |= {"callbacks": callbacks, "enable_checkpointing": bool(callbacks), "default_root_dir": folder}
    return Trainer(accelerator="cpu", **quiet, **kwargs)


def test_fit_shuffles_each_epoch_and_validates_in_order(make_shards: Make, tmp_path: Path) -> None:
    module = Recorder()
    trainer(tmp_path, max_epochs=2, num_sanity_val_steps=0).fit(module, data(make_shards(train=24, val=7)))
    epochs = [[key for batch in module.seen["train"][start : start + 6] for key in batch] for start in (0, 6)]
    assert len(module.seen["train"]) == 12
    assert sorted(epochs[0]) == sorted(epochs[1]) == [f"train{n:03d}" for n in range(24)]
    assert epochs[0] != epochs[1]
    assert module.seen["val 0"] == numbered("val", range(4), range(4, 7)) * 2


@pytest.mark.parametrize(("limit", "seen"), [(5, (range(4), range(4, 5))), (32, (range(4), range(4, 7))), (0, ())])
def test_validation_has_a_loss_loader_then_a_prediction_loader_per_task(
    make_shards: Make, tmp_path: Path, limit: int, seen: tuple[range, ...]
) -> None:
    module = Recorder()
    datamodule = data(make_shards(train=8, val=7), limit_val=6, limit_val_predictions=limit)
    assert len(datamodule.val_dataloader()) == (3 if limit else 1)
    trainer(tmp_path, max_epochs=2, num_sanity_val_steps=0).fit(module, datamodule)
    assert module.seen["val 0"] == numbered("val", range(4), range(4, 6)) * 2
    assert module.seen["val 1"] == numbered("val", *seen) * 2
    assert module.seen["val 2"] == numbered("VAL", *seen) * 2


def test_one_test_loader_per_task(make_shards: Make, tmp_path: Path) -> None:
    module = Recorder()
    trainer(tmp_path).test(module, data(make_shards(test=7), limit_test=5, eval_batch_size=3), verbose=False)
    assert module.seen["test 0"] == [["test000", "test001", "test002"], ["test003", "test004"]]
    assert module.seen["test 1"] == [["TEST000", "TEST001", "TEST002"], ["TEST003", "TEST004"]]


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("workers", [0, 2])
def test_lightning_resumes_exactly_at_any_step(make_shards: Make, tmp_path: Path, workers: int) -> None:
    folder = make_shards(train=23, val=3)
    whole = Recorder()

    def checkpoints(name: str) -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / name, "{step}", every_n_train_steps=1, save_top_k=-1)

    trainer(tmp_path, [checkpoints("ckpt")], max_epochs=3).fit(whole, data(folder, num_workers=workers))
    assert len(whole.seen["train"]) == 15
    for step in range(1, 15) if workers == 0 else (3, 5):
        resumed = Recorder()
        path = tmp_path / "ckpt" / f"step={step}.ckpt"
        again = trainer(tmp_path, [checkpoints(f"from {step}")], max_epochs=3)
        again.fit(resumed, data(folder, num_workers=workers), ckpt_path=path)
        assert resumed.seen["train"] == whole.seen["train"][step:], f"resumed after step {step}"


def test_missing_shards_raise_before_the_run(make_shards: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no val samples"):
        trainer(tmp_path, max_epochs=1).fit(Recorder(), data(make_shards(train=8)))
    with pytest.raises(ValueError, match=r"data.shards=.*nowhere does not exist"):
        trainer(tmp_path).test(Recorder(), data(tmp_path / "nowhere"))


def test_images_returns_those_with_the_keys_of_the_test_split_by_default(make_shards: Make) -> None:
    datamodule = data(make_shards(train=8, val=7, test=6), test_split="val")
    assert datamodule.images(["val003", "val006", "test001"]) == {"val003": png(3), "val006": png(6)}
    assert datamodule.images(["val003", "test001"], "test") == {"test001": png(1)}
    assert datamodule.images([]) == {}


def test_test_split(make_shards: Make, tmp_path: Path) -> None:
    module = Recorder()
    trainer(tmp_path).test(module, data(make_shards(val=3), test_split="val"), verbose=False)
    assert module.seen["test 0"] == numbered("val", range(3))
    with pytest.raises(ValueError, match="holds no test samples"):
        trainer(tmp_path).test(Recorder(), data(make_shards(name="other", val=3)), verbose=False)


@pytest.mark.parametrize("count", [2, 5, 32])
def test_every_rank_has_a_batch(make_shards: Make, count: int) -> None:
    folder = make_shards(val=40)
    seen = []
    for rank in range(2):
        datamodule = data(folder, limit_val_predictions=count, eval_batch_size=32)
        datamodule.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
        loader = datamodule.val_dataloader()[1]
        assert len(loader) > 0
        seen += [key for batch in loader for key in batch]
    assert sorted(seen) == [f"val{n:03d}" for n in range(count)]


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_streamed_run_resumes_at_its_place(make_shards: Make, tmp_path: Path, workers: int) -> None:
    folder = make_shards(train=23, val=3)

    def stream() -> ShardDataModule:
        options: Any = {"mode": "stream", "epoch_samples": 18, "num_workers": workers, "shuffle_buffer": 1}
        return ShardDataModule(str(folder), 4, collates=Collates(keys, keys), **options)

    def checkpoints(name: str) -> list[ModelCheckpoint]:
        return [ModelCheckpoint(tmp_path / name, "{step}", every_n_train_steps=1, save_top_k=-1)]

    whole = Recorder()
    trainer(tmp_path, checkpoints("ckpt"), max_epochs=3).fit(whole, stream())
    assert len(whole.seen["train"]) == 12
    assert whole.seen["val 0"] == numbered("val", range(3)) * 4
    assert not multiprocessing.active_children(), "the workers end with the training"
    for step in (1, 4, 6, 11) if workers == 0 else (3,):
        resumed, path = Recorder(), tmp_path / "ckpt" / f"step={step}.ckpt"
        trainer(tmp_path, checkpoints(f"from {step}"), max_epochs=3).fit(resumed, stream(), ckpt_path=path)
        assert resumed.seen["train"] == whole.seen["train"][step:], f"resumed after step {step}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "data.mode=stream counts no samples: set data.epoch_samples to those of an epoch"),
        ({"epoch_samples": 9, "bucket_batches": 2}, "data.mode=stream does not know the lengths of texts"),
        ({"mode": "streamed"}, "data.mode is 'streamed'; it must be one of exact, stream"),
    ],
)
def test_what_a_stream_needs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShardDataModule("shards", **{"mode": "stream"} | options)
