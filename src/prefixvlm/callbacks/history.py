"""Logged numbers and predictions go in as they come; the curves of a run come out of its checkpoint."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from prefixvlm.callbacks.monitor import Monitor


class History(Callback):
    """Remembers the logged scalars, so that a checkpoint alone can draw the curves up to it.

    examples: of how many validation predictions a task it also remembers what was said at each validation, and, of
    those images that a Monitor looks at, the nearest tokens.
    """

    def __init__(self, every_n_steps: int = 1, examples: int = 4) -> None:
        self.every_n_steps, self.num_examples = every_n_steps, examples
        self.records: list[dict[str, Any]] = []
        self.examples: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step % self.every_n_steps == 0:
            self._add(trainer, "train/")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._add(trainer, "val/")
            callbacks = trainer.callbacks  # type: ignore[attr-defined]
            nearest = next((each.nearest for each in callbacks if isinstance(each, Monitor)), {})
            for predictions in getattr(pl_module, "predictions", {}).values():
                shown = predictions[: self.num_examples]
                self.examples += [
                    {"step": trainer.global_step, **p.to_dict(), "nearest": nearest.get(p.key)} for p in shown
                ]

    def _add(self, trainer: Trainer, stage: str) -> None:
        for name, value in trainer.callback_metrics.items():
            if name.startswith(stage):
                self.records.append({"step": trainer.global_step, "name": name, "value": float(value)})

    def state_dict(self) -> dict[str, Any]:
        return {"records": self.records, "examples": self.examples}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.records, self.examples = list(state_dict["records"]), list(state_dict.get("examples", []))
