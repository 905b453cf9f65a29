"""Saves last.ckpt every n steps, at the end of a fit, which is validated, and before stopping on a signal."""

import signal
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from prefixvlm.data.loading.train_loader import TrainLoader
from prefixvlm.distributed.signals import StoppedBySignal, signals
from prefixvlm.options.ranges import Positive
from prefixvlm.training.checkpoint_file import LAST


class LastCheckpoint(Checkpoint):
    """Saves dirpath/last.ckpt every `every_n_steps` steps, at the end, and before it stops the fit on a signal.

    A step that is followed by a validation or by the end of the epoch is saved after that, and the last step of a run
    is followed by a validation wherever it falls. A signal during a validation stops the run at once; it resumes from
    the checkpoint before that validation.
    """

    # Resumed from a checkpoint between a step and its validation or the end of its epoch, Lightning would leave those
    # out or count them wrong.

    def __init__(self, dirpath: str, every_n_steps: Positive = 20) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps is {every_n_steps}; set callbacks.last.every_n_steps to 1 or more")
        self.path, self.every_n_steps = Path(dirpath) / LAST, every_n_steps
        self.last_step = self.last_saved = 0  # global steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.last_step = self.last_saved = trainer.global_step
        _continue_in_the_loaders_steps(trainer.fit_loop)
        _begin_epoch_after_one_that_ended(trainer.fit_loop)
        # Loggers take their steps from it. A checkpoint that was saved after a validation lacks the step before that.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        signals.install()
        signals.defer = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        loop = trainer.fit_loop
        if _was_last_step(trainer):
            # Lightning validates where it is asked to stop, but not at max_steps nor in an epoch without validation.
            trainer.should_stop = True
            if not loop.epoch_loop._should_check_val_epoch():
                trainer.check_val_every_n_epoch = 1
        validates = trainer.enable_validation and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)  # type: ignore[arg-type]
        if not validates:
            self._finish_step(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals.defer = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            signals.defer = True
            self._finish_step(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish_step(trainer, epoch_ends=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals.defer = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        signals.defer = False

    def _finish_step(self, trainer: Trainer, epoch_ends: bool = False) -> None:
        """Save if a checkpoint is due, and stop if a rank has received a signal."""
        step, epoch_loop = trainer.global_step, trainer.fit_loop.epoch_loop
        if step == self.last_step or epoch_loop.batch_progress.is_last_batch > epoch_ends:
            return  # gradients are being accumulated, or the end of the epoch follows
        self.last_step = step
        # Ranks receive a signal at different times, but saving is a collective operation.
        stop = trainer.strategy.reduce_boolean_decision(bool(signals.pending), all=False)
        # What Lightning saves after the last step counts its epoch as done, so more steps could not follow in it.
        ends = epoch_ends or trainer.should_stop or step == trainer.max_steps
        if stop or ends or step // self.every_n_steps > self.last_saved // self.every_n_steps:
            self.last_saved = step
            trainer.save_checkpoint(self.path)
        if stop:
            raise StoppedBySignal(signals.pending or signal.SIGTERM)


def _was_last_step(trainer: Trainer) -> bool:
    """Return whether the run ends after this batch: by its steps or epochs, by its time, or by a callback."""
    loop: Any = trainer.fit_loop
    epochs = trainer.max_epochs
    ends_last_epoch = (
        loop.epoch_loop._num_ready_batches_reached()
        and epochs is not None
        and 0 <= epochs <= loop.epoch_progress.current.processed + 1
    )
    ends_by_steps = 0 <= trainer.max_steps <= trainer.global_step
    return ends_by_steps or ends_last_epoch or (trainer.should_stop and loop._can_stop_early)


def _continue_in_the_loaders_steps(loop: Any) -> None:
    """Begin within the epoch where its loader does. With other ranks than before, an epoch has more or fewer steps."""
    loader, current = loop._combined_loader.iterables, loop.epoch_loop.batch_progress.current
    if not loop.epoch_loop.restarting or not isinstance(loader, TrainLoader) or len(loader.parts) == 1:
        return
    more = loader.batches - current.ready
    if loader.batches == len(loader):  # nothing is left that would fill a batch
        for progress in (loop.epoch_progress.total, loop.epoch_progress.current):
            progress.processed = progress.ready
    # By addition: where Lightning resumes right, the last step may not have been completed.
    for name in ("ready", "started", "processed", "completed"):
        setattr(current, name, getattr(current, name) + more)


def _begin_epoch_after_one_that_ended(loop: Any) -> None:
    """Begin the next epoch if the checkpoint is of the end of one: with max_steps, Lightning would continue the old."""
    for progress in (loop.epoch_progress.total, loop.epoch_progress.current):
        if progress.ready == progress.processed > 0:
            progress.completed = progress.processed
            loop.reset_restart_stage()
            loop.epoch_loop.restarting = False
