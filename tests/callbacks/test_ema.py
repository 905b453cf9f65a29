"""Ema against a loop in float64; validations, checkpoints and resuming with averages."""

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from prefixvlm.callbacks.ema import Ema
from prefixvlm.callbacks.frozen_guard import FrozenGuard
from prefixvlm.model.trained_state import trained_state
from prefixvlm.training.checkpoint_file import AtomicCheckpointIO, load
from tests.training import test_module
from tests.training.test_module import NormEncoder, data_of, module_of, trainer_of

shards = test_module.shards
pytestmark = [
    *test_module.pytestmark,
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


class Weights(Callback):
    """Records the trained tensors after each step, and during and after each validation."""

    def __init__(self):
        self.steps, self.seen, self.after = [], [], []

    @staticmethod
    def state(module):
        return {name: value.clone() for name, value in trained_state(module).items()}

    def on_train_start(self, trainer, module):
        self.steps.append(self.state(module))

    def on_train_batch_end(self, trainer, module, *args):
        self.steps.append(self.state(module))

    def on_validation_epoch_end(self, trainer, module):
        self.seen.append(self.state(module))

    def on_validation_end(self, trainer, module):
        self.after.append(self.state(module))


def trained_encoder():
    torch.manual_seed(5)
    return NormEncoder().requires_grad_(True)


def fitted(shards, folder, *callbacks, max_steps=6, ckpt_path=None, encoder=None, **keywords):
    module = module_of(encoder=encoder or trained_encoder())
    checkpoints = ModelCheckpoint(
        dirpath=folder, filename="{step}", every_n_train_steps=1, save_top_k=-1, enable_version_counter=False
    )
    trainer = trainer_of(
        checkpoints, *callbacks, max_steps=max_steps, max_epochs=9, plugins=[AtomicCheckpointIO()],
        **{"limit_val_batches": 0, **keywords},
    )  # fmt: skip
    data = data_of(module, shards, batch_size=2, limit_val_predictions=2)
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return module, load(folder / f"step={max_steps}.ckpt")


def same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize(("decay", "every", "warmup"), [(0.9, 1, False), (0.6, 2, False), (0.999, 1, True)])
def test_the_average_is_that_of_a_naive_loop(shards, tmp_path, decay, every, warmup):
    ema, weights = Ema(decay, every, warmup), Weights()
    fitted(shards, tmp_path, ema, weights)
    for name, average in ema.average.items():
        expected = weights.steps[0][name].double()
        for number, state in enumerate(weights.steps[every::every]):
            kept = min(decay, (1 + number) / (10 + number)) if warmup else decay
            expected = kept * expected + (1 - kept) * state[name].double()
        if average.is_floating_point():
            torch.testing.assert_close(average.double(), expected, atol=1e-6, rtol=1e-6)
            assert not torch.allclose(average, weights.steps[-1][name], atol=1e-7)
        else:
            assert average == weights.steps[-1][name] == 6


def test_an_average_is_of_steps_not_of_batches(shards, tmp_path):
    ema = Ema(0.5, warmup=False)
    fitted(shards, tmp_path, ema, max_steps=2, accumulate_grad_batches=2)
    assert ema.num_updates == 2


def test_validations_see_the_average_and_training_does_not(shards, tmp_path):
    ema, weights = Ema(0.5, warmup=False), Weights()
    plain = fitted(shards, tmp_path / "plain")[0]
    module, _ = fitted(shards, tmp_path / "ema", ema, weights, limit_val_batches=1.0, val_check_interval=1)
    assert len(weights.seen) == 6
    same(weights.seen[-1], ema.average)
    for after, step in zip(weights.after, weights.steps[1:], strict=True):
        same(after, step)
    same(trained_state(module), trained_state(plain))


def test_a_checkpoint_s_trained_tensors_are_the_average_and_the_raw_ones_lie_beside(shards, tmp_path):
    ema = Ema(0.5)
    module, checkpoint = fitted(shards, tmp_path, ema)
    same(checkpoint["state_dict"], ema.average)
    same(checkpoint["ema"]["raw"], trained_state(module))
    other = module_of(seed=3, encoder=trained_encoder())
    other.load_trained(checkpoint)
    same(trained_state(other), ema.average)


def test_a_validation_after_the_fit_is_of_the_average(shards, tmp_path):
    module, ema, weights = module_of(), Ema(0.5), Weights()
    trainer = trainer_of(ema, weights, max_steps=2, limit_val_batches=0)
    trainer.fit(module, data_of(module, shards))
    raw = Weights.state(module)
    trainer_of(ema, weights).validate(module, data_of(module, shards), verbose=False)
    same(weights.seen[-1], ema.average)
    same(trained_state(module), raw)


@pytest.mark.parametrize("every", [1, 2])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(shards, tmp_path, every):
    _, whole = fitted(shards, tmp_path, Ema(0.9, every))
    (tmp_path / "step=6.ckpt").unlink()
    _, parts = fitted(shards, tmp_path, Ema(0.9, every), ckpt_path=tmp_path / "step=3.ckpt")
    same(whole["state_dict"], parts["state_dict"])
    same(whole["ema"]["raw"], parts["ema"]["raw"])
    assert whole["ema"]["num_updates"] == parts["ema"]["num_updates"] == 6 // every
    for ours, theirs in zip(*(c["optimizer_states"][0]["state"].values() for c in (whole, parts)), strict=True):
        same(ours, theirs)


@pytest.mark.parametrize(
    ("first", "then", "message"),
    [([Ema()], [], "holds averages .* but this run does not"), ([], [Ema()], "holds no averages but callbacks.ema")],
)
def test_resuming_with_and_without_averages_is_one_sentence(shards, tmp_path, first, then, message):
    fitted(shards, tmp_path, FrozenGuard(), *first, max_steps=1)
    with pytest.raises(ValueError, match=message):
        fitted(shards, tmp_path, FrozenGuard(), *then, ckpt_path=tmp_path / "step=1.ckpt")


@pytest.mark.parametrize("options", [{"decay": 1.0}, {"decay": -0.1}, {"every_n_steps": 0}])
def test_options_out_of_range_are_one_sentence(options):
    with pytest.raises(ValueError, match="callbacks.ema.* it must be"):
        Ema(**options)
