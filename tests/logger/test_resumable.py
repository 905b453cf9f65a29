"""CSV and TensorBoard files of runs that are stopped and resumed have each step once."""

import csv
import shutil

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from prefixvlm.logger.resumable import ContinuedTensorBoardLogger, CsvLogger
from tests.training.test_module import data_of, module_of, pytestmark, shards, trainer_of  # noqa: F401

pytestmark = [*pytestmark, pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")]


def rows_of(folder):
    with (folder / "csv" / "metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


def scalars(folder):
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


class Kill(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == self.step:
            raise KeyError("killed")


def fit(folder, shards, *callbacks, resume=None, make=CsvLogger, steps=8, **keywords):  # noqa: F811
    """Fit for eight steps of two samples; a validation after each third, a checkpoint after each fourth; and test."""
    module = module_of()
    data = data_of(module, shards, batch_size=2, limit_val_predictions=1)
    keep = ModelCheckpoint(folder, filename="last", every_n_train_steps=4, enable_version_counter=False)
    logger = make(str(folder), **keywords)
    trainer = trainer_of(*callbacks, keep, max_steps=steps, val_check_interval=3, check_val_every_n_epoch=None,
                         logger=logger)  # fmt: skip
    logger.log_hyperparams({"a": {"b": [1]}})
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(folder / "last.ckpt")
    trainer.test(module, data, verbose=False)
    return trainer


def interrupted(folder, shards, **keywords):  # noqa: F811
    with pytest.raises(KeyError):
        fit(folder, shards, Kill(6), **keywords)
    return fit(folder, shards, resume=str(folder / "last.ckpt"), **keywords)


def test_an_interrupted_run_has_the_rows_of_one_that_was_not(shards, tmp_path):  # noqa: F811
    fit(tmp_path / "straight", shards)
    with pytest.raises(KeyError):
        fit(tmp_path / "stopped", shards, Kill(6))
    before = rows_of(tmp_path / "stopped")
    assert [int(row["step"]) for row in before if "train/loss" in row] == [0, 1, 2, 3, 4, 5]
    assert [int(row["step"]) for row in before if "val/loss" in row] == [2, 5]
    fit(tmp_path / "stopped", shards, resume=str(tmp_path / "stopped" / "last.ckpt"))
    straight, stopped = rows_of(tmp_path / "straight"), rows_of(tmp_path / "stopped")
    assert [int(row["step"]) for row in straight if "train/loss" in row] == list(range(8))
    assert stopped == straight
    assert (tmp_path / "stopped" / "csv" / "hparams.yaml").read_text() == "a:\n  b:\n  - 1\n"


def test_a_run_that_is_done_and_run_again_tests_again_in_its_row(shards, tmp_path):  # noqa: F811
    fit(tmp_path, shards)
    before = rows_of(tmp_path)
    fit(tmp_path, shards, resume=str(tmp_path / "last.ckpt"))
    assert rows_of(tmp_path) == before
    assert sum("test/vqa_accuracy" in row for row in before) == 1
    for _ in range(2):
        fit(tmp_path, shards, resume=str(tmp_path / "last.ckpt"), make=ContinuedTensorBoardLogger)
    assert {step for step, _ in scalars(tmp_path)["test/vqa_accuracy"]} == {8}


def test_a_run_that_goes_on_for_longer_appends(shards, tmp_path):  # noqa: F811
    fit(tmp_path, shards, steps=4)
    fit(tmp_path, shards, resume=str(tmp_path / "last.ckpt"))
    assert [int(row["step"]) for row in rows_of(tmp_path) if "train/loss" in row] == list(range(8))


def test_never_starts_anew_and_so_does_a_run_without_a_checkpoint(shards, tmp_path):  # noqa: F811
    fit(tmp_path, shards, steps=6)
    fit(tmp_path, shards, steps=2, resume=None)
    assert [int(row["step"]) for row in rows_of(tmp_path) if "train/loss" in row] == [0, 1]
    logger = CsvLogger(str(tmp_path), resume="never")
    logger.log_metrics({"x": 1.0}, step=5)
    assert rows_of(tmp_path) == [{"step": "5", "x": "1.0"}]


def test_a_row_is_written_at_once_and_one_cut_short_is_dropped(tmp_path):
    logger = CsvLogger(str(tmp_path))
    for step in range(3):
        logger.log_metrics({"train/loss": step / 4}, step)
        assert len(rows_of(tmp_path)) == step + 1
    file = tmp_path / "csv" / "metrics.csv"
    file.write_text(file.read_text() + "3,0.")
    again = CsvLogger(str(tmp_path))
    again.log_metrics({"train/loss": 9.0, "new": torch.tensor(1).item()}, 3)
    assert [row["train/loss"] for row in rows_of(tmp_path)] == ["0.0", "0.25", "0.5", "9.0"]
    assert [row.get("new") for row in rows_of(tmp_path)] == [None, None, None, "1"]
    assert [path.name for path in file.parent.iterdir()] == ["metrics.csv"]


def test_tensorboard_has_each_step_once_and_the_numbers_of_the_csv_file(shards, tmp_path):  # noqa: F811
    for make in (CsvLogger, ContinuedTensorBoardLogger):
        interrupted(tmp_path, shards, make=make)
        shutil.rmtree(tmp_path / "lightning_logs", ignore_errors=True)
    found = scalars(tmp_path)
    assert [step for step, _ in found["train/loss"]] == list(range(8))
    assert [step for step, _ in found["val/loss"]] == [2, 5]
    rows = rows_of(tmp_path)
    for tag in ("train/loss", "val/loss", "test/vqa_accuracy", "train/padding", "epoch"):
        logged = {int(row["step"]): float(row[tag]) for row in rows if tag in row}
        assert dict(found[tag]) == pytest.approx(logged), tag
    assert "hp_metric" not in found


def test_tensorboard_never_starts_anew(tmp_path):
    for resume, steps in (("auto", (1, 2, 3)), ("never", (5,))):
        logger = ContinuedTensorBoardLogger(str(tmp_path), resume=resume)
        for step in steps:
            logger.log_metrics({"x": float(step)}, step)
        logger.finalize("success")
    assert scalars(tmp_path) == {"x": [(5, 5.0)]}
