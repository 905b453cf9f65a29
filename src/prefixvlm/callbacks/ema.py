"""Trained tensors go in step by step; their moving average comes out: in validations and in every checkpoint."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from prefixvlm.model.trained_state import trained_state

KEY = "ema"  # what a checkpoint holds of ours beside the averages, which are its trained tensors
AVERAGED = "averaged"  # what the module's on_save_checkpoint takes in the place of its trained tensors


class Ema(Callback):
    """Averages what is trained, exponentially: after every_n_steps steps, average += (1 - decay) * (now - average).

    decay: how much of the average stays. warmup: begin with a decay of 0.1 that rises as (1 + n) / (10 + n), so that a
    short run's average is not of its beginning. Validations see the averages, a checkpoint's trained tensors are the
    averages, and the raw ones lie beside them for resuming. Whole numbers (BatchNorm's counts) are not averaged.
    """

    def __init__(self, decay: float = 0.999, every_n_steps: int = 1, warmup: bool = True) -> None:
        if not 0 <= decay < 1 or every_n_steps < 1:
            raise ValueError(
                f"callbacks.ema.decay is {decay} and every_n_steps {every_n_steps}; accepted are 0 <= decay < 1 and "
                "every_n_steps of 1 or more"
            )
        self.decay, self.every_n_steps, self.warmup = decay, every_n_steps, warmup
        self.average: dict[str, Tensor] = {}
        self.raw: dict[str, Tensor] = {}  # while the averages stand in the module
        self.num_updates = self.last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        now = trained_state(pl_module)
        self.average = {name: self.average.get(name, value).to(value.device, copy=True) for name, value in now.items()}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        step = trainer.global_step
        if step == self.last_step or step % self.every_n_steps:
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
            self.raw = _cloned(trained_state(pl_module))
            _load(pl_module, self.average)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.raw:
            _load(pl_module, self.raw)
            self.raw = {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.on_validation_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        raw = self.raw or trained_state(pl_module)
        checkpoint[KEY] = {"raw": raw, "num_updates": self.num_updates, "last_step": self.last_step}
        checkpoint[AVERAGED] = self.average or raw

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        check_resumed(checkpoint, [self])
        stored = checkpoint[KEY]
        self.average = _cloned(checkpoint["state_dict"])
        self.num_updates, self.last_step = stored["num_updates"], stored["last_step"]
        _load(pl_module, stored["raw"])


def check_resumed(checkpoint: dict[str, Any], callbacks: Sequence[Callback]) -> None:
    """Raises ValueError where a run that averages would go on from one that did not, or the other way round."""
    averages = any(isinstance(callback, Ema) for callback in callbacks)
    if averages and KEY not in checkpoint:
        raise ValueError(
            "the checkpoint to resume from holds no averages but callbacks.ema is set; resume without it, or begin a "
            "new run from it with init_from"
        )
    if KEY in checkpoint and not averages:
        raise ValueError(
            "the checkpoint to resume from holds averages (callbacks.ema) but this run does not average; resume with "
            "callbacks=ema, or begin a new run from it with init_from"
        )


def _cloned(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}


@torch.no_grad()
def _load(module: LightningModule, state: dict[str, Tensor]) -> None:
    now = trained_state(module)
    for name, value in state.items():
        now[name].copy_(value)
