"""Runs of a study: those worse than the others are stopped."""

import warnings

import optuna
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from prefixvlm.callbacks.pruner import Pruner
from prefixvlm.sweep import study as study_of
from prefixvlm.sweep.study import make_pruner, open_storage


class Falling(LightningModule):
    """Validates to `start` less the number of epochs."""

    def __init__(self, start):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.start = start

    def training_step(self, batch):
        return self.weight.sum()

    def validation_step(self, batch):
        self.log("val/loss", float(self.start - self.current_epoch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters())


def fit(tmp_path, start, pruner, epochs=6, ckpt_path=None):
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=[pruner], logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, enable_checkpointing=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        warnings.filterwarnings("ignore", message=r"Found \d+ module")
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
        data = DataLoader(torch.zeros(1, 1))
        trainer.fit(Falling(start), data, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


@pytest.fixture(params=["study.db", "study.log"])
def place(tmp_path, request):
    return str(tmp_path / request.param)


def study(place, direction="minimize"):
    return optuna.create_study(storage=open_storage(place), study_name="s", direction=direction, load_if_exists=True)


def test_a_run_that_is_worse_than_the_others_is_stopped(tmp_path, place):
    trials = study(place)
    for start in range(5):
        trial = trials.ask()
        pruner = Pruner(place, "s", trial.number, "val/loss")
        fit(tmp_path, start, pruner)
        assert not pruner.pruned or start
        trials.tell(trial, start - 5)
    assert trials.trials[0].intermediate_values == {n + 1: -n for n in range(6)}
    trial = trials.ask()
    pruner = Pruner(place, "s", trial.number, "val/loss")
    trainer = fit(tmp_path, 10, pruner)
    assert pruner.pruned
    assert trainer.current_epoch == 2  # not at its first validation
    good = Pruner(place, "s", trials.ask().number, "val/loss")
    assert fit(tmp_path, 0, good).current_epoch == 6
    assert not good.pruned
    assert list(study(place).trials[5].intermediate_values.values()) == [10, 9]


def test_a_resumed_run_counts_its_validations_on(tmp_path, place):
    trial = study(place).ask()
    trainer = fit(tmp_path, 3, Pruner(place, "s", trial.number, "val/loss"), epochs=2)
    trainer.save_checkpoint(tmp_path / "x.ckpt", weights_only=False)
    fit(tmp_path, 3, Pruner(place, "s", trial.number, "val/loss"), epochs=3, ckpt_path=tmp_path / "x.ckpt")
    assert study(place).trials[0].intermediate_values == {1: 3, 2: 2, 3: 1}


def test_a_value_that_is_not_logged_is_named(tmp_path, place):
    with pytest.raises(ValueError, match="there is no val/cider to prune by; accepted are val/loss"):
        fit(tmp_path, 0, Pruner(place, "s", study(place).ask().number, "val/cider"))


def test_a_study_that_cannot_be_read_does_not_stop_the_run(tmp_path, place):
    pruner = Pruner(place, "s", 7, "val/loss")
    with pytest.warns(UserWarning, match="cannot be read"):
        trainer = fit(tmp_path, 0, pruner, epochs=2)
    assert trainer.current_epoch == 2
    assert not pruner.pruned


def test_what_a_study_accepts(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="accepted are FILE.db, FILE.log"):
        open_storage("study")
    with pytest.raises(ValueError, match="accepted are none, median, hyperband"):
        make_pruner("best")
    assert isinstance(make_pruner("hyperband"), optuna.pruners.HyperbandPruner)
    assert study(f"sqlite:///{tmp_path}/new folder/a.db").study_name == "s"
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ValueError, match="pip install 'optuna>=5'"):
        study_of.import_optuna()
