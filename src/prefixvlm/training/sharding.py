"""Shard a frozen language model over GPUs with FSDP2, and replicate the trained parameters with DDP."""

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
    """DDP for the trained parameters, FSDP2 for the blocks of a frozen language model that is too large for one GPU.

    A rank stores a shard of each block's frozen weights, and one whole block while it computes. Embeddings, output head
    and tuned parameters (LoRA, adapters, norms) are replicated. The model moves to the GPU block by block, so that only
    the memory of the CPU must hold all of it. The trainer needs a RankSynchronizer and inference_mode=False.
    """

    # FSDP1 would need use_orig_params=True for blocks with frozen and trained parameters, and would allocate gradients
    # for the frozen ones too (pytorch #104690).

    def setup(self, trainer: Trainer) -> None:
        module = self.lightning_module
        if not isinstance(module, PrefixModule):
            raise ValueError(
                "trainer=fsdp shards a frozen language model, and this module has none; set another trainer"
            )
        assert any(isinstance(callback, RankSynchronizer) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        lm = module.model.lm
        if not isinstance(lm.model.base_model, FSDPModule):  # a test after the fit sets the same model up again
            shard(lm, self.root_device.type)
        super().setup(trainer)  # moves the module to the GPU, so the blocks must be shards by now


def trainer_options(strategy: Any) -> dict[str, Any]:
    """Return the options that a Trainer needs for this strategy. strategy: the node of the configuration."""
    target = strategy.get("_target_", "") if isinstance(strategy, dict) else ""
    if target != f"{ShardedLMStrategy.__module__}.{ShardedLMStrategy.__qualname__}":
        return {}
    return {"inference_mode": False}  # autograd cannot save weights that were gathered in inference mode


def shard(lm: LanguageModel, device: str) -> None:
    """Shard the frozen weights of each block over all ranks; everything else is replicated.

    device: cuda or cpu, the device on which the blocks compute. Raises ValueError if the language model is not a
    decoder, is quantised, or has blocks that are trained as a whole.
    """
    if lm.encodes_prompts or not lm.generates:
        raise ValueError("trainer=fsdp shards decoders only; set trainer=ddp, or lm to a decoder")
    if getattr(lm.model, "is_quantized", False):
        raise ValueError("a quantised language model cannot be sharded; set lm.quantization=null or trainer=ddp")
    if any(all(parameter.requires_grad for parameter in block.parameters()) for block in lm.blocks):
        raise ValueError(
            "trainer=fsdp shards frozen blocks, and tune trains whole blocks; set trainer=ddp or another tune"
        )
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    base = lm.model.base_model
    for block in lm.blocks:  # DDP replicates the ignored parameters
        fully_shard(block, mesh=mesh, ignored_params={p for p in block.parameters() if p.requires_grad})
    block_parameters = {parameter for block in lm.blocks for parameter in block.parameters()}
    # The base model is the root of the blocks, so that FSDP prefetches the next block while one computes.
    fully_shard(base, mesh=mesh, ignored_params=set(base.parameters()) - block_parameters)


class RankSynchronizer(Callback):
    """Makes all ranks run the same number of forward passes, because all must take part in gathering a block.

    In evaluation a rank announces each forward pass to the others, and a rank without batches left runs dummy passes
    until every rank is done. This callback must come before callbacks that wait for the other ranks.
    """

    def __init__(self) -> None:
        self.lm: LanguageModel | None = None
        self.is_dummy = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if isinstance(pl_module, PrefixModule) and self.lm is not pl_module.model.lm:
            self.lm = pl_module.model.lm
            self.lm.model.base_model.register_forward_pre_hook(self._announce)

    def _announce(self, module: nn.Module, args: Any) -> None:
        # In training the loaders give every rank the same number of batches.
        if not torch.is_grad_enabled() and not self.is_dummy:
            self._any_rank_continues(True)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.lm is None:
            return
        # One token of one row is the cheapest pass through all blocks.
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
