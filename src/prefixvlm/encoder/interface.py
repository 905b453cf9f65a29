"""What an image encoder is: pixel values in, features out; it owns its transform and its widths."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Identity:
    """Which features these are: all that has a part in their values.

    encoder: the node of the configuration, with `_target_`, that builds the encoder. fingerprint: of its weights.
    transform: a hash of what its printed form says of it. grid: rows and columns; folders of old do not say.
    """

    encoder: dict[str, Any]
    fingerprint: str
    transform: str
    num_features: int
    feature_width: int
    grid: tuple[int, int] | None = field(default=None, compare=False)

    def __str__(self) -> str:
        options = ", ".join(f"{name}={value}" for name, value in self.encoder.items() if name != "_target_")
        return f"{self.fingerprint} ({options})"


class ImageEncoder(nn.Module):
    """Pixels to features. Subclasses set the attributes in their constructor and define forward.

    feature_width: D. num_features: N, 1 for a pooled encoder.
    grid: rows and columns of N features in reading order; None for a pooled encoder, or where it is not known.
    transform: a PIL image to float[3, H, W]; picklable, for it runs in loader workers.
    trained: False if not one weight may change; it then has no gradients and stays in eval mode.
    identity: of stored features, whose; None for an encoder that computes its own.
    """

    feature_width: int
    num_features: int
    grid: tuple[int, int] | None = None
    transform: Callable[[Any], Tensor]
    trained: bool = False
    identity: Identity | None = None

    def forward(self, pixel_values: Tensor) -> Tensor:
        """pixel_values: float[B, 3, H, W] -> features: float[B, N, D]."""
        raise TypeError(f"{type(self).__name__} does not define forward")
