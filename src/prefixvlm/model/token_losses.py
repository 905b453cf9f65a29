"""Hidden states and the tokens that should follow go in; each token's loss comes out, in little memory."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 256  # tokens whose logits exist at once


class _Chunked(torch.autograd.Function):
    """The gradient is taken with the loss, chunk by chunk, so that no logits wait for the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, losses_of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        losses, gradients = [], []
        for chunk, wanted in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True):
            # A backward pass under autocast would cast the head anew for each chunk.
            with torch.enable_grad(), torch.autocast(chunk.device.type, enabled=False):
                leaf = chunk.detach().requires_grad_()
                loss = losses_of(leaf, wanted)
                gradients += torch.autograd.grad(loss.sum(), leaf)
            losses.append(loss.detach())
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0][:, None].to(gradient.dtype), None, None


def token_losses(
    hidden: Tensor,
    targets: Tensor,
    logits_of: Callable[[Tensor], Tensor],
    head_is_trained: bool = False,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross entropy of each token: float32[N].

    hidden: float[N, E']; targets: int[N]; logits_of: the head, float[n, E'] -> float32[n, V].
    """

    def losses_of(chunk: Tensor, wanted: Tensor) -> Tensor:
        return F.cross_entropy(logits_of(chunk), wanted, reduction="none", label_smoothing=label_smoothing)

    if torch.is_grad_enabled() and hidden.requires_grad and not head_is_trained:
        return _Chunked.apply(hidden, targets, losses_of)
    chunks = zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([losses_of(chunk, wanted) for chunk, wanted in chunks])
    return torch.cat([checkpoint(losses_of, chunk, wanted, use_reentrant=False) for chunk, wanted in chunks])
