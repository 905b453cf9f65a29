"""Pixels in, features out, by a tower of whichever library: frozen or trained, pooled or a grid of patches."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.precision import dtype_of

RANDOM = "random"  # encoder.pretrained of a control: frozen weights that were never trained, the same in each run
LOAD_ERRORS = (
    RuntimeError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AssertionError,
    pickle.UnpicklingError,
    SafetensorError,
)


class PretrainedEncoder(ImageEncoder):
    """What the encoders of all libraries share. A subclass sets visual and transform, then calls measure.

    features: "pooled", one vector an image, or "patch", one a patch before any pooling.
    layer: which layer's patches (-2 the last but one, as in LLaVA), or several, whose patches then stand side by side
        in one feature; None is the last with its final norm.
    normalize: divide each feature by its L2 norm.
    dtype: of a frozen tower: auto (see precision.fast_dtype), float32, bfloat16 or float16; features are float32.
    image_size: height and width of pixel_values; None for the model's own. ViTs' position embeddings are interpolated.
    average_pooling: k for the means of k x k patches. pixel_shuffle: r for r x r patches side by side in one feature,
        N / r^2 of width D * r^2 (Idefics3, nanoVLM). Pooling comes first, the L2 norm last.
    """

    visual: Any  # towers share attributes, but no type

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
        """Sets the widths by a dry run, and which weights are trained: those that the features depend on."""
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
                parameter.requires_grad_(gradient is not None)  # DDP fails over a trained weight without a gradient
        self.train()

    def train(self, mode: bool = True) -> "PretrainedEncoder":
        """A frozen encoder stays in eval mode: without gradients its batch norms would still move."""
        return super().train(mode and self.trained)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """pixel_values: float[B, 3, H, W] -> features: float32[B, N, D], patches in reading order."""
        features = self._encode(pixel_values).flatten(2).transpose(1, 2)
        return F.normalize(features, dim=-1) if self.normalize else features

    def _encode(self, pixel_values: Tensor) -> Tensor:
        """pixel_values: float[B, 3, H, W] -> float32[B, D, rows, columns]; a pooled feature has one row and column."""
        pixel_values = pixel_values.to(next(self.visual.parameters()).dtype)
        device = pixel_values.device.type
        # Mixed precision is for what is trained: it would cast a frozen tower anew at each call.
        casts = not self.trained and torch.amp.is_autocast_available(device)
        own = torch.autocast(device, enabled=False) if casts else nullcontext()
        with torch.set_grad_enabled(self.trained and torch.is_grad_enabled()), own:
            if self.pooled:
                return self._pooled(pixel_values)[:, :, None, None].float()
            maps = self._joined(pixel_values).float()
            if self.average_pooling > 1:
                maps = in_squares(maps, self.average_pooling, "encoder.average_pooling").mean(dim=(3, 5))
            if self.pixel_shuffle > 1:
                squares = in_squares(maps, self.pixel_shuffle, "encoder.pixel_shuffle")
                maps = squares.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)
            return maps

    def _joined(self, pixel_values: Tensor) -> Tensor:
        """The maps of all wanted layers, side by side in width."""
        try:
            maps = self._maps(pixel_values)
        except AssertionError as error:
            if "out of range" not in str(error):  # an image's size is asserted too
                raise
            raise ValueError(
                f"encoder.layer is {self._layer()}, but this encoder has no such layer ({error})"
            ) from error
        if self.layers is not None and len(maps) != len(self.layers):
            raise ValueError(f"encoder.layer is {self._layer()}, which names a layer twice: name each once")
        grids = {f"{each.shape[2]} x {each.shape[3]}" for each in maps}
        if len(grids) > 1:
            raise ValueError(
                f"encoder.layer is {self._layer()}, whose patches are {' and '.join(sorted(grids))}: "
                "choose layers with as many patches"
            )
        return torch.cat(maps, dim=1)

    def _layer(self) -> int | list[int] | None:
        return self.layers[0] if self.layers is not None and len(self.layers) == 1 else self.layers

    def _pooled(self, pixel_values: Tensor) -> Tensor:
        """pixel_values: float[B, 3, H, W] -> float[B, D]."""
        raise TypeError(f"{type(self).__name__} does not define _pooled")

    def _maps(self, pixel_values: Tensor) -> list[Tensor]:
        """pixel_values: float[B, 3, H, W] -> for each of layers, from the first on, float[B, D, rows, columns].

        AssertionError where there is no such layer, as both libraries raise it.
        """
        raise TypeError(f"{type(self).__name__} does not define _maps")


def in_squares(maps: Tensor, size: int, key: str) -> Tensor:
    """maps: float[B, D, rows, columns] -> float[B, D, rows / size, size, columns / size, size]."""
    rows, columns = maps.shape[2:]
    if rows % size or columns % size:
        raise ValueError(f"{key} is {size}, but it must divide the grid of {rows} x {columns} patches")
    return maps.unflatten(2, (-1, size)).unflatten(4, (-1, size))


def on_meta() -> bool:
    """Whether tensors are made without values, as where only widths and sizes are wanted: nothing is loaded then."""
    return torch.get_default_device().type == "meta"


def check_random(pretrained: object, trained: bool) -> None:
    if pretrained == RANDOM and trained:
        raise ValueError(
            "encoder.pretrained is random, which is for a frozen control: set encoder.pretrained=null to train from "
            "scratch, or encoder.trained=false"
        )


@contextmanager
def fixed_random_weights(pretrained: object) -> Iterator[None]:
    """Random weights of a control are the same in each run: a checkpoint holds none, and an evaluation makes them anew.

    Those that are trained from scratch are drawn as the run's seed says.
    """
    with torch.random.fork_rng(devices=[], enabled=pretrained == RANDOM):
        if pretrained == RANDOM:
            torch.default_generator.manual_seed(210613884)  # of no run: Frozen is arXiv:2106.13884
        yield


def first_line(error: Exception) -> str:
    """What an error says first, or its kind if it says nothing, as a bare assert."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
