"""Cross entropy of tokens, computed in chunks so that the logits take little memory."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 256  # tokens per chunk; their logits are 51 MB for GPT-2's 50257 tokens


class _Chunked(torch.autograd.Function):
    """Cross entropy with its gradient computed in the forward pass, chunk by chunk."""

    # No logits are stored for the backward pass, and none are computed twice. torch's linear_cross_entropy saves the
    # memory, too, but takes a bare matrix in the place of a head, and is about twice as slow on CPUs.

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, losses_of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        losses, gradients = [], []
        for chunk, chunk_targets in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True):
            # Under autocast the backward pass would cast the head again for each chunk.
            with torch.enable_grad(), torch.autocast(chunk.device.type, enabled=False):
                leaf = chunk.detach().requires_grad_()
                loss = losses_of(leaf, chunk_targets)
                gradients += torch.autograd.grad(loss.sum(), leaf)
            losses.append(loss.detach())
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None]:
        # Each loss depends on one hidden state alone, so scaling its gradient is the whole chain rule.
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0][:, None].to(gradient.dtype), None, None


def token_losses(
    hidden: Tensor,
    targets: Tensor,
    logits_of: Callable[[Tensor], Tensor],
    head_is_trained: bool = False,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the cross entropy of each token: float32[N].

    hidden: float[N, E']; targets: int[N]; logits_of: the head, float[n, E'] -> float32[n, V].
    """

    def losses_of(chunk: Tensor, chunk_targets: Tensor) -> Tensor:
        return F.cross_entropy(logits_of(chunk), chunk_targets, reduction="none", label_smoothing=label_smoothing)

    if torch.is_grad_enabled() and hidden.requires_grad and not head_is_trained:
        return _Chunked.apply(hidden, targets, losses_of)
    chunks = zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([losses_of(chunk, chunk_targets) for chunk, chunk_targets in chunks])
    # _Chunked has no gradient for the head's weights: a trained head recomputes its logits in the backward pass.
    return torch.cat([checkpoint(losses_of, *chunk, use_reentrant=False) for chunk in chunks])
