"""Parts of a model and steps go in; until its step a part stays as it was built, and then it is trained."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer


class Unfreeze(Callback):
    """Trains each named part only from a step on (counted from 0), with a warm-up of its own.

    steps: for a part of the model that is built as trained (encoder.trained=true), the first step that changes it.
    Before it the part is in eval mode, so that BatchNorm's statistics stay, and has no gradients when the optimizer
    steps, so that it keeps no state of it; nothing is told to DDP. warmup_steps: from a part's step on its learning
    rates rise linearly to what the schedule says.
    """

    def __init__(self, steps: Mapping[str, int], warmup_steps: int = 0) -> None:
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
                    f"callbacks.unfreeze.steps names {name}, of which nothing is trained; "
                    "build it as trained (encoder.trained=true), or take it out"
                )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        for name, step in self.steps.items():
            self._part(pl_module, name).train(trainer.global_step >= step)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        for name, step in self.steps.items():
            parameters = list(self._part(pl_module, name).parameters())
            done = trainer.global_step - step
            if done < 0:
                for parameter in parameters:
                    parameter.grad = None
            elif done < self.warmup_steps:
                ids = set(map(id, parameters))
                for group in optimizer.param_groups:
                    if id(group["params"][0]) in ids:
                        group["lr"] *= (done + 1) / (self.warmup_steps + 1)  # the schedule sets it anew for each step

    @staticmethod
    def _part(pl_module: LightningModule, name: str) -> nn.Module:
        parts = dict(pl_module.model.named_children())  # type: ignore[union-attr]
        if name not in parts:
            raise ValueError(f"callbacks.unfreeze.steps names {name!r}; accepted are {', '.join(parts)}")
        return parts[name]
