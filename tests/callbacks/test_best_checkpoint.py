"""The best checkpoints of a run: small, and those of the run wherever its folder is."""

import math
import shutil

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from prefixvlm.callbacks.best_checkpoint import BestCheckpoint
from prefixvlm.callbacks.history import History
from prefixvlm.callbacks.last_checkpoint import LastCheckpoint
from prefixvlm.callbacks.top_k import TopK
from prefixvlm.task.captioning import Captioning
from prefixvlm.training.checkpoint import KEY
from prefixvlm.training.checkpoint_file import AtomicCheckpointIO, load
from prefixvlm.training.resume import newest
from prefixvlm.training.run_history import history
from tests.training.test_module import data_of, module_of, shards, trainer_of  # noqa: F401

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of Lightning


class Score(Callback):
    """Logs a given value at each validation."""

    def __init__(self, values):
        self.values = iter(values)

    def on_validation_epoch_end(self, trainer, module):
        module.log("val/score", next(self.values))


def fit(shards, folder, values, resume=None, done=0):  # noqa: F811
    """Train an epoch for each value."""
    module = module_of(tasks={"captioning": Captioning()})
    options = {"auto_insert_metric_name": False, "enable_version_counter": False, "save_on_train_epoch_end": False}
    best = BestCheckpoint(folder, "best", "val/score", **options)
    top = TopK(folder / "top", "step={step}", "val/score", save_top_k=2, **options)
    callbacks = [Score(values), History(), best, top, LastCheckpoint(folder)]
    trainer = trainer_of(*callbacks, max_epochs=done + len(values), plugins=[AtomicCheckpointIO()])
    data = data_of(module, shards, batch_size=4, limit_val_predictions=0)
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return best


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_run_whose_folder_was_moved_keeps_its_best_checkpoints(shards, tmp_path):  # noqa: F811
    fit(shards, tmp_path / "a", [3.0, 1.0, 2.0])
    (tmp_path / "a").rename(tmp_path / "b")
    best = fit(shards, tmp_path / "b", [4.0, 1.5], str(tmp_path / "b" / "last.ckpt"), done=3)
    assert (best.best_model_score, best.best_model_path) == (1.0, str(tmp_path / "b" / "best.ckpt"))
    assert load(tmp_path / "b" / "best.ckpt")["global_step"] == 2
    assert names(tmp_path / "b" / "top") == ["step=2.ckpt", "step=5.ckpt"]


def test_a_copy_of_a_run_removes_nothing_of_the_run(shards, tmp_path):  # noqa: F811
    fit(shards, tmp_path / "a", [3.0, 2.0])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    fit(shards, tmp_path / "b", [1.0, 0.0], str(tmp_path / "b" / "last.ckpt"), done=2)
    assert names(tmp_path / "a" / "top") == ["step=1.ckpt", "step=2.ckpt"]
    assert names(tmp_path / "b" / "top") == ["step=3.ckpt", "step=4.ckpt"]


def test_the_best_checkpoint_holds_only_what_an_evaluation_reads(shards, tmp_path):  # noqa: F811
    fit(shards, tmp_path, [1.0])
    best, last = load(tmp_path / "best.ckpt"), load(tmp_path / "last.ckpt")
    assert best.keys() == {"epoch", "global_step", "pytorch-lightning_version", "state_dict", "callbacks", KEY}
    assert best[KEY].keys() == last[KEY].keys() - {"rng"}
    assert history(best)["records"] == history(last)["records"]
    assert all(torch.equal(last["state_dict"][name], value) for name, value in best["state_dict"].items())
    (tmp_path / "best.ckpt").replace(tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last.ckpt is a best checkpoint, .* begin a new run from .* init_from"):
        newest(tmp_path)


def test_a_value_that_is_not_finite_is_never_the_best(shards, tmp_path):  # noqa: F811
    best = fit(shards, tmp_path, [math.nan, 3.0, -math.inf, math.nan])
    assert best.best_model_score == 3.0
    assert load(tmp_path / "best.ckpt")["global_step"] == 2
    assert names(tmp_path / "top") == ["step=2.ckpt"]


def test_a_run_of_before_keeps_its_best_value(tmp_path):
    """Lightning finds the state of a callback by this key; the callback of older runs was its own."""
    options = {"dirpath": str(tmp_path), "filename": "best", "monitor": "val/loss", "save_on_train_epoch_end": False}
    assert BestCheckpoint(**options).state_key == ModelCheckpoint(**options).state_key
    assert TopK(**options).state_key != BestCheckpoint(**options).state_key


def test_a_file_outside_the_folder_is_none_of_its_checkpoints(tmp_path):
    """Lightning removes a checkpoint that is surpassed, and its path comes from last.ckpt."""
    former, victim = tmp_path / "former", tmp_path / "victim.txt"
    state = {"dirpath": str(former), "best_k_models": {str(victim): 9.0, str(former / "step=1.ckpt"): 1.0}}
    state |= {"best_model_path": str(former / "step=1.ckpt"), "kth_best_model_path": str(victim), "last_model_path": ""}
    state |= {"best_model_score": torch.tensor(1.0), "kth_value": torch.tensor(9.0), "current_score": None}
    callback = BestCheckpoint(str(tmp_path / "now"), "best", monitor="val/loss", save_top_k=2)
    callback.load_state_dict(state)
    assert list(callback.best_k_models) == [str(tmp_path / "now" / "step=1.ckpt")]
    assert callback.kth_best_model_path == ""
