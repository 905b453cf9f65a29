"""Run by torchrun in test_sharding.py: the same fits and tests under DDP and with a sharded language model."""

import json
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.tensor import DTensor

from prefixvlm.callbacks.frozen_guard import FrozenGuard
from prefixvlm.lm.blocks import enable_activation_checkpointing
from prefixvlm.model.trained_state import fingerprint
from prefixvlm.training.checkpoint_file import AtomicCheckpointIO
from prefixvlm.training.sharding import RankSynchronizer, ShardedLMStrategy
from tests.training.test_module import data_of, module_of


class Losses(Callback):
    def __init__(self) -> None:
        self.train, self.val = [], []

    def on_train_batch_end(self, trainer, module, outputs, *args):
        self.train.append(outputs["loss"].item())

    def on_validation_end(self, trainer, module):
        self.val.append(trainer.callback_metrics["val/loss"].item())


def share_held(lm) -> float:
    """Return the fraction of the blocks' weights that this rank holds."""
    parameters = [p for block in lm.blocks for p in block.parameters()]
    held = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in parameters)
    return held / sum(p.numel() for p in parameters)


def fit(shards: str, folder: Path, name: str, strategy: DDPStrategy, epochs: int = 3, resume: str | None = None):
    module = module_of(family="llama")
    if name == "sharded_on":
        enable_activation_checkpointing(module.model.lm.blocks)
    whole = fingerprint(module.model.lm)
    losses = Losses()
    synchronizer = [RankSynchronizer()] if isinstance(strategy, ShardedLMStrategy) else []
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy=strategy, max_epochs=epochs,
        callbacks=[*synchronizer, losses, FrozenGuard()], inference_mode=not synchronizer,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, use_distributed_sampler=False, plugins=[AtomicCheckpointIO()],
    )  # fmt: skip
    data = data_of(module, shards, batch_size=2, eval_batch_size=1, limit_val_predictions=3)
    trainer.fit(module, data, ckpt_path=resume and folder / f"{resume}.ckpt", weights_only=True)
    path = folder / f"{name}.ckpt"
    trainer.save_checkpoint(path)
    share = share_held(module.model.lm)
    same = fingerprint(module.model.lm) == whole
    num_batches = len(data.val_dataloader()[0])
    trainer.test(module, data, verbose=False)
    texts = [p.prediction for found in module.predictions.values() for p in found]
    return {
        "train": losses.train, "val": losses.val, "share": share, "same": same, "texts": texts,
        "num_batches": num_batches, "whole": whole,
    }  # fmt: skip


def main() -> None:
    shards, folder = sys.argv[1], Path(sys.argv[2])
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = {
        "ddp": fit(shards, folder, "ddp", DDPStrategy()),
        "sharded": fit(shards, folder, "sharded", ShardedLMStrategy()),
        "ddp_on": fit(shards, folder, "ddp_on", DDPStrategy(), 5, "sharded"),
        "sharded_on": fit(shards, folder, "sharded_on", ShardedLMStrategy(), 5, "ddp"),
    }
    rank = torch.distributed.get_rank()
    (folder / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
