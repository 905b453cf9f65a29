"""Trained tensors of a module, parameter counts, and a fingerprint of its frozen tensors."""

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

SAMPLED_VALUES = 65536  # per tensor; hashing all of a 7B model would take a minute


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the trained parameters, and the persistent buffers of their modules (BatchNorm's statistics)."""
    state: dict[str, Tensor] = {}
    for prefix, part in module.named_modules():
        own = dict(part.named_parameters(prefix, recurse=False))
        trained = {name: value for name, value in own.items() if value.requires_grad}
        state.update(trained)
        if trained:
            saved = part.state_dict(prefix=f"{prefix}." if prefix else "")  # without buffers that are not persistent
            state.update({name: value for name, value in part.named_buffers(prefix, recurse=False) if name in saved})
    return {name: value.detach() for name, value in state.items()}


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """Return the numbers of (trained, frozen) parameters; a tied tensor counts once."""
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return trained, sum(p.numel() for p in module.parameters()) - trained


def named_parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the parts of a model by name, the head of each task as one."""
    for name, part in model.named_children():
        if name == "heads":
            yield from ((f"heads.{task}", head) for task, head in part.named_children())
        else:
            yield name, part


def fingerprint(module: nn.Module) -> str:
    """Return a hash of the frozen tensors: of their names, shapes and evenly spaced values.

    With sharded weights this is a collective operation: every rank must call it.
    """
    digest = hashlib.sha256()
    trained = trained_state(module)
    for name, tensor in sorted(module.state_dict().items()):
        if name not in trained:
            flat = _full_tensor(tensor.detach()).flatten()
            # Rounded to bfloat16, so that float32 and bfloat16 copies of a model have the same fingerprint.
            values = flat[:: max(1, flat.numel() // SAMPLED_VALUES)].to("cpu", torch.bfloat16)
            # LoRA moves a matrix to .base_layer without changing it.
            digest.update(f"{name.replace('.base_layer', '')}{tuple(tensor.shape)}".encode())
            digest.update(values.view(torch.int16).numpy().tobytes())  # numpy has no bfloat16
    return digest.hexdigest()[:16]


def _full_tensor(tensor: Tensor) -> Tensor:
    if not isinstance(tensor, DTensor):
        return tensor
    # After a fit Lightning leaves shards on the CPU, where the device mesh's backend (NCCL) cannot gather them.
    sharded: Any = tensor.to(tensor.device_mesh.device_type)
    return sharded.full_tensor()
