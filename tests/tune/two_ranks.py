"""Run by torchrun in test_sharding.py: tuned language models under DDP and FSDP."""

import json
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy

from prefixvlm.callbacks.frozen_guard import FrozenGuard
from prefixvlm.model.trained_state import fingerprint
from prefixvlm.task.captioning import Captioning
from prefixvlm.training.checkpoint_file import AtomicCheckpointIO
from prefixvlm.training.module import PrefixModule
from prefixvlm.training.optim import Optim
from prefixvlm.training.sharding import RankSynchronizer, ShardedLMStrategy
from prefixvlm.tune.adapters import Adapters
from prefixvlm.tune.all import All
from prefixvlm.tune.last_blocks import LastBlocks
from prefixvlm.tune.layer_norms import LayerNorms
from prefixvlm.tune.peft import Peft
from tests.conftest import MeanEncoder, TinyMapper, tiny_lm
from tests.training.test_module import data_of
from tests.training.two_ranks import Losses, share_held

TUNINGS = {
    "lora": lambda: [Peft()],
    "adapters_norms": lambda: [Adapters(attention=8), LayerNorms()],
    "last_blocks": lambda: [LastBlocks(1)],
    "all": lambda: [All()],
}


def fit(shards: str, folder: Path, tuning: str, strategy: DDPStrategy, name: str):
    lm = tiny_lm("llama")
    torch.manual_seed(0)
    for each in TUNINGS[tuning]():
        each.apply(lm)
    torch.manual_seed(0)
    task = {"captioning": Captioning(decoding={"max_new_tokens": 3})}
    module = PrefixModule(MeanEncoder(), TinyMapper(lm.width), lm, task, Optim(torch.optim.AdamW, lr=1e-2))
    whole, losses = fingerprint(lm), Losses()
    synchronizer = [RankSynchronizer()] if isinstance(strategy, ShardedLMStrategy) else []
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy=strategy, max_epochs=3,
        callbacks=[*synchronizer, losses, FrozenGuard()], inference_mode=not synchronizer,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, use_distributed_sampler=False, plugins=[AtomicCheckpointIO()],
    )  # fmt: skip
    try:
        trainer.fit(module, data_of(module, shards, batch_size=2, eval_batch_size=1, limit_val_predictions=3))
    except ValueError as error:
        return {"error": str(error)}
    trainer.save_checkpoint(folder / f"{tuning}_{name}.ckpt")
    return {
        "train": losses.train,
        "val": losses.val,
        "share": share_held(lm),
        "same": fingerprint(lm) == whole,
    }


def main() -> None:
    shards, folder = sys.argv[1], Path(sys.argv[2])
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    results = {}
    for tuning in TUNINGS:
        for name, strategy in (("ddp", DDPStrategy()), ("fsdp", ShardedLMStrategy())):
            results[f"{tuning}_{name}"] = fit(shards, folder, tuning, strategy, name)
    (folder / f"{torch.distributed.get_rank()}.json").write_text(json.dumps(results))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
