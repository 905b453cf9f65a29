"""ClipCap's transformer mapper."""

import torch
from torch import Tensor, nn

from prefixvlm.mapper.attention import MLP, Attention
from prefixvlm.mapper.interface import Mapper, PrefixOutput
from prefixvlm.mapper.positions import make_positions
from prefixvlm.options.ranges import BelowOne, Layers, Length, PositiveFloat, Size


class Layer(nn.Module):
    """One pre-norm transformer layer: self-attention, then an MLP."""

    def __init__(self, width: int, num_heads: Size, mlp_ratio: PositiveFloat) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, mlp_ratio)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: float[B, T, E] -> float[B, T, E]."""
        normed = self.norm1(tokens)
        tokens = tokens + self.attention(normed, normed)
        return tokens + self.mlp(self.norm2(tokens))


class TransformerMapper(Mapper):
    """ClipCap's transformer over feature tokens and P learned constants; the outputs of the constants are the prefix.

    clip_length: number of tokens that a pooled feature is expanded to (the code's clip_length), None for
        prefix_length. Must be None for N > 1 features, of which each is one token.
    positions: None, "sincos" or "learned" position embeddings of the feature tokens; see make_positions.
    """

    def __init__(
        self,
        feature_width: int,
        num_features: int,
        lm_width: int,
        prefix_length: Length = 10,
        clip_length: Length | None = None,
        # Eight layers of eight heads with an MLP of twice the width are ClipCap's, in paper and code.
        num_layers: Layers = 8,
        num_heads: Size = 8,
        mlp_ratio: PositiveFloat = 2.0,
        dropout: BelowOne = 0.0,
        output_std: PositiveFloat | None = None,
        positions: str | None = None,
        grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if prefix_length < 1:
            raise ValueError(f"mapper.prefix_length is {prefix_length}, but it must be at least 1")
        if num_features > 1 and clip_length is not None:
            raise ValueError(
                f"mapper.clip_length is {clip_length}, but each of the encoder's {num_features} features is one token "
                f"here: set mapper.clip_length=null or encoder.features=pooled"
            )
        self.prefix_length = prefix_length
        self.lm_width = lm_width
        expansion = (clip_length or prefix_length) if num_features == 1 else 1
        self.linear = nn.Linear(feature_width, expansion * lm_width)
        self.positions = make_positions(positions, grid, lm_width)
        # A standard deviation of 1 as in ClipCap, although GPT-2's token embeddings have about 0.14.
        self.constants = nn.Parameter(torch.randn(prefix_length, lm_width))
        self.layers = nn.Sequential(*(Layer(lm_width, num_heads, mlp_ratio) for _ in range(num_layers)))
        # No final norm: ClipCap's last layer is the prefix, unless output_std sets one.
        self.output = PrefixOutput(lm_width, dropout, output_std)

    def forward(self, features: Tensor) -> Tensor:
        """features: float[B, N, D] -> prefix_embeds: float[B, P, E]."""
        tokens = self.linear(features).reshape(
            features.shape[0], -1, self.lm_width
        )  # len would fix the batch size of a graph
        tokens = self.positions(tokens)
        # In the dtype of the tokens: under autocast the float32 parameter would make the residual stream float32.
        constants = self.constants.expand(features.shape[0], -1, -1).to(tokens.dtype)
        tokens = self.layers(torch.cat([tokens, constants], dim=1))
        return self.output(tokens[:, -self.prefix_length :])
