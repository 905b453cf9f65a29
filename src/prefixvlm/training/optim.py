"""Named parameters and a number of steps go in; an optimizer with its learning-rate schedule comes out."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

SCHEDULES = ("constant", "linear", "cosine")


class Optim:
    """How the trained parameters change.

    optimizer: a torch optimizer's constructor. warmup_steps: linear from 0; a fraction below 1 is one of all steps.
    schedule: constant, linear or cosine (both to 0) after the warm-up. weight_decay: on matrices only, not on biases,
    norms and other vectors. encoder_lr, lm_lr: learning rates of the encoder and of what is tuned of the language
    model; null means the same as the mapper's. Each part of the model has parameter groups of its own: mapper,
    mapper_no_decay, encoder, ...
    """

    def __init__(
        self,
        optimizer: Callable[..., Optimizer],
        lr: float,
        weight_decay: float = 0.0,
        warmup_steps: float = 0,
        schedule: str = "cosine",
        encoder_lr: float | None = None,
        lm_lr: float | None = None,
    ) -> None:
        if schedule not in SCHEDULES:
            raise ValueError(f"optim.schedule is {schedule!r}; accepted are {', '.join(SCHEDULES)}")
        given = {
            "lr": lr,
            "weight_decay": weight_decay,
            "warmup_steps": warmup_steps,
            "encoder_lr": encoder_lr,
            "lm_lr": lm_lr,
        }
        for key, value in given.items():
            if value is not None and value < 0:
                raise ValueError(f"optim.{key} is {value}; set it to 0 or more")
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.schedule = schedule
        self.own_lr = {"encoder": encoder_lr, "lm": lm_lr}

    def groups(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
        """The parameter groups of what is trained, in the model's order. Raises ValueError if nothing is."""
        groups: dict[str, dict[str, Any]] = {}
        for name, parameter in named_parameters:
            if parameter.requires_grad:
                part = name.removeprefix("model.").split(".")[0]
                matrix = sum(size > 1 for size in parameter.shape) > 1  # IA3's vectors have a second dimension of 1
                decays = bool(self.weight_decay) and matrix
                group = part if decays or not self.weight_decay else f"{part}_no_decay"
                own_lr = self.own_lr.get(part)
                lr = self.lr if own_lr is None else own_lr
                options = {"name": group, "lr": lr, "weight_decay": self.weight_decay if decays else 0.0}
                groups.setdefault(group, {"params": [], **options})["params"].append(parameter)
        if not groups:
            raise ValueError("no parameter is trained; choose a mapper with weights or set encoder.trained=true")
        return list(groups.values())

    def build(self, named_parameters: Iterable[tuple[str, nn.Parameter]], num_steps: int) -> dict[str, Any]:
        """What LightningModule.configure_optimizers returns."""
        optimizer = self.optimizer(self.groups(named_parameters))
        scheduler = LambdaLR(optimizer, lambda step: self.factor(step, num_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def factor(self, step: int, num_steps: int) -> float:
        """The share of the full learning rate at a step, counted from 0."""
        warmup = self.warmup_steps * num_steps if self.warmup_steps < 1 else self.warmup_steps
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if self.schedule == "constant":
            return 1.0
        done = min(1.0, (step - warmup) / max(1.0, num_steps - warmup))
        return 1 - done if self.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
