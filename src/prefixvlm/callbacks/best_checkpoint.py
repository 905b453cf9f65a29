"""Keeps the best checkpoint of a run, small and wherever the run's folder is moved."""

import os
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from prefixvlm.training.checkpoint_file import FOR_EVALUATION

PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint with small files, which eval.py reads and no run resumes from.

    A value that is not finite is never the best. A folder that was moved keeps its best checkpoints.
    """

    @property
    def state_key(self) -> str:
        # The key in the checkpoints of older runs, whose callback was Lightning's own: they keep their best value.
        return super().state_key.replace("BestCheckpoint{", "ModelCheckpoint{")

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        # Lightning would save it as the best one if there is none yet.
        return current is not None and bool(torch.isfinite(current)) and super().check_monitor_top_k(trainer, current)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning drops all values but one if the folder has another name than in the checkpoint.
        state, former = dict(state_dict), state_dict["dirpath"]
        for name in PATHS:
            state[name] = self._moved(state[name], former)
        moved = {self._moved(path, former): value for path, value in state["best_k_models"].items()}
        state["best_k_models"] = {path: value for path, value in moved.items() if path}
        super().load_state_dict({**state, "dirpath": self.dirpath})

    def _moved(self, path: str, former: str) -> str:
        """Return where a file of the former folder is now, "" for a file outside: Lightning removes surpassed ones."""
        below = os.path.relpath(path, former) if path else os.pardir
        return "" if below.startswith(os.pardir) else os.path.join(str(self.dirpath), below)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        # As ModelCheckpoint, whose save_weights_only leaves out what the report shows and the averages of Ema.
        trainer.save_checkpoint(filepath, storage_options=FOR_EVALUATION)
        self._last_global_step_saved, self._last_checkpoint_saved = trainer.global_step, filepath
