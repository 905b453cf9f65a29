"""What a mapper is: features in, the prefix embeddings that the language model reads out."""

from torch import Tensor, nn


class Mapper(nn.Module):
    """Features to a prefix. Subclasses take feature_width (D), num_features (N), lm_width (E), grid and what is theirs.

    grid: rows and columns of the features, None where there is none; only mappers with positions look at it.
    prefix_length: P, how many embeddings stand for one image.
    """

    prefix_length: int

    def forward(self, features: Tensor) -> Tensor:
        """features: float[B, N, D] -> prefix_embeds: float[B, P, E]."""
        raise TypeError(f"{type(self).__name__} does not define forward")


class PrefixOutput(nn.Sequential):
    """The last step of every mapper: optionally a layer norm whose gain starts at output_std, then dropout.

    output_std: a fresh prefix then has the scale of the language model's token embeddings (about 0.14 for GPT-2), and
    training need not find it first. None leaves the prefix as it is, as ClipCap does.
    """

    def __init__(self, lm_width: int, dropout: float = 0.0, output_std: float | None = None) -> None:
        if not 0 <= dropout < 1:
            raise ValueError(f"mapper.dropout is {dropout}, but it must be at least 0 and below 1")
        steps: list[nn.Module] = [nn.Dropout(dropout)]
        if output_std is not None:
            if output_std <= 0:
                raise ValueError(f"mapper.output_std is {output_std}, but it must be null or above 0")
            norm = nn.LayerNorm(lm_width)
            nn.init.constant_(norm.weight, output_std)
            steps.insert(0, norm)
        super().__init__(*steps)


def one_each(prefix_length: int | None, num_features: int) -> int:
    """P of a mapper that turns each of N > 1 features into one embedding; a pooled feature may become any number."""
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
