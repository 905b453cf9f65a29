"""Logs the validation predictions as wandb tables."""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from prefixvlm.data.datamodule import ShardDataModule
from prefixvlm.logger.wandb import log_table
from prefixvlm.training.module import PrefixModule

COLUMNS = ["image", "prompt", "prediction", "references", "correct"]


class PredictionTable(Callback):
    """Logs a table for each task after each validation, val/TASK_predictions; does nothing for other loggers."""

    # At the end of the validation: PrefixModule gathers its predictions in on_validation_epoch_end, which Lightning
    # calls after the same hook of the callbacks.
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        uses_wandb = any(isinstance(logger, WandbLogger) for logger in trainer.loggers)
        if not isinstance(pl_module, PrefixModule) or not uses_wandb:
            return
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        keys = [p.key for predictions in pl_module.predictions.values() for p in predictions]
        data: ShardDataModule = trainer.datamodule  # type: ignore[attr-defined]
        images = data.images(keys, "val")
        for task, predictions in pl_module.predictions.items():
            rows = [
                [data.decoder(images[p.key]) if p.key in images else None, p.prompt,
                 p.prediction, " | ".join(p.references), p.correct] for p in predictions
            ]  # fmt: skip
            log_table(trainer, f"val/{task}_predictions", COLUMNS, rows)
