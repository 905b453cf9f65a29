"""A module goes in before and after a fit; an error comes out if anything that is frozen changed, or differs."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from prefixvlm.callbacks.ema import check_resumed
from prefixvlm.training.module import PrefixModule


class FrozenGuard(Callback):
    """Ends a fit with an error if a frozen weight of the encoder or the language model changed, or a rank has another.

    Frozen weights are not sent from rank to rank: each loads its own.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if isinstance(pl_module, PrefixModule) and stage == "fit":
            mine = pl_module.identity()
            first = trainer.strategy.broadcast(mine)
            if trainer.strategy.reduce_boolean_decision(first != mine, all=False):
                raise ValueError(
                    f"rank {trainer.global_rank} has loaded {mine} and rank 0 {first}; "
                    "every machine needs the same files of encoder and language model"
                )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, PrefixModule):
            self.before = pl_module.identity()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        check_resumed(checkpoint, trainer.callbacks)  # type: ignore[attr-defined]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, PrefixModule) and pl_module.identity() != self.before:
            raise RuntimeError(f"frozen weights changed in training: {self.before} became {pl_module.identity()}")
