"""Runs that are stopped at any step and resumed have the losses, weights and history of an uninterrupted run."""

import json
import os
import random
import shutil
import signal

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.nn import functional as F

from prefixvlm.callbacks.history import History
from prefixvlm.callbacks.last_checkpoint import LastCheckpoint
from prefixvlm.data.shards.write import write_shards
from prefixvlm.distributed.signals import StoppedBySignal, signals
from prefixvlm.task.captioning import Captioning
from prefixvlm.training.checkpoint_file import AtomicCheckpointIO, load
from tests.data.conftest import png
from tests.training.test_module import data_of, module_of, trainer_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning"),  # Lightning with torch 2.15
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode"),  # the frozen parts: that is the point
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]
NUM = {"train": 11, "val": 5}
RUNS = {
    "epochs": {"max_epochs": 3},
    "within": {"max_epochs": 3, "val_check_interval": 2},
    "steps": {"max_epochs": -1, "max_steps": 13, "check_val_every_n_epoch": None, "val_check_interval": 4},
    "accumulated": {"max_epochs": 3, "val_check_interval": 2, "accumulate_grad_batches": 2},
    "seldom": {"max_epochs": 3, "check_val_every_n_epoch": 2},
}
# Paths (a resumed run has the same folder), and what Lightning neither restores nor reads.
NOT_STATE = {"current_score", "last_model_path"}


def raw(split):
    for i in range(NUM[split]):
        content = {"captions": ["abcdefghijkl"[i] * (1 + 3 * i), "xyz"]}
        yield f"{split}-{i:03d}", {"png": png(20 * i), "json": json.dumps(content).encode()}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shards"
    write_shards({split: raw(split) for split in NUM}, folder, "a test", "none", samples_per_shard=4)
    return str(folder)


class Seen(Callback):
    """Records the losses, and stops the run by a signal after step stop_at."""

    def __init__(self, stop_at=None):
        self.seen, self.stop_at = [], stop_at

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.seen.append(("train", trainer.global_step, outputs["loss"].item()))
        if trainer.global_step == self.stop_at:
            os.kill(os.getpid(), signal.SIGUSR1)

    def on_validation_end(self, trainer, module):
        self.seen.append(("val", trainer.global_step, trainer.callback_metrics["val/loss"].item()))


class Copies(AtomicCheckpointIO):
    """Keeps a copy of every last checkpoint."""

    def __init__(self, folder):
        self.folder = folder

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        super().save_checkpoint(checkpoint, path)
        if self.folder and str(path).endswith("last.ckpt"):
            shutil.copy(path, self.folder / f"{len(os.listdir(self.folder)):03d}.ckpt")


def fit(shards, folder, options, resume=None, copies=None, stop_at=None, every=1, patience=9, batch_size=2, more=()):
    """With dropout, which a wrong random state would show."""
    module = module_of(tasks={"captioning": Captioning()})
    module.model.mapper.register_forward_hook(lambda m, args, out: F.dropout(out, 0.2, m.training))
    best = ModelCheckpoint(
        folder, "best", "val/loss", auto_insert_metric_name=False, enable_version_counter=False,
        save_on_train_epoch_end=False,
    )  # fmt: skip
    seen = Seen(stop_at)
    stopping = EarlyStopping("val/loss", patience=patience, check_on_train_epoch_end=False)
    trainer = trainer_of(
        seen, History(), stopping, best, LastCheckpoint(folder, every), *more, plugins=[Copies(copies)], **options
    )
    torch.manual_seed(3)
    with signals.installed():
        data = data_of(module, shards, batch_size=batch_size, shuffle_buffer=6, limit_val_predictions=0)
        trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return seen.seen


def state(path):
    checkpoint = load(path)
    callbacks = checkpoint["callbacks"].items()
    checkpoint["callbacks"] = {k: {n: v for n, v in c.items() if n not in NOT_STATE} for k, c in callbacks}
    del checkpoint["loops"]  # Lightning's counters: an epoch that ended before a kill counts in another of them
    return checkpoint


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on_exactly_from_each_of_its_steps(shards, tmp_path, name):
    folder, copies = tmp_path / "run", tmp_path / "copies"
    copies.mkdir()
    whole = fit(shards, folder, RUNS[name], copies=copies)
    end = state(folder / "last.ckpt")
    saved = sorted(copies.iterdir())
    assert len(saved) == end["global_step"] > 7
    for path in saved[:-1]:
        step = load(path)["global_step"]
        rest = fit(shards, folder, RUNS[name], str(path))
        assert rest == whole[-len(rest) :]
        done = [at for kind, at, _ in whole[: -len(rest)] if kind == "train"]
        assert done[-1] == step
        assert equal(state(folder / "last.ckpt"), end), f"resumed at step {step}"


def test_a_run_that_is_stopped_by_signals_ends_as_one_that_is_not(shards, tmp_path):
    whole = fit(shards, tmp_path / "whole", RUNS["within"])
    end, rng, parts, stops = state(tmp_path / "whole" / "last.ckpt"), random.Random(0), [], 0
    folder = tmp_path / "run"
    folder.mkdir()
    step, resume = 0, None
    while step < 15:
        step += rng.choice((1, 2, 3))
        try:
            parts += fit(shards, folder, RUNS["within"], resume, stop_at=step, every=100)
        except StoppedBySignal:
            stops += 1
            assert load(folder / "last.ckpt")["global_step"] == step
        resume = str(folder / "last.ckpt")
    assert stops > 5
    resumed = state(resume)
    for key in ("callbacks", "state_dict", "optimizer_states", "lr_schedulers", "prefixvlm", "global_step"):
        mine, theirs = resumed[key], end[key]
        if key == "callbacks":  # of paths, each has its own
            mine, theirs = ([c.get("best_model_score") for c in side.values()] for side in (mine, theirs))
        assert equal(mine, theirs), key
    assert whole[0][0] == "train"


def test_a_signal_during_a_validation_stops_at_once(shards, tmp_path):
    class InValidation(Callback):
        def on_validation_batch_start(self, trainer, *args):
            os.kill(os.getpid(), signal.SIGTERM)

    module = module_of(tasks={"captioning": Captioning()})
    trainer = trainer_of(InValidation(), LastCheckpoint(tmp_path, 1), plugins=[Copies(None)], max_epochs=2)
    with signals.installed(), pytest.raises(StoppedBySignal) as stopped:
        trainer.fit(module, data_of(module, shards, batch_size=2, limit_val_predictions=0))
    assert stopped.value.code == 143
    assert load(tmp_path / "last.ckpt")["global_step"] == 4  # the fifth step is saved with its validation


def test_ctrl_c_is_130_and_a_second_one_does_not_wait():
    with signals.installed():
        signals.defer = True
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.pending == signal.SIGINT
        with pytest.raises(StoppedBySignal) as stopped:
            os.kill(os.getpid(), signal.SIGINT)
    assert stopped.value.code == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_more_steps_follow_where_max_steps_had_ended_an_epoch(shards, tmp_path):
    whole = fit(shards, tmp_path / "whole", {**RUNS["within"], "max_steps": 13})
    *first, end = fit(shards, tmp_path / "run", {**RUNS["within"], "max_steps": 8}, every=100)
    rest = fit(shards, tmp_path / "run", {**RUNS["within"], "max_steps": 13}, str(tmp_path / "run" / "last.ckpt"))
    assert end[:2] == ("val", 8)  # only because the run ended there
    # Losses too: nothing of the training depends on that validation but the rates, of which max_steps is a part.
    assert [seen[:2] for seen in first + rest] == [seen[:2] for seen in whole]


ENDS = {  # steps of 5 an epoch, and after which of them a run validates
    "within an epoch": ({"max_steps": 8}, [5, 8]),
    "within the first epoch": ({"max_steps": 3}, [3]),
    "between validations": ({"max_steps": 6, "check_val_every_n_epoch": None, "val_check_interval": 4}, [4, 6]),
    "at a validation": ({"max_steps": 10}, [5, 10]),
    "in an epoch without validation": ({"max_epochs": 3, "check_val_every_n_epoch": 2}, [10, 15]),
    "after the last validation of an epoch": ({"max_epochs": 2, "val_check_interval": 2}, [2, 4, 7, 9, 10]),
    "of shorter epochs": ({"max_epochs": 2, "limit_train_batches": 3, "val_check_interval": 2}, [2, 5, 6]),
    "of accumulated steps": ({"max_steps": 4, "accumulate_grad_batches": 2}, [3, 4]),
    "by a callback": ({"max_epochs": 4, "check_val_every_n_epoch": 4}, [2]),
    "by time": ({"max_epochs": 9, "check_val_every_n_epoch": 99, "max_time": {"seconds": 0.001}}, [1]),
    "without validations": ({"max_steps": 3, "limit_val_batches": 0}, []),
}


class Stop(Callback):
    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = trainer.global_step == 2


@pytest.mark.parametrize("end", ENDS)
def test_a_run_validates_once_after_its_last_step(shards, tmp_path, end):
    options, steps = ENDS[end]
    more = [Stop()] if end == "by a callback" else []
    seen = fit(shards, tmp_path, options, more=more)
    assert [step for kind, step, _ in seen if kind == "val"] == steps
    assert load(tmp_path / "last.ckpt")["global_step"] == max(step for _, step, _ in seen)
    if steps:
        best = load(tmp_path / "best.ckpt")["global_step"]
        assert best == min((loss, step) for kind, step, loss in seen if kind == "val")[1]
        again = fit(shards, tmp_path, {"max_epochs": -1, **options}, str(tmp_path / "last.ckpt"))
        assert not [step for kind, step, _ in again if kind == "val" and step == steps[-1]]


def test_early_stopping_goes_on_counting(shards, tmp_path):
    copies = tmp_path / "copies"
    copies.mkdir()
    options = {"max_epochs": 30, "val_check_interval": 1}
    whole = fit(shards, tmp_path / "run", options, copies=copies, patience=2)
    if whole[-1][1] == 150:
        pytest.fail("the run did not stop early")
    middle = sorted(copies.iterdir())[len(os.listdir(copies)) // 2]
    assert fit(shards, tmp_path / "run", options, str(middle), patience=2)[-1] == whole[-1]


def test_every_n_steps_is_checked():
    with pytest.raises(ValueError, match="every_n_steps is 0; set callbacks.last.every_n_steps"):
        LastCheckpoint("folder", 0)


class Keys(Callback):
    """Records the samples of each step, and the validations, by epoch."""

    def __init__(self):
        self.epochs = {}

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.epochs.setdefault(trainer.current_epoch, []).append(sorted(set(batch.keys)))

    def on_validation_end(self, trainer, module):
        self.epochs.setdefault(trainer.current_epoch, []).append("val")


@pytest.mark.parametrize(
    ("before", "stop_at", "after", "steps"),
    [(2, 2, 1, (6, 11)), (1, 4, 2, (3, 5)), (2, 4, 5, (0, 2)), (1, 10, 11, (0, 1))],  # what is left may fill no batch
)
def test_a_run_goes_on_with_batches_of_another_size(shards, tmp_path, before, stop_at, after, steps):
    first, then = Keys(), Keys()
    with pytest.raises(StoppedBySignal):
        fit(shards, tmp_path, {"max_epochs": 2}, stop_at=stop_at, batch_size=before, more=[first])
    fit(shards, tmp_path, {"max_epochs": 2}, tmp_path / "last.ckpt", batch_size=after, more=[then])
    seen = [key for step in first.epochs[0] for key in step]
    for epoch, num_steps in enumerate(steps):
        *read, last = then.epochs.get(epoch, ["val"])
        assert (len(read), last) == (num_steps, "val")
        assert all(len(step) == after for step in read)
        seen += [key for step in read for key in step]
        assert len(set(seen)) == len(seen) > 11 - before - after
        seen = []
