"""What a mapper is: features in, the prefix embeddings that the language model reads out."""

from torch import Tensor, nn


class Mapper(nn.Module):
    """Features to a prefix. Subclasses take feature_width (D), num_features (N), lm_width (E) and what is theirs.

    prefix_length: P, how many embeddings stand for one image.
    """

    prefix_length: int

    def forward(self, features: Tensor) -> Tensor:
        """features: float[B, N, D] -> prefix_embeds: float[B, P, E]."""
        raise TypeError(f"{type(self).__name__} does not define forward")
