"""Transformer blocks of a Hugging Face model: activation checkpointing and compilation, block by block."""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer


def blocks_of(model: PreTrainedModel) -> list[nn.Module]:
    """Return the blocks in the order of the forward pass. Raises ValueError for a model without blocks."""
    # transformers marks its blocks by this base class; each model gives their list another name (h, layers, block).
    blocks: list[nn.Module] = [m for m in model.base_model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not blocks:
        raise ValueError(f"{type(model).__name__} has no transformer blocks that transformers marks; set lm to another")
    return blocks


def enable_activation_checkpointing(blocks: list[nn.Module]) -> None:
    """Recompute each block in the backward pass and store only its input."""
    # transformers' own gradient_checkpointing_enable does nothing in eval mode, which a frozen model never leaves.
    # Only `forward` is replaced: names of parameters stay, and hooks (FSDP's) run once.
    for block in blocks:
        # A partial, and no closure, so that deepcopy binds it to the block of the copy.
        block.forward = partial(_checkpointed, block.forward)


def _checkpointed(forward: Any, *args: Any, **kwargs: Any) -> Any:
    has_cache = any(isinstance(value, Cache) for value in (*args, *kwargs.values()))
    # A block that is recomputed would append its keys and values to the cache twice.
    if has_cache or not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    # The reentrant variant gives no gradients if no input requires grad, as in frozen blocks (transformers #21381).
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def compile_blocks(blocks: list[nn.Module], backend: str) -> None:
    """Compile the call of each block for texts of any length. Raises ValueError for an unknown backend."""
    if backend not in torch.compiler.list_backends(exclude_tags=()):
        accepted = ", ".join(torch.compiler.list_backends())
        raise ValueError(f"lm.compile is {backend!r}; accepted are true, false and torch's backends: {accepted}")
    # Blocks and not the model: their code is alike and compiled once, and names stay, as torch.compile's wrapper would
    # prefix them. dynamic=True, since every batch has another length.
    for block in blocks:
        block.compile(dynamic=True, backend=backend)
