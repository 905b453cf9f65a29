"""Stores the learning curves and example predictions of a run in its checkpoints."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from prefixvlm.callbacks.monitor import Monitor
from prefixvlm.options.ranges import NonNegative, Positive
from prefixvlm.provenance.redaction import redact


class History(Callback):
    """Records the logged scalars and some predictions, so that a report can be made from a checkpoint alone.

    examples: number of validation predictions per task to record at each validation, with the nearest tokens of the
    images that a Monitor callback has looked at.
    """

    def __init__(self, every_n_steps: Positive = 1, examples: NonNegative = 4) -> None:
        self.every_n_steps, self.num_examples = every_n_steps, examples
        self.records: list[dict[str, Any]] = []
        self.examples: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step % self.every_n_steps == 0:
            self._add_scalars(trainer, "train/")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self._add_scalars(trainer, "val/")
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        nearest = next((each.nearest for each in callbacks if isinstance(each, Monitor)), {})
        for predictions in getattr(pl_module, "predictions", {}).values():
            for p in predictions[: self.num_examples]:
                shown = p.to_dict() | {"prompt": redact(p.prompt), "nearest": nearest.get(p.key)}
                self.examples.append({"step": trainer.global_step, **shown})

    def _add_scalars(self, trainer: Trainer, stage: str) -> None:
        for name, value in trainer.callback_metrics.items():
            if name.startswith(stage):
                self.records.append({"step": trainer.global_step, "name": name, "value": float(value)})

    def state_dict(self) -> dict[str, Any]:
        return {"records": self.records, "examples": self.examples}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.records, self.examples = list(state_dict["records"]), list(state_dict.get("examples", []))
