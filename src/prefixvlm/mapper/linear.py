"""Features in, a prefix out, by one linear layer."""

from torch import Tensor, nn

from prefixvlm.mapper.interface import Mapper, PrefixOutput, one_each


class LinearMapper(Mapper):
    """A pooled feature to all P embeddings at once, or each of N > 1 features to one embedding (LiMBeR, LLaVA-1)."""

    def __init__(
        self,
        feature_width: int,
        num_features: int,
        lm_width: int,
        prefix_length: int | None = None,
        dropout: float = 0.0,
        output_std: float | None = None,
        grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.prefix_length = one_each(prefix_length, num_features)
        self.lm_width = lm_width
        self.linear = nn.Linear(feature_width, lm_width * self.prefix_length // num_features)
        self.output = PrefixOutput(lm_width, dropout, output_std)

    def forward(self, features: Tensor) -> Tensor:
        """features: float[B, N, D] -> prefix_embeds: float[B, P, E]."""
        return self.output(self.linear(features).reshape(-1, self.prefix_length, self.lm_width))
