"""The MLP mapper (ClipCap's MLP, LLaVA-1.5's projector)."""

from torch import Tensor, nn

from prefixvlm.mapper.interface import Mapper, PrefixOutput, one_each
from prefixvlm.options.ranges import BelowOne, Length, PositiveFloat

ACTIVATIONS = {"tanh": nn.Tanh, "gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}


class MLPMapper(Mapper):
    """Two linear layers: a pooled feature to all P embeddings (ClipCap), or each of N features to one (LLaVA-1.5).

    hidden_ratio: hidden width over output width; ClipCap has 0.5 with tanh, LLaVA-1.5 1.0 with gelu.
    """

    def __init__(
        self,
        feature_width: int,
        num_features: int,
        lm_width: int,
        prefix_length: Length | None = None,
        hidden_ratio: PositiveFloat = 0.5,
        activation: str = "tanh",
        dropout: BelowOne = 0.0,
        output_std: PositiveFloat | None = None,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"mapper.activation is {activation!r}, but it must be one of {', '.join(ACTIVATIONS)}")
        self.prefix_length = one_each(prefix_length, num_features)
        self.lm_width = lm_width
        output_width = lm_width * self.prefix_length // num_features
        # The hidden width follows the output's, as in ClipCap: the second layer has nine tenths of the weights at
        # P = 10, and their number grows with the square of P.
        hidden_width = int(output_width * hidden_ratio)
        if hidden_width < 1:
            raise ValueError(f"mapper.hidden_ratio is {hidden_ratio}, which leaves no hidden width: set it above 0")
        self.mlp = nn.Sequential(
            nn.Linear(feature_width, hidden_width), ACTIVATIONS[activation](), nn.Linear(hidden_width, output_width)
        )
        self.output = PrefixOutput(lm_width, dropout, output_std)

    def forward(self, features: Tensor) -> Tensor:
        """features: float[B, N, D] -> prefix_embeds: float[B, P, E]."""
        return self.output(self.mlp(features).reshape(-1, self.prefix_length, self.lm_width))
