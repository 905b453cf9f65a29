"""Logged numbers go in as they come; the curves of a run come out of its checkpoint."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class History(Callback):
    """Remembers the logged scalars, so that a checkpoint alone can draw the curves up to it."""

    def __init__(self, every_n_steps: int = 1) -> None:
        self.every_n_steps = every_n_steps
        self.records: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step % self.every_n_steps == 0:
            self._add(trainer, "train/")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._add(trainer, "val/")

    def _add(self, trainer: Trainer, stage: str) -> None:
        for name, value in trainer.callback_metrics.items():
            if name.startswith(stage):
                self.records.append({"step": trainer.global_step, "name": name, "value": float(value)})

    def state_dict(self) -> dict[str, Any]:
        return {"records": self.records}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.records = list(state_dict["records"])
