"""Exponential moving average of the trained tensors."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from prefixvlm.model.trained_state import trained_state
from prefixvlm.options.ranges import BelowOne, Positive, check_value
from prefixvlm.training.checkpoint import AVERAGED, EMA


class Ema(Callback):
    """Averages the trained tensors: after every `every_n_steps` steps, average += (1 - decay) * (current - average).

    Validations run with the averages. A checkpoint stores the averages as its trained tensors, and the raw tensors
    beside them for resuming. Integer buffers, such as BatchNorm's num_batches_tracked, are copied, not averaged.

    decay: weight of the former average in each update, 0 <= decay < 1.
    warmup: use min(decay, (1 + n) / (10 + n)) as the decay of update n, so that the average of a short run is not
    dominated by the initial weights.
    """

    # Lightning's EMAWeightAveraging copies the whole module, the frozen language model with it, and rewrites the state
    # dict of the checkpoint, from which PrefixModule leaves the frozen tensors out.

    def __init__(self, decay: BelowOne = 0.999, every_n_steps: Positive = 1, warmup: bool = True) -> None:
        check_value("callbacks.ema.decay", decay, BelowOne)
        check_value("callbacks.ema.every_n_steps", every_n_steps, Positive)
        self.decay, self.every_n_steps, self.warmup = decay, every_n_steps, warmup
        self.average: dict[str, Tensor] = {}
        self.raw: dict[str, Tensor] = {}  # not empty only while the averages are in the module
        self.num_updates = self.last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        state = trained_state(pl_module)
        # A resumed run has averages already, on the CPU.
        self.average = {
            name: self.average.get(name, value).to(value.device, copy=True) for name, value in state.items()
        }

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        step = trainer.global_step
        if step == self.last_step or step % self.every_n_steps:  # the former: gradients are being accumulated
            return
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates)) if self.warmup else self.decay
        for name, value in trained_state(pl_module).items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)
        self.num_updates, self.last_step = self.num_updates + 1, step

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.average and not self.raw:
            self.raw = _clone(trained_state(pl_module))
            _copy_into(pl_module, self.average)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.raw:
            _copy_into(pl_module, self.raw)
            self.raw = {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.on_validation_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        raw = self.raw or trained_state(pl_module)
        checkpoint[EMA] = {"raw": raw, "num_updates": self.num_updates, "last_step": self.last_step}
        # Lightning calls the callbacks' hook before the module's, which stores these as the trained tensors.
        checkpoint[AVERAGED] = self.average or raw

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        check_resumed(checkpoint, [self])
        stored = checkpoint[EMA]
        self.average = _clone(checkpoint["state_dict"])
        self.num_updates, self.last_step = stored["num_updates"], stored["last_step"]
        _copy_into(pl_module, stored["raw"])


def check_resumed(checkpoint: dict[str, Any], callbacks: Sequence[Callback]) -> None:
    """Raise ValueError if a run with weight averaging resumes from a checkpoint without averages, or vice versa."""
    uses_ema = any(isinstance(callback, Ema) for callback in callbacks)
    if uses_ema and EMA not in checkpoint:
        raise ValueError(
            "the checkpoint to resume from holds no averages but callbacks.ema is set; resume without it, or begin a "
            "new run from it with init_from"
        )
    if EMA in checkpoint and not uses_ema:
        raise ValueError(
            "the checkpoint to resume from holds averages (callbacks.ema) but this run does not average; resume with "
            "callbacks=ema, or begin a new run from it with init_from"
        )


def _clone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}


@torch.no_grad()
def _copy_into(module: LightningModule, state: dict[str, Tensor]) -> None:
    target = trained_state(module)
    for name, value in state.items():
        target[name].copy_(value)
