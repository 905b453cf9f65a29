"""A module goes in; which of its tensors are trained, how many, and a fingerprint of the frozen ones come out."""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

SAMPLED_VALUES = 65536  # of each tensor; a whole 7B model would take a minute to hash


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """The parameters that are trained, and the buffers of the modules that hold them (BatchNorm's statistics)."""
    state: dict[str, Tensor] = {}
    for prefix, part in module.named_modules():
        own = dict(part.named_parameters(prefix, recurse=False))
        trained = {name: value for name, value in own.items() if value.requires_grad}
        state.update(trained)
        if trained:
            saved = part.state_dict(prefix=f"{prefix}." if prefix else "")
            state.update({name: value for name, value in part.named_buffers(prefix, recurse=False) if name in saved})
    return {name: value.detach() for name, value in state.items()}


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """(trained, frozen) parameters; a tied tensor counts once."""
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return trained, sum(p.numel() for p in module.parameters()) - trained


def fingerprint(module: nn.Module) -> str:
    """Tell frozen weights and buffers from others: a hash over names, shapes and evenly spaced values of each tensor.

    Values are rounded to bfloat16 first, so that a model has one fingerprint in whichever precision it is loaded.
    Weights that ranks share out are gathered, so every rank has to ask.
    """
    digest = hashlib.sha256()
    trained = trained_state(module)
    for name, tensor in sorted(module.state_dict().items()):
        if name not in trained:
            flat = _whole(tensor.detach()).flatten()
            values = flat[:: max(1, flat.numel() // SAMPLED_VALUES)].to("cpu", torch.bfloat16)
            # LoRA wraps a matrix, which stays what it was.
            digest.update(f"{name.replace('.base_layer', '')}{tuple(tensor.shape)}".encode())
            digest.update(values.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def _whole(tensor: Tensor) -> Tensor:
    if not isinstance(tensor, DTensor):
        return tensor
    shares: Any = tensor.to(tensor.device_mesh.device_type)  # after a fit Lightning leaves them on the CPU
    return shares.full_tensor()
