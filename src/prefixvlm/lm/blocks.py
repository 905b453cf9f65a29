"""A Hugging Face model goes in; its transformer blocks come out, compiled or keeping less for the backward pass."""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer


def blocks_of(model: PreTrainedModel) -> list[nn.Module]:
    """In reading order. Raises ValueError for a model without them."""
    blocks: list[nn.Module] = [m for m in model.base_model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not blocks:
        raise ValueError(f"{type(model).__name__} has no transformer blocks that transformers marks; set lm to another")
    return blocks


def enable_activation_checkpointing(blocks: list[nn.Module]) -> None:
    """Each block keeps only what it reads for the backward pass, and is computed again there.

    transformers' own way does nothing in eval mode, which a frozen model never leaves. Only `forward` is replaced, so
    names stay, and hooks (FSDP's) run once.
    """
    for block in blocks:
        block.forward = partial(
            _checkpointed, block.forward
        )  # unlike a closure, a partial can be copied with its model


def _checkpointed(forward: Any, *args: Any, **kwargs: Any) -> Any:
    reads_on = any(isinstance(value, Cache) for value in (*args, *kwargs.values()))
    if reads_on or not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def compile_blocks(blocks: list[nn.Module], backend: str) -> None:
    """Each block's call is compiled for texts of any length: one block's code serves all, and names stay.

    Raises ValueError for a backend that torch does not have.
    """
    if backend not in torch.compiler.list_backends(exclude_tags=()):
        accepted = ", ".join(torch.compiler.list_backends())
        raise ValueError(f"lm.compile is {backend!r}; accepted are true, false and torch's backends: {accepted}")
    for block in blocks:
        block.compile(dynamic=True, backend=backend)
