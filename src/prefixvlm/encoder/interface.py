"""What an image encoder is: pixel values in, features out; it owns its transform and its widths."""

from collections.abc import Callable

from PIL import Image
from torch import Tensor, nn


class ImageEncoder(nn.Module):
    """Pixels to features. Subclasses set the attributes in their constructor and define forward.

    feature_width: D. num_features: N, 1 for a pooled encoder.
    transform: a PIL image to float[3, H, W]; picklable, for it runs in loader workers.
    trained: False if not one weight may change; it then has no gradients and stays in eval mode.
    """

    feature_width: int
    num_features: int
    transform: Callable[[Image.Image], Tensor]
    trained: bool = False

    def forward(self, pixel_values: Tensor) -> Tensor:
        """pixel_values: float[B, 3, H, W] -> features: float[B, N, D]."""
        raise TypeError(f"{type(self).__name__} does not define forward")
