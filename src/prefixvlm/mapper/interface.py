"""The interface of a mapper, and the output layers and the prefix length that several mappers share."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Mapper(nn.Module, ABC):
    """Base class: features to prefix embeddings.

    Constructors take the options of conf/mapper and, as far as they need them, these arguments; build.make passes only
    the ones in the signature.
    feature_width: D. num_features: N, 1 for a pooled encoder. lm_width: E.
    grid: rows and columns of the N features, None where there is no grid; for mappers with position embeddings.

    A constructor sets prefix_length: P, the number of embeddings of one image.
    """

    prefix_length: int

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """features: float[B, N, D] -> prefix_embeds: float[B, P, E]."""


class PrefixOutput(nn.Sequential):
    """The last layers of every mapper: an optional layer norm, then dropout.

    output_std: initial gain of the layer norm; None for no layer norm, as in ClipCap. With the norm, a prefix keeps
        about this size (the token embeddings of SmolLM2 have a standard deviation of 0.13, of GPT-2 0.14), and steps
        change little but its direction. Without it, a large learning rate makes the prefix a hundred times as long as
        tokens within ten steps. Which trains better depends on the learning rate (docs/measured.md).
    """

    def __init__(self, lm_width: int, dropout: float = 0.0, output_std: float | None = None) -> None:
        if not 0 <= dropout < 1:
            raise ValueError(f"mapper.dropout is {dropout}, but it must be at least 0 and below 1")
        layers: list[nn.Module] = [nn.Dropout(dropout)]
        if output_std is not None:
            if output_std <= 0:
                raise ValueError(f"mapper.output_std is {output_std}, but it must be null or above 0")
            norm = nn.LayerNorm(lm_width)
            nn.init.constant_(norm.weight, output_std)
            # Before the dropout: after it, the norm would undo the scaling by 1 / (1 - dropout).
            layers.insert(0, norm)
        super().__init__(*layers)


def one_each(prefix_length: int | None, num_features: int) -> int:
    """Return P of a mapper that turns each of N > 1 features into one embedding, or a pooled feature into any number.

    Raises ValueError if prefix_length is neither None nor N where N > 1.
    """
    if prefix_length is None:
        return num_features
    if prefix_length < 1:
        raise ValueError(
            f"mapper.prefix_length is {prefix_length}, but it must be at least 1, or null for num_features"
        )
    if num_features > 1 and prefix_length != num_features:
        raise ValueError(
            f"mapper.prefix_length is {prefix_length}, but this mapper turns each of the encoder's {num_features} "
            f"features into one embedding: set mapper.prefix_length=null, encoder.features=pooled or mapper=resampler"
        )
    return prefix_length
