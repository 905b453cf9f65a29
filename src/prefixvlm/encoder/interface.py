"""The interface of an image encoder, and the identity of features that are stored on disk."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Identity:
    """Identity of stored features: everything that determines their values.

    encoder: the configuration node, with `_target_`, that builds the encoder. fingerprint: hash of its weights.
    transform: hash of the repr of its transform.
    grid: rows and columns of the features, None for a pooled encoder.
    """

    encoder: dict[str, Any]
    fingerprint: str
    transform: str
    num_features: int
    feature_width: int
    # Not compared: folders written before there was a grid have none, and their features are the same.
    grid: tuple[int, int] | None = field(default=None, compare=False)

    def __str__(self) -> str:
        options = ", ".join(f"{name}={value}" for name, value in self.encoder.items() if name != "_target_")
        return f"{self.fingerprint} ({options})"


class ImageEncoder(nn.Module, ABC):
    """Base class: pixel values to features. Subclasses set the attributes in their constructor and define forward.

    feature_width: D. num_features: N, 1 for a pooled encoder.
    grid: rows and columns of the N features in reading order; None for a pooled encoder, or if it is not known.
    transform: a PIL image to float[3, H, W]; must be picklable, since it runs in data loader workers.
    trained: whether any weight is trained; a frozen encoder has no gradients and stays in eval mode.
    reads_features: whether forward takes stored features in place of pixel values.
    identity: identity of the stored features that the encoder reads, None for an encoder that computes its own.
    """

    feature_width: int
    num_features: int
    grid: tuple[int, int] | None = None
    transform: Callable[[Any], Tensor]
    trained: bool = False
    reads_features: bool = False
    identity: Identity | None = None

    @property
    def loader_transform(self) -> Callable[[Any], Tensor]:
        """What data loaders apply in the place of `transform`, if `forward` takes that as well."""
        return self.transform

    def normalized(self, pixel_values: Tensor) -> Tensor:
        """Return what `transform` would have given in the place of `loader_transform`."""
        return pixel_values

    @abstractmethod
    def forward(self, pixel_values: Tensor) -> Tensor:
        """pixel_values: float[B, 3, H, W] -> features: float[B, N, D]."""
