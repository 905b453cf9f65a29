"""Sharding a frozen language model over GPUs with FSDP2, while DDP keeps what is trained whole on each."""

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from prefixvlm.lm.interface import LanguageModel
from prefixvlm.training.module import PrefixModule


class ShardedLMStrategy(DDPStrategy):
    """DDP for what is trained, FSDP2 for the blocks of the frozen language model, which no single GPU need hold.

    A rank holds its share of each block's frozen weights, and one whole block while it computes; embeddings, head and
    what is tuned (LoRA, adapters, norms) are whole on each. The model goes to the GPU block by block, so only the CPU's
    memory must hold all of it. The trainer needs a RankSynchronizer and inference_mode=False.
    """

    def setup(self, trainer: Trainer) -> None:
        module = self.lightning_module
        if not isinstance(module, PrefixModule):
            raise ValueError("trainer=fsdp shares out a frozen language model, and this module has none; set trainer")
        assert any(isinstance(callback, RankSynchronizer) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        lm = module.model.lm
        if not isinstance(lm.model.base_model, FSDPModule):
            shard(lm, self.root_device.type)
        super().setup(trainer)


def trainer_options(strategy: Any) -> dict[str, Any]:
    """Further options of a Trainer with this strategy, as a configuration names it."""
    target = strategy.get("_target_", "") if isinstance(strategy, dict) else ""
    if target != f"{ShardedLMStrategy.__module__}.{ShardedLMStrategy.__qualname__}":
        return {}
    return {"inference_mode": False}  # weights gathered in inference mode could not be trained through afterwards


def shard(lm: LanguageModel, device: str) -> None:
    """Share each block's frozen weights out among all ranks; everything else stays whole.

    device: cuda or cpu, where the blocks compute. Raises ValueError for a language model that cannot be shared out.
    """
    if lm.encodes_prompts or not lm.generates:
        raise ValueError("trainer=fsdp shares out decoders only; set trainer=ddp, or lm to a decoder")
    if getattr(lm.model, "is_quantized", False):
        raise ValueError("a quantised language model cannot be shared out; set lm.quantization=null or trainer=ddp")
    if any(all(parameter.requires_grad for parameter in block.parameters()) for block in lm.blocks):
        raise ValueError("trainer=fsdp shares out frozen blocks, and tune trains whole ones; set trainer=ddp or tune")
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    base = lm.model.base_model
    for block in lm.blocks:
        fully_shard(block, mesh=mesh, ignored_params={p for p in block.parameters() if p.requires_grad})
    block_parameters = {parameter for block in lm.blocks for parameter in block.parameters()}
    # As the root of the blocks the base model prefetches the next one.
    fully_shard(base, mesh=mesh, ignored_params=set(base.parameters()) - block_parameters)


class RankSynchronizer(Callback):
    """Makes all ranks run equally many forward passes, because every rank must take part in gathering a block.

    Without gradients a rank announces each forward pass; a rank without batches left runs dummy ones until every rank
    is done. It stands before callbacks that wait for the other ranks.
    """

    def __init__(self) -> None:
        self.lm: LanguageModel | None = None
        self.is_dummy = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if isinstance(pl_module, PrefixModule) and self.lm is not pl_module.model.lm:
            self.lm = pl_module.model.lm
            self.lm.model.base_model.register_forward_pre_hook(self._announce)

    def _announce(self, module: nn.Module, args: Any) -> None:
        if not torch.is_grad_enabled() and not self.is_dummy:
            self._any_rank_continues(True)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.lm is None:
            return
        ids = torch.full((1, 1), self.lm.eos_id, device=self.lm.model.device)
        self.is_dummy = True
        while self._any_rank_continues(False):
            self.lm.hidden(self.lm.embed(ids), torch.ones_like(ids, dtype=torch.bool), torch.zeros_like(ids))
        self.is_dummy = False

    on_test_epoch_end = on_validation_epoch_end

    def _any_rank_continues(self, this_rank: bool) -> bool:
        assert self.lm is not None
        continues = torch.tensor(int(this_rank), device=self.lm.model.device)
        dist.all_reduce(continues, dist.ReduceOp.MAX)
        return this_rank or bool(continues)
