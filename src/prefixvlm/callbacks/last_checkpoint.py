"""A run goes in as it trains; its last checkpoint comes out, every so many steps and when a signal asks it to stop."""

import signal
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from prefixvlm.distributed.signals import StoppedBySignal, signals


class LastCheckpoint(Checkpoint):
    """Saves dirpath/last.ckpt every so many steps, at the end, and before it stops on a signal.

    A step after which a validation is due, or the epoch ends, is saved when that is over: resuming before it, Lightning
    would leave it out or count it wrong.
    During a validation a signal stops at once, and the run goes on from what was saved before it.
    """

    def __init__(self, dirpath: str, every_n_steps: int = 20) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps is {every_n_steps}; set callbacks.last.every_n_steps to 1 or more")
        self.path, self.every_n_steps = Path(dirpath) / "last.ckpt", every_n_steps
        self.seen = self.saved = 0  # global steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen = self.saved = trainer.global_step
        _begin_epoch_after_one_that_ended(trainer.fit_loop)
        signals.install()
        signals.defer = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        loop = trainer.fit_loop
        validates = trainer.enable_validation and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)  # type: ignore[arg-type]
        if not validates:
            self._step_done(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals.defer = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            signals.defer = True
            self._step_done(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step_done(trainer, epoch_ends=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals.defer = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        signals.defer = False

    def _step_done(self, trainer: Trainer, epoch_ends: bool = False) -> None:
        step, epoch_loop = trainer.global_step, trainer.fit_loop.epoch_loop
        if step == self.seen or epoch_loop.batch_progress.is_last_batch > epoch_ends:
            return  # gradients are gathered for a step, or the epoch's end follows
        self.seen = step
        stop = trainer.strategy.reduce_boolean_decision(bool(signals.asked), all=False)
        # What Lightning saves after the last step counts its epoch as done, so more steps could not follow in it.
        ends = epoch_ends or trainer.should_stop or step == trainer.max_steps
        if stop or ends or step // self.every_n_steps > self.saved // self.every_n_steps:
            self.saved = step
            trainer.save_checkpoint(self.path)
        if stop:
            raise StoppedBySignal(signals.asked or signal.SIGTERM)


def _begin_epoch_after_one_that_ended(loop: Any) -> None:
    """Where a run goes on from the end of an epoch and has max_steps, Lightning would go on with that epoch."""
    for progress in (loop.epoch_progress.total, loop.epoch_progress.current):
        if progress.ready == progress.processed > 0:
            progress.completed = progress.processed
            loop.reset_restart_stage()
            loop.epoch_loop.restarting = False
