"""Checks that the frozen weights do not change in a fit and are equal on all ranks."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from prefixvlm.callbacks.ema import check_resumed
from prefixvlm.training.module import PrefixModule


class FrozenGuard(Callback):
    """Raises an error if a frozen weight of the encoder or the language model changed, or differs between ranks."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if isinstance(pl_module, PrefixModule) and stage == "fit":
            # DDP does not broadcast frozen weights here (see PrefixModule): each rank loads its own copy.
            identity = pl_module.identity()
            first = trainer.strategy.broadcast(identity)
            if trainer.strategy.reduce_boolean_decision(first != identity, all=False):
                raise ValueError(
                    f"rank {trainer.global_rank} has loaded {identity} and rank 0 {first}; "
                    "every machine needs the same files of encoder and language model"
                )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, PrefixModule):
            self.before = pl_module.identity()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        check_resumed(checkpoint, trainer.callbacks)  # type: ignore[attr-defined]  # a run without Ema checks it too

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, PrefixModule) and pl_module.identity() != self.before:
            raise RuntimeError(f"frozen weights changed in training: {self.before} became {pl_module.identity()}")
