"""Tokens in, tokens out: the pre-norm attention block of the transformer mapper and the resampler."""

import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Full (non-causal) multi-head attention; queries, keys and values without bias, the output with, as in ClipCap."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"mapper.num_heads is {num_heads}, but it must divide the mapper's width of {width}")
        self.num_heads = num_heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """tokens: float[B, Q, W], context: float[B, C, W] that they look at -> float[B, Q, W]."""
        heads = (self.query(tokens), *self.key_value(context).chunk(2, dim=-1))
        query, key, value = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in heads)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Sequential):
    def __init__(self, width: int, ratio: float) -> None:
        hidden = int(width * ratio)
        super().__init__(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
