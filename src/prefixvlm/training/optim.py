"""Parameter groups, the optimizer and its learning-rate schedule."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from prefixvlm.options.ranges import NonNegativeFloat, check_value

SCHEDULES = ("constant", "linear", "cosine")


class Schedule(LambdaLR):
    """LambdaLR whose loaded state is the step alone, so that a resumed run has the learning rates of its options."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        base = self.base_lrs
        super().load_state_dict({**state_dict, "base_lrs": base})
        rates = [lr * factor(self.last_epoch) for lr, factor in zip(base, self.lr_lambdas, strict=True)]
        for group, lr, rate in zip(self.optimizer.param_groups, base, rates, strict=True):
            group["initial_lr"], group["lr"] = lr, rate
        self._last_lr = rates


class Optim:
    """Builds the optimizer and the learning-rate schedule of a model.

    optimizer: constructor of a torch optimizer.
    weight_decay: applied to matrices only, not to biases, norms and other vectors.
    warmup_steps: linear warm-up from 0; a value below 1 is a fraction of all steps.
    schedule: constant, linear or cosine after the warm-up; the last two decay to 0.
    encoder_lr, lm_lr: learning rates of the encoder and of the tuned part of the language model; None for `lr`.
    """

    def __init__(
        self,
        optimizer: Callable[..., Optimizer],
        lr: NonNegativeFloat,
        weight_decay: NonNegativeFloat = 0.0,
        warmup_steps: NonNegativeFloat = 0,
        schedule: str = "cosine",
        encoder_lr: NonNegativeFloat | None = None,
        lm_lr: NonNegativeFloat | None = None,
    ) -> None:
        if schedule not in SCHEDULES:
            raise ValueError(f"optim.schedule is {schedule!r}; accepted are {', '.join(SCHEDULES)}")
        numbers = {"lr": lr, "weight_decay": weight_decay, "warmup_steps": warmup_steps, "encoder_lr": encoder_lr,
                   "lm_lr": lm_lr}  # fmt: skip
        for key, value in numbers.items():
            check_value(f"optim.{key}", value, NonNegativeFloat | None)
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.schedule = schedule
        self.own_lr = {"encoder": encoder_lr, "lm": lm_lr}

    def groups(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
        """Return the parameter groups of the trained parameters, in the order of the model.

        Each part of the model has groups of its own: mapper, mapper_no_decay, encoder, ... Raises ValueError if no
        parameter is trained.
        """
        groups: dict[str, dict[str, Any]] = {}
        for name, parameter in named_parameters:
            if parameter.requires_grad:
                part = name.removeprefix("model.").split(".")[0]
                # Biases and the scales of norms do not decay, as in BERT's code and most others since. Sizes of 1 do
                # not count, because the vectors of IA3 have a second dimension of 1.
                is_matrix = sum(size > 1 for size in parameter.shape) > 1
                decays = bool(self.weight_decay) and is_matrix
                group = part if decays or not self.weight_decay else f"{part}_no_decay"
                own_lr = self.own_lr.get(part)
                lr = self.lr if own_lr is None else own_lr  # 0 is a learning rate too
                # LearningRateMonitor logs the learning rate of each group under its name.
                options = {"name": group, "lr": lr, "weight_decay": self.weight_decay if decays else 0.0}
                groups.setdefault(group, {"params": [], **options})["params"].append(parameter)
        if not groups:
            raise ValueError("no parameter is trained; choose a mapper with weights or set encoder.trained=true")
        return list(groups.values())

    def build(self, named_parameters: Iterable[tuple[str, nn.Parameter]], num_steps: float) -> dict[str, Any]:
        """Return the value of LightningModule.configure_optimizers.

        num_steps: optimizer steps of the whole run, infinite if only its time is limited. Raises ValueError if the
        schedule then has no end.
        """
        if math.isinf(num_steps) and (self.schedule != "constant" or 0 < self.warmup_steps < 1):
            raise ValueError(
                f"optim.schedule is {self.schedule} and optim.warmup_steps {self.warmup_steps}, which need a number of "
                "steps, but trainer.max_epochs is -1: set trainer.max_steps, or optim.schedule=constant and "
                "optim.warmup_steps to whole steps"
            )
        optimizer = self.optimizer(self.groups(named_parameters))
        options = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]

        def keep_options(optimizer: Optimizer) -> None:
            for group, own in zip(optimizer.param_groups, options, strict=True):
                group.update(own)

        # A state that is loaded would bring the options of the former run back: learning rate, decay, betas.
        optimizer.register_load_state_dict_post_hook(keep_options)
        scheduler = Schedule(optimizer, lambda step: self.factor(step, num_steps))
        # By default Lightning advances a scheduler once an epoch.
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def factor(self, step: int, num_steps: float) -> float:
        """Return the factor of the learning rate at a step, counted from 0."""
        warmup = self.warmup_steps * num_steps if 0 < self.warmup_steps < 1 else self.warmup_steps
        if step < warmup:
            # Not step / warmup, as transformers has it, with which the first step changes nothing.
            return (step + 1) / (warmup + 1)
        if self.schedule == "constant":
            return 1.0
        # Beyond num_steps the cosine would rise again.
        done = min(1.0, (step - warmup) / max(1.0, num_steps - warmup))
        return 1 - done if self.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
