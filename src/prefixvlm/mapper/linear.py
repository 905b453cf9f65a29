"""The linear mapper (Frozen, LiMBeR, the first LLaVA)."""

from torch import Tensor, nn

from prefixvlm.mapper.interface import Mapper, PrefixOutput, one_each
from prefixvlm.options.ranges import BelowOne, Length, PositiveFloat


class LinearMapper(Mapper):
    """One linear layer: a pooled feature to all P embeddings (Frozen), or each of N features to one (LiMBeR, LLaVA)."""

    def __init__(
        self,
        feature_width: int,
        num_features: int,
        lm_width: int,
        prefix_length: Length | None = None,
        dropout: BelowOne = 0.0,
        output_std: PositiveFloat | None = None,
    ) -> None:
        super().__init__()
        self.prefix_length = one_each(prefix_length, num_features)
        self.lm_width = lm_width
        # E * P for a pooled feature (N = 1); E for each of N > 1 features, where P = N.
        self.linear = nn.Linear(feature_width, lm_width * self.prefix_length // num_features)
        self.output = PrefixOutput(lm_width, dropout, output_std)

    def forward(self, features: Tensor) -> Tensor:
        """features: float[B, N, D] -> prefix_embeds: float[B, P, E]."""
        return self.output(self.linear(features).reshape(-1, self.prefix_length, self.lm_width))
