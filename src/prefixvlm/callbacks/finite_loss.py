"""Stops a run whose loss is no longer finite, before its checkpoints are overwritten."""

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from prefixvlm.batch import Batch
from prefixvlm.distributed.gather import from_all_ranks
from prefixvlm.options.ranges import NonNegative, check_value

NUM_NAMED = 5


class FiniteLoss(Callback):
    """Raises ValueError on all ranks if a training loss, val/loss or a trained weight is NaN or infinite.

    max_steps: for how many steps in a row the training loss may be so; their gradients count as zero.
    """

    def __init__(self, max_steps: NonNegative = 0) -> None:
        check_value("callbacks.finite_loss.max_steps", max_steps, NonNegative)
        self.max_steps = max_steps
        self.first = self.last = 0  # steps in a row, counted from 1; 0 for none
        self.keys: list[str] = []  # of the samples of the batch, or of the validation batches that are not finite

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.keys = keys_of([batch])

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        step, is_finite = trainer.global_step + 1, bool(torch.isfinite(loss))
        if trainer.strategy.reduce_boolean_decision(is_finite):
            if step != self.last:  # otherwise an earlier batch of the same step was not finite
                self.first = 0
            return
        self.first, self.last = self.first or step, step
        if step - self.first >= self.max_steps:
            rate = max(group["lr"] for group in trainer.optimizers[0].param_groups)
            since = f"since step {self.first}" if self.first < step else f"at step {step}"
            raise ValueError(
                f"the loss is not finite {since}, at learning rate {rate:g}"
                f"{_named([] if is_finite else self.keys)}; set optim.lr to less or trainer.gradient_clip_val, or "
                "callbacks.finite_loss.max_steps to the number of such steps to leave out"
            )

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self.last == trainer.global_step + 1:
            for parameter in pl_module.parameters():
                if parameter.grad is not None:
                    parameter.grad.zero_()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.keys = []

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        if isinstance(outputs, Tensor) and not torch.isfinite(outputs):
            self.keys += keys_of(batch)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loss = trainer.callback_metrics.get("val/loss")
        if trainer.state.fn == "fit" and loss is not None and not torch.isfinite(loss):
            raise ValueError(
                f"val/loss is {loss:g} after step {trainer.global_step}{_named(self.keys)}; set optim.lr to less, or "
                "data.shards to ones without these samples"
            )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        weights = (p for p in pl_module.parameters() if p.requires_grad)
        if not all(bool(torch.isfinite(weight).all()) for weight in weights):
            raise ValueError(
                f"the trained weights are not finite after step {trainer.global_step}; set optim.lr to less, or "
                "trainer.gradient_clip_val. The checkpoint before stays as it is"
            )


def keys_of(batches: Iterable[Any]) -> list[str]:
    """Return the keys of the samples in training batches."""
    return list(dict.fromkeys(key for batch in batches if isinstance(batch, Batch) for key in batch.keys))


def _named(keys: list[str]) -> str:
    """Return words that name some of the samples of all ranks. Every rank must call it."""
    names = [key for each in from_all_ranks(keys) for key in each]
    more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    return f", with the samples {', '.join(names[:NUM_NAMED])}{more}" if names else ""
