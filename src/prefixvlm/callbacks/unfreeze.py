"""Trains parts of a model only from a given step on."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer

from prefixvlm.options.ranges import NonNegative


class Unfreeze(Callback):
    """Trains each named part of the model only from a step on, with its own warm-up of the learning rate.

    steps: for each part the first step, counted from 0, that changes it. The part must be built as trained
    (encoder.trained=true). Before that step it is in eval mode, so that BatchNorm's statistics do not change, and has
    no gradients when the optimizer steps, so that the optimizer keeps no state for it.
    warmup_steps: number of steps in which the part's learning rates rise linearly to those of the schedule.
    """

    # Gradients are dropped rather than requires_grad switched: DDP fixes its set of parameters when it is built.

    def __init__(self, steps: Mapping[str, int], warmup_steps: NonNegative = 0) -> None:
        if not steps or any(step < 0 for step in steps.values()) or warmup_steps < 0:
            raise ValueError(
                f"callbacks.unfreeze.steps is {dict(steps)} and warmup_steps {warmup_steps}; accepted are parts with "
                "steps of 0 or more, as {encoder: 500}"
            )
        self.steps, self.warmup_steps = dict(steps), warmup_steps

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name in self.steps:
            if not any(p.requires_grad for p in self._part(pl_module, name).parameters()):
                raise ValueError(
                    f"callbacks.unfreeze.steps names {name}, which has no trained parameters; "
                    "build it as trained (encoder.trained=true), or remove it from the steps"
                )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        for name, step in self.steps.items():
            self._part(pl_module, name).train(trainer.global_step >= step)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        for name, step in self.steps.items():
            parameters = list(self._part(pl_module, name).parameters())
            num_steps = trainer.global_step - step  # that have trained this part
            if num_steps < 0:
                for parameter in parameters:
                    parameter.grad = None
            elif num_steps < self.warmup_steps:
                ids = set(map(id, parameters))
                for group in optimizer.param_groups:
                    if id(group["params"][0]) in ids:
                        # Not cumulative: the scheduler computes the rate from the initial one at each step.
                        group["lr"] *= (num_steps + 1) / (self.warmup_steps + 1)

    @staticmethod
    def _part(pl_module: LightningModule, name: str) -> nn.Module:
        parts = dict(pl_module.model.named_children())  # type: ignore[union-attr]
        if name not in parts:
            raise ValueError(f"callbacks.unfreeze.steps names {name!r}; accepted are {', '.join(parts)}")
        return parts[name]
