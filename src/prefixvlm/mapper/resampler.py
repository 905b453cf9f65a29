"""Features in, a prefix out, by learned queries that look at the features."""

import torch
from torch import Tensor, nn

from prefixvlm.mapper.attention import MLP, Attention
from prefixvlm.mapper.interface import Mapper, PrefixOutput
from prefixvlm.mapper.positions import make_positions


class Layer(nn.Module):
    """Queries look at the features and at each other in one attention (Flamingo's Perceiver resampler)."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm_features = nn.LayerNorm(width)
        self.norm_queries = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = MLP(width, mlp_ratio)

    def forward(self, queries: Tensor, features: Tensor) -> Tensor:
        """queries: float[B, P, W], features: float[B, N, W] -> float[B, P, W]."""
        normed = self.norm_queries(queries)
        queries = queries + self.attention(normed, torch.cat([self.norm_features(features), normed], dim=1))
        return queries + self.mlp(self.norm_mlp(queries))


class ResamplerMapper(Mapper):
    """N features to P embeddings for any N and P, at the cost of P x (N + P) attention.

    width: of the queries, null for lm_width.
    positions: where in the image each feature is from: None, "sincos" or "learned"; see make_positions.
    """

    def __init__(
        self,
        feature_width: int,
        num_features: int,
        lm_width: int,
        prefix_length: int = 10,
        width: int | None = None,
        num_layers: int = 2,
        num_heads: int = 8,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        output_std: float | None = None,
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
        queries = self.queries.expand(len(features), -1, -1).to(features.dtype)
        for layer in self.layers:
            queries = layer(queries, features)
        return self.output(self.project(self.norm(queries)))
