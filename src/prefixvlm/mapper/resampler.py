"""The resampler: learned queries that attend to the features (Flamingo's Perceiver resampler)."""

import torch
from torch import Tensor, nn

from prefixvlm.mapper.attention import MLP, Attention
from prefixvlm.mapper.interface import Mapper, PrefixOutput
from prefixvlm.mapper.positions import make_positions
from prefixvlm.options.ranges import BelowOne, Layers, Length, PositiveFloat, Size


class Layer(nn.Module):
    """One pre-norm layer: attention of the queries to the features and to each other, then an MLP."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        # Features and queries differ in scale, so each has a norm of its own, as in Flamingo.
        self.norm_features = nn.LayerNorm(width)
        self.norm_queries = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = MLP(width, mlp_ratio)

    def forward(self, queries: Tensor, features: Tensor) -> Tensor:
        """queries: float[B, P, W], features: float[B, N, W] -> float[B, P, W]."""
        normed = self.norm_queries(queries)
        # Keys and values of the features and of the queries, in one attention: Flamingo's authors found that this
        # performs slightly better than those of the features alone.
        queries = queries + self.attention(normed, torch.cat([self.norm_features(features), normed], dim=1))
        return queries + self.mlp(self.norm_mlp(queries))


class ResamplerMapper(Mapper):
    """N features to P embeddings, for any N and P. One layer's attention costs P * (N + P).

    width: width of the queries, None for lm_width.
    positions: None, "sincos" or "learned" position embeddings of the features; see make_positions.
    """

    def __init__(
        self,
        feature_width: int,
        num_features: int,
        lm_width: int,
        prefix_length: Length = 10,
        width: Size | None = None,
        num_layers: Layers = 2,
        num_heads: Size = 8,
        mlp_ratio: PositiveFloat = 4.0,
        dropout: BelowOne = 0.0,
        output_std: PositiveFloat | None = None,
        # Off by default, as in Flamingo, which found no improvement from spatial positions of its CNN's features.
        positions: str | None = None,
        grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if prefix_length < 1:
            raise ValueError(f"mapper.prefix_length is {prefix_length}, but it must be at least 1")
        width = width or lm_width
        self.prefix_length = prefix_length
        self.queries = nn.Parameter(torch.randn(prefix_length, width))
        self.input = nn.Linear(feature_width, width)
        self.positions = make_positions(positions, grid, width)
        self.layers = nn.ModuleList(Layer(width, num_heads, mlp_ratio) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, lm_width)
        self.output = PrefixOutput(lm_width, dropout, output_std)

    def forward(self, features: Tensor) -> Tensor:
        """features: float[B, N, D] -> prefix_embeds: float[B, P, E]."""
        features = self.positions(self.input(features))
        # shape[0], not len, which would fix the batch size of an exported graph.
        # In the dtype of the features: under autocast the float32 parameter would make the residual stream float32.
        queries = self.queries.expand(features.shape[0], -1, -1).to(features.dtype)
        for layer in self.layers:
            queries = layer(queries, features)
        # Pre-norm layers leave their residual stream unnormalized, and its scale grows with the depth.
        return self.output(self.project(self.norm(queries)))
