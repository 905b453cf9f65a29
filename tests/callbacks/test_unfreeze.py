"""Unfreeze: parts are bit-identical before their step, trained after it, and resume exactly."""

from itertools import pairwise

import pytest
import torch
from lightning.pytorch import Callback

from prefixvlm.callbacks.unfreeze import Unfreeze
from prefixvlm.model.trained_state import trained_state
from tests.callbacks import test_ema
from tests.callbacks.test_ema import Weights, fitted, same, trained_encoder
from tests.training import test_module
from tests.training.test_module import data_of, module_of, trainer_of

shards = test_module.shards
pytestmark = test_ema.pytestmark


class Rates(Callback):
    """Records the learning rates of each group, and how many of the encoder's tensors have optimizer state."""

    def __init__(self):
        self.rates, self.num_states = [], []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.rates.append({group["name"]: group["lr"] for group in optimizer.param_groups})

    def on_train_batch_end(self, trainer, module, *args):
        of_encoder = list(module.model.encoder.parameters())
        self.num_states.append(sum(p in trainer.optimizers[0].state for p in of_encoder))


def encoder_of(state):
    return {name: value for name, value in state.items() if ".encoder." in name}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_part_stays_to_the_bit_until_its_step(shards, tmp_path, accumulate):
    weights, rates = Weights(), Rates()
    start = trained_state(trained_encoder())
    fitted(shards, tmp_path, Unfreeze({"encoder": 3}), weights, rates, accumulate_grad_batches=accumulate)
    before = 3 * accumulate
    for state in weights.steps[: before + 1]:
        same(encoder_of(state), {f"model.encoder.{name}": value for name, value in start.items()})
    for first, then in pairwise(weights.steps[before:]):
        assert then["model.encoder.norm.num_batches_tracked"] == first["model.encoder.norm.num_batches_tracked"] + 1
        assert not torch.equal(then["model.encoder.norm.running_mean"], first["model.encoder.norm.running_mean"])
    for state in weights.steps[before + accumulate :: accumulate]:
        assert not torch.equal(state["model.encoder.linear.weight"], start["linear.weight"])
    mapper = [state["model.mapper.linear.weight"] for state in weights.steps[::accumulate]]
    assert not any(torch.equal(first, then) for first, then in pairwise(mapper))
    assert rates.num_states[:before] == [0] * before
    assert rates.num_states[-1] == 4


def test_until_then_the_mapper_learns_as_beside_a_frozen_encoder(shards, tmp_path):
    frozen = trained_encoder().eval().requires_grad_(False)
    frozen.train = lambda mode=True: frozen
    alone, unfrozen = Weights(), Weights()
    fitted(shards, tmp_path, alone, max_steps=3, encoder=frozen, gradient_clip_val=0.1)
    fitted(shards, tmp_path, Unfreeze({"encoder": 3}), unfrozen, max_steps=3, gradient_clip_val=0.1)
    for name, value in alone.steps[-1].items():
        assert torch.equal(unfrozen.steps[-1][name], value)


def test_its_learning_rate_warms_up_anew_and_no_other(shards, tmp_path):
    plain, rates = Rates(), Rates()
    fitted(shards, tmp_path / "plain", plain)
    fitted(shards, tmp_path / "unfreeze", Unfreeze({"encoder": 2}, warmup_steps=2), rates)
    shares = [ours["encoder"] / theirs["encoder"] for ours, theirs in zip(rates.rates, plain.rates, strict=True)]
    assert shares == pytest.approx([1, 1, 1 / 3, 2 / 3, 1, 1])
    assert [r["mapper"] for r in rates.rates] == [r["mapper"] for r in plain.rates]


@pytest.mark.parametrize("at", [1, 3, 4])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(shards, tmp_path, at):
    def callback():
        return Unfreeze({"encoder": 3}, warmup_steps=2)

    _, whole = fitted(shards, tmp_path, callback())
    (tmp_path / "step=6.ckpt").unlink()
    _, parts = fitted(shards, tmp_path, callback(), ckpt_path=tmp_path / f"step={at}.ckpt")
    same(whole["state_dict"], parts["state_dict"])
    for ours, theirs in zip(*(c["optimizer_states"][0]["state"].values() for c in (whole, parts)), strict=True):
        same(ours, theirs)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({}, "accepted are parts with steps"),
        ({"encoder": -1}, "accepted are parts with steps"),
        ({"head": 1}, "names 'head'; accepted are encoder, mapper, lm"),
        ({"lm": 1}, "names lm, which has no trained parameters; build it as trained"),
    ],
)
def test_what_cannot_be_unfrozen_is_one_sentence(shards, steps, message):
    module = module_of(encoder=trained_encoder())
    with pytest.raises(ValueError, match=message):
        trainer_of(Unfreeze(steps), max_steps=1).fit(module, data_of(module, shards))
