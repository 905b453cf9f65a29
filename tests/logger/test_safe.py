"""Loggers that fail end no run: a warning, once, and nothing logged from then on."""

import pytest

from prefixvlm.logger.resumable import ContinuedTensorBoardLogger, CsvLogger
from prefixvlm.logger.wandb import ContinuedWandbLogger, finish
from tests.logger.test_wandb import nobody  # noqa: F401
from tests.test_atomic import full_disk


def test_a_full_disk_under_the_csv_file_ends_no_run(tmp_path):
    logger = CsvLogger(tmp_path)
    logger.log_metrics({"a": 1.0}, 1)
    with full_disk(10), pytest.warns(UserWarning, match="^CsvLogger failed .OSError.*; the run goes on without it"):
        logger.log_metrics({"a": 1.0}, 2)
    logger.log_metrics({"a": 1.0}, 3)  # without a second warning, which pytest would raise
    logger.log_hyperparams({"a": 1})
    finish([logger], 0)


def test_a_tensorboard_that_cannot_write_ends_no_run(tmp_path):
    (tmp_path / "file").touch()
    logger = ContinuedTensorBoardLogger(str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="ContinuedTensorBoardLogger failed .*; the run goes on without it"):
        _ = logger.experiment  # as Lightning does before a fit
    logger.log_metrics({"a": 1.0}, 1)
    logger.save()
    finish([logger], 0)


def test_tables_of_wandb_need_no_home(tmp_path, monkeypatch, nobody):  # noqa: F811
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.setenv("WANDB_DATA_DIR", "to be restored")
    monkeypatch.delenv("WANDB_DATA_DIR")
    logger = ContinuedWandbLogger(str(tmp_path))
    logger.log_metrics({"a": 1.0}, 1)
    logger.log_table("t", ["a"], [["b"]])
    finish([logger], 0)
    assert not logger.has_failed
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/table/t_*.json"))


def test_a_wandb_that_cannot_start_ends_no_run(tmp_path, monkeypatch, nobody):  # noqa: F811
    logger = ContinuedWandbLogger(str(tmp_path))
    (tmp_path / "wandb").write_text("a file where its folder would be")
    with pytest.warns(UserWarning, match="ContinuedWandbLogger failed"):
        _ = logger.experiment
    logger.log_metrics({"a": 1.0}, 1)
    finish([logger], 0)
