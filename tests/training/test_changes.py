"""Options that a resumed run changes: used from there on and recorded, or refused by name."""

import copy

import pytest
import torch

from prefixvlm.callbacks.early_stopping import EarlyStopping
from prefixvlm.callbacks.last_checkpoint import LastCheckpoint
from prefixvlm.task.captioning import Captioning
from prefixvlm.training import objective
from prefixvlm.training.changes import changed_options, check_changes, check_resumed
from prefixvlm.training.checkpoint import KEY
from prefixvlm.training.checkpoint_file import AtomicCheckpointIO, load
from prefixvlm.training.optim import Optim
from tests.callbacks.test_last_checkpoint import equal
from tests.training.test_module import data_of, module_of, shards, trainer_of  # noqa: F401

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of Lightning
ADAM = {"_target_": "torch.optim.AdamW", "betas": [0.9, 0.95]}
CONFIG = {"optim": {"optimizer": ADAM, "lr": 0.05, "weight_decay": 0.1}, "seed": 1, "resume": "auto"}


def changed(**keys):
    config = copy.deepcopy(CONFIG)
    for key, value in keys.items():
        *path, last = key.split("__")
        node = config
        for name in path:
            node = node[name]
        node[last] = value
    return config


def fit(shards, folder, config, max_steps, resume=None, betas=(0.9, 0.95)):  # noqa: F811
    module = module_of(tasks={"captioning": Captioning()}, config=config)
    optim = config["optim"]
    module.optim = Optim(
        lambda groups: torch.optim.AdamW(groups, betas=betas), optim["lr"], optim["weight_decay"], schedule="linear"
    )
    trainer = trainer_of(LastCheckpoint(folder, 1), plugins=[AtomicCheckpointIO()], max_steps=max_steps)
    if resume:
        check_resumed(resume, module, trainer)
    data = data_of(module, shards, batch_size=4, limit_val_predictions=0)
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return trainer


def test_a_resumed_run_uses_the_options_that_it_says(shards, tmp_path, capsys):  # noqa: F811
    fit(shards, tmp_path, CONFIG, 2)
    config = changed(optim__lr=0.0005, optim__weight_decay=0.2)
    trainer = fit(shards, tmp_path, config, 4, str(tmp_path / "last.ckpt"), betas=(0.5, 0.6))
    said = (
        "The run goes on from step 2, from there on with optim.lr=0.0005 (was 0.05), optim.weight_decay=0.2 (was 0.1)"
    )
    assert said in capsys.readouterr().out
    decays = {group["name"]: group["weight_decay"] for group in trainer.optimizers[0].param_groups}
    assert decays == {"mapper": 0.2, "mapper_no_decay": 0.0}
    assert {group["betas"] for group in trainer.optimizers[0].param_groups} == {(0.5, 0.6)}
    assert {group["initial_lr"] for group in trainer.optimizers[0].param_groups} == {0.0005}
    end = load(tmp_path / "last.ckpt")
    changes = {"optim.lr": [0.05, 0.0005], "optim.weight_decay": [0.1, 0.2]}
    assert end[KEY]["lineage"] == [{"resumed_at": 2, "changed": changes}]


@pytest.mark.parametrize("lr", [0.05, 0.0005])
def test_the_first_resumed_step_has_the_rate_of_the_options(shards, tmp_path, lr):  # noqa: F811
    """And with the same options the same bits as an uninterrupted run."""
    fit(shards, tmp_path / "whole", changed(optim__lr=lr), 4)
    fit(shards, tmp_path / "run", CONFIG, 2)
    fit(shards, tmp_path / "run", changed(optim__lr=lr), 4, str(tmp_path / "run" / "last.ckpt"))
    whole, run = load(tmp_path / "whole" / "last.ckpt"), load(tmp_path / "run" / "last.ckpt")
    assert equal(run["lr_schedulers"], whole["lr_schedulers"])


def test_a_run_keeps_the_exact_pixels_that_it_began_with():
    with pytest.raises(ValueError, match=r"encoder.exact_pixels is False, .* has True, and .* set it to that"):
        check_changes({"encoder.exact_pixels": (None, False)})
    check_changes({"encoder.exact_pixels": (None, True)})


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"optim__optimizer___target_": "torch.optim.SGD"}, "optim.optimizer._target_ is torch.optim.SGD"),
        ({"optim__optimizer__amsgrad": True}, "optim.optimizer.amsgrad is True, but the run in this folder has None"),
        ({"optim__weight_decay": 0.0}, "optim.weight_decay is 0.0, but the run in this folder has 0.1"),
        ({"init_from": "a.ckpt"}, "init_from is a.ckpt"),
    ],
)
def test_what_cannot_change_is_refused_by_name(change, key):
    with pytest.raises(ValueError, match=key):
        check_changes(changed_options(CONFIG, changed(**change)))


def test_the_kept_option_of_a_command_that_resumes_is_no_change():
    assert changed_options(CONFIG, changed(resume="must", run_dir="b")) == {}
    check_changes(changed_options(CONFIG, changed(seed=2, optim__optimizer__betas=[0.8, 0.9])))


def test_early_stopping_has_the_patience_of_the_options():
    former = EarlyStopping("val/loss", patience=2)
    former.wait_count = 1
    resumed = EarlyStopping("val/loss", patience=5)
    resumed.load_state_dict(former.state_dict())
    assert (resumed.patience, resumed.wait_count) == (5, 1)


def test_a_run_is_finished_if_the_same_options_have_come_to_their_end_in_its_folder(tmp_path):
    def config(folder, **changes):
        return {"run_dir": str(folder), "trainer": {"root": f"{folder}/x", "devices": 2}, "resume": "auto"} | changes

    folder = tmp_path / "a"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    assert not objective.is_finished(str(folder), config(folder))
    objective.write(str(folder), config(folder), value=1.5)
    assert objective.read_objective(folder).value == 1.5
    moved = folder.rename(tmp_path / "b")
    assert objective.is_finished(str(moved), config(moved, resume="must"))
    assert not objective.is_finished(str(moved), config(moved, resume="never"))
    assert not objective.is_finished(str(moved), config(moved, seed=2))
    (moved / "checkpoints" / "last.ckpt").unlink()
    assert not objective.is_finished(str(moved), config(moved))
