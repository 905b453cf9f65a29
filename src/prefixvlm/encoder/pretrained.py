"""What the encoders of all libraries share: frozen or trained, pooled or a grid of patch features."""

from abc import abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.encoder.loading import first_line
from prefixvlm.encoder.transforms import ImageTransform
from prefixvlm.precision import dtype_of


class PretrainedEncoder(ImageEncoder):
    """Base class of encoders with pretrained weights. A subclass sets visual and transform, then calls infer_shapes.

    features: "pooled" for one vector per image, or "patch" for one per patch, before any pooling.
    layer: layer of the patch features (-2 for the last but one, as in LLaVA), or a list of layers, concatenated along
        the width; None for the last layer with its final norm.
    normalize: whether to divide each feature by its L2 norm.
    dtype: dtype of frozen weights: auto (see precision.fast_dtype), float32, bfloat16 or float16. Features are float32.
    image_size: height and width of pixel_values; None for the model's own. Position embeddings of a ViT are
        interpolated.
    average_pooling: k to average squares of k x k patches.
    exact_pixels: see ImageTransform. True is the default for checkpoints that were trained before there was a choice.
    pixel_shuffle: r to concatenate squares of r x r patches: N / r^2 features of width D * r^2 (Idefics3, nanoVLM).
        Average pooling comes before it, the L2 norm after it.
    """

    # The library's model; models share attributes, but no type. It keeps this name because state dicts and fingerprints
    # contain it: with another, existing checkpoints of trained encoders and stored features would not be recognised.
    visual: Any
    transform: ImageTransform

    def __init__(
        self,
        features: str,
        layer: int | list[int] | None,
        normalize: bool,
        trained: bool,
        dtype: str,
        image_size: int | None,
        average_pooling: int,
        pixel_shuffle: int,
    ) -> None:
        super().__init__()
        if features not in ("pooled", "patch"):
            raise ValueError(f"encoder.features is {features!r}, but it must be pooled or patch")
        layers = [layer] if isinstance(layer, int) else layer
        if layers is not None and not (layers and all(type(each) is int for each in layers)):
            raise ValueError(f"encoder.layer is {layer!r}; it must be an int, a list of ints or null")
        for key, value in (("average_pooling", average_pooling), ("pixel_shuffle", pixel_shuffle)):
            if value < 1:
                raise ValueError(f"encoder.{key} is {value}, but it must be at least 1")
            if value > 1 and features == "pooled":
                raise ValueError(f"encoder.{key} is {value}, but only patches have a grid: set encoder.features=patch")
        if layer is not None and features == "pooled":
            raise ValueError(f"encoder.layer is {layer}, but only patches have a layer: set encoder.features=patch")
        if image_size is not None and image_size < 1:
            raise ValueError(f"encoder.image_size is {image_size}, but it must be null or at least 1")
        if trained and dtype not in ("auto", "float32"):
            raise ValueError(f"encoder.dtype is {dtype}, but a trained encoder is float32: set encoder.dtype=auto")
        self.weight_dtype = torch.float32 if trained else dtype_of("encoder.dtype", dtype)
        self.layers, self.normalize, self.trained, self.pooled = layers, normalize, trained, features == "pooled"
        self.image_size, self.average_pooling, self.pixel_shuffle = image_size, average_pooling, pixel_shuffle

    def infer_shapes(self, height: int, width: int) -> None:
        """Set the widths by a dry run, and train only the weights that the features depend on."""
        self.visual.to(self.weight_dtype).eval().requires_grad_(self.trained)
        try:
            maps = self._encode(torch.zeros(1, 3, height, width))
        except (AssertionError, RuntimeError) as error:
            if self.image_size is None:
                raise
            raise ValueError(
                f"encoder.image_size is {self.image_size}, but this encoder cannot see {height} x {width} pixels "
                f"({first_line(error)}): set another, or null for its own"
            ) from error
        _, self.feature_width, *grid = maps.shape
        self.num_features = grid[0] * grid[1]
        self.grid = None if self.pooled else (grid[0], grid[1])
        if self.trained:
            parameters = [p for p in self.visual.parameters() if p.requires_grad]
            gradients = torch.autograd.grad(maps.sum(), parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                # DDP raises an error for a trained weight without a gradient, such as those after the chosen layer.
                parameter.requires_grad_(gradient is not None)
        self.train()

    def train(self, mode: bool = True) -> "PretrainedEncoder":
        """Keep a frozen encoder in eval mode: batch norms update their statistics even without gradients."""
        return super().train(mode and self.trained)

    @property
    def loader_transform(self) -> Callable[[Any], Tensor]:
        """An image to uint8[3, H, W]: a quarter of the bytes to copy, and `forward` normalizes on its own device."""
        return self.transform.pixels

    def normalized(self, pixel_values: Tensor) -> Tensor:
        """uint8[B, 3, H, W] -> float32[B, 3, H, W]; pixel values that are no integers are normalized already."""
        return self.transform.normalize(pixel_values) if pixel_values.dtype == torch.uint8 else pixel_values

    def forward(self, pixel_values: Tensor) -> Tensor:
        """pixel_values: float[B, 3, H, W], or uint8 if not normalized -> float32[B, N, D], patches in reading order."""
        features = self._encode(pixel_values).flatten(2).transpose(1, 2)
        return F.normalize(features, dim=-1) if self.normalize else features

    def _encode(self, pixel_values: Tensor) -> Tensor:
        """pixel_values: float[B, 3, H, W] -> float32[B, D, rows, columns]; a pooled feature is one row and column."""
        pixel_values = self.normalized(pixel_values).to(next(self.visual.parameters()).dtype)
        device = pixel_values.device.type
        # Autocast caches the casts of trained weights only, so it would cast frozen ones at every call.
        without_autocast = not self.trained and torch.amp.is_autocast_available(device)
        context = torch.autocast(device, enabled=False) if without_autocast else nullcontext()
        # no_grad, not inference_mode: autograd cannot save inference tensors for the mapper's backward pass.
        # The gradient of the pixels themselves is for heat maps.
        has_gradient = (self.trained or pixel_values.requires_grad) and torch.is_grad_enabled()
        with torch.set_grad_enabled(has_gradient), context:
            if self.pooled:
                return self._pooled(pixel_values)[:, :, None, None].float()
            maps = self._concatenated(pixel_values).float()
            if self.average_pooling > 1:
                maps = split_squares(maps, self.average_pooling, "encoder.average_pooling").mean(dim=(3, 5))
            if self.pixel_shuffle > 1:
                squares = split_squares(maps, self.pixel_shuffle, "encoder.pixel_shuffle")
                maps = squares.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)
            return maps

    def _concatenated(self, pixel_values: Tensor) -> Tensor:
        """Return the maps of all chosen layers, concatenated along the width."""
        try:
            maps = self._maps(pixel_values)
        except AssertionError as error:
            if "out of range" not in str(error):  # both libraries assert the image's size, too
                raise
            raise ValueError(
                f"encoder.layer is {self._layer_option()}, but this encoder has no such layer ({error})"
            ) from error
        if self.layers is not None and len(maps) != len(self.layers):
            raise ValueError(f"encoder.layer is {self._layer_option()}, which names a layer twice: name each once")
        grids = {f"{each.shape[2]} x {each.shape[3]}" for each in maps}
        if len(grids) > 1:
            raise ValueError(
                f"encoder.layer is {self._layer_option()}, whose patches are {' and '.join(sorted(grids))}: "
                "choose layers with as many patches"
            )
        return torch.cat(maps, dim=1)

    def _layer_option(self) -> int | list[int] | None:
        """Return encoder.layer as the user wrote it, for error messages."""
        return self.layers[0] if self.layers is not None and len(self.layers) == 1 else self.layers

    @abstractmethod
    def _pooled(self, pixel_values: Tensor) -> Tensor:
        """pixel_values: float[B, 3, H, W] -> float[B, D]."""

    @abstractmethod
    def _maps(self, pixel_values: Tensor) -> list[Tensor]:
        """pixel_values: float[B, 3, H, W] -> float[B, D, rows, columns] of each chosen layer, in the model's order.

        Raises AssertionError if there is no such layer, as both libraries do.
        """


def split_squares(maps: Tensor, size: int, key: str) -> Tensor:
    """maps: float[B, D, rows, columns] -> float[B, D, rows / size, size, columns / size, size]."""
    rows, columns = maps.shape[2:]
    if rows % size or columns % size:
        raise ValueError(f"{key} is {size}, but it must divide the grid of {rows} x {columns} patches")
    return maps.unflatten(2, (-1, size)).unflatten(4, (-1, size))
