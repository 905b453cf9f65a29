"""Multi-head attention and the MLP of a pre-norm transformer layer, for the transformer mapper and the resampler."""

import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention without a causal mask."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"mapper.num_heads is {num_heads}, but it must divide the mapper's width of {width}")
        self.num_heads = num_heads
        # Biases as in ClipCap: none on queries, keys and values, one on the output. Keys and values share a matrix as
        # in its code, so that its published weights load without being cut.
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """tokens: float[B, Q, W], the queries; context: float[B, C, W], the keys and values -> float[B, Q, W]."""
        heads = (self.query(tokens), *self.key_value(context).chunk(2, dim=-1))
        query, key, value = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in heads)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.out(attended.transpose(1, 2).flatten(2))


class MLP(nn.Sequential):
    """Two linear layers. ratio: hidden width over width."""

    def __init__(self, width: int, ratio: float) -> None:
        hidden = int(width * ratio)
        # ReLU where GPT-2 has GELU: ClipCap's transformer has it, and its weights were trained with it.
        super().__init__(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
