"""A module goes in; its frozen language model comes out shared by the ranks, and what is trained whole on each."""

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
    """DDP for what is trained, FSDP2 for the frozen language model's blocks: for one that no single GPU holds.

    A rank holds its share of each block's frozen weights, and one whole block while it computes; embeddings, head and
    what is tuned (LoRA, adapters, norms) are whole on each.
    The model goes to the GPU block by block, so only the CPU's memory must hold all of it.
    """

    def setup(self, trainer: Trainer) -> None:
        module = self.lightning_module
        if not isinstance(module, PrefixModule):
            raise ValueError("trainer=fsdp shares out a frozen language model, and this module has none; set trainer")
        lm = module.model.lm
        if not isinstance(lm.model.base_model, FSDPModule):
            shard(lm, self.root_device.type)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, RankSynchronizer) and callback.lm is lm for callback in callbacks):
            callbacks.insert(0, RankSynchronizer(lm))  # before those that wait for the other ranks
        val_loop = trainer.fit_loop.epoch_loop.val_loop
        for loop in (val_loop, trainer.validate_loop, trainer.test_loop, trainer.predict_loop):
            loop.inference_mode = False  # weights gathered in inference mode could not be trained through afterwards
        super().setup(trainer)


def shard(lm: LanguageModel, device: str) -> None:
    """Share each block's frozen weights out among all ranks; all else stays whole.

    device: cuda or cpu, where they compute. Raises ValueError for a language model that cannot be shared out.
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
    of_blocks = {parameter for block in lm.blocks for parameter in block.parameters()}
    fully_shard(base, mesh=mesh, ignored_params=set(base.parameters()) - of_blocks)  # lets blocks be fetched ahead


class RankSynchronizer(Callback):
    """Makes ranks read equally often, whatever their batches and texts: a block is gathered by all ranks or none.

    Without gradients a rank tells the others before it reads; who has read all goes on with a dummy while others read.
    """

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm
        self.waits = False
        lm.model.base_model.register_forward_pre_hook(self._announce)

    def _announce(self, module: nn.Module, args: Any) -> None:
        if not torch.is_grad_enabled() and not self.waits:
            self._tell(True)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        ids = torch.full((1, 1), self.lm.eos_id, device=self.lm.model.device)
        self.waits = True
        while self._tell(False):
            self.lm.hidden(self.lm.embed(ids), torch.ones_like(ids, dtype=torch.bool), torch.zeros_like(ids))
        self.waits = False

    on_test_epoch_end = on_validation_epoch_end

    def _tell(self, reads: bool) -> bool:
        """Whether any rank reads."""
        anyone = torch.tensor(int(reads), device=self.lm.model.device)
        dist.all_reduce(anyone, dist.ReduceOp.MAX)
        return reads or bool(anyone)
