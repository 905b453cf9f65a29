"""Image transforms of the encoders: from a PIL image to the pixel values that the pretrained weights expect."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize
from torchvision.transforms.functional import pil_to_tensor
from torchvision.transforms.v2.functional import resize

# open_clip and timm take seconds to import, and an encoder of one of them needs no other: hence the local imports.

MAX_PIXELS = 50_000_000  # of a resized image: a line of 1 x 20000 pixels and 161 bytes would become 224 x 4480000


class ImageTransform(Compose):
    """The steps of an evaluation transform, the last of which normalizes. It refuses images that become too large.

    exact: resize with Pillow, as the library does. Otherwise torch resizes the uint8 values with the same antialiased
        filter: vectorised, and rounded otherwise, by 0.004 of 255 levels on average (bench/pixels.py). A transform
        with steps that torch has no version of stays exact.
    """

    def __init__(self, transforms: Iterable[Any], exact: bool = True) -> None:
        super().__init__(list(transforms))
        self.exact = exact or not all(_has_tensor_version(step) for step in self.transforms[:-1])

    def __call__(self, image: Image.Image) -> Tensor:
        """Return float32[3, H, W]. Raises ValueError if the image cannot be transformed."""
        return self.normalize(self.pixels(image))

    def pixels(self, image: Image.Image) -> Tensor:
        """Return the values before they are normalized: uint8[3, H, W]. Raises ValueError as a call does."""
        for step in self.transforms:
            width, height = _resized(step, image.size)
            if width * height > MAX_PIXELS:
                raise ValueError(
                    f"the image has {image.width} x {image.height} pixels, which the encoder's transform would make "
                    f"{width} x {height}, more than {MAX_PIXELS}; crop it"
                )
        try:
            return self._pixels(image).contiguous()
        except Exception as error:  # of libraries: MemoryError, or RuntimeError of torch's allocator
            raise ValueError(f"the image cannot be transformed ({type(error).__name__}: {error})") from error

    def _pixels(self, image: Image.Image) -> Tensor:
        steps = [step for step in self.transforms[:-1] if not _is_to_tensor(step)]
        if self.exact:
            for step in steps:
                image = step(image)
            return pil_to_tensor(image)
        pixels: Tensor = pil_to_tensor(to_rgb(image))
        for step in steps:
            if isinstance(step, Resize):
                size = [step.size] if isinstance(step.size, int) else list(step.size)
                # Not step(pixels): torchvision's first version converts the whole image to float32 before.
                pixels = resize(pixels, size, step.interpolation, step.max_size)
            elif isinstance(step, CenterCrop):
                pixels = step(pixels)
        return pixels

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8[..., 3, H, W] -> float32[..., 3, H, W], to the bit as ToTensor and Normalize do."""
        step = self.transforms[-1]
        mean, std = (_channels(tuple(map(float, each)), pixels.device) for each in (step.mean, step.std))
        # By a tensor: CUDA divides by a number as a product with its reciprocal, which rounds otherwise.
        return pixels.float().div_(_channels((255.0,) * 3, pixels.device)).sub_(mean).div_(std)

    def __repr__(self) -> str:
        # It stands in the identity of stored features.
        return repr(Compose(self.transforms)) + ("" if self.exact else " of uint8 tensors")


@lru_cache(maxsize=32)  # without it every batch would wait for a copy to the GPU
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]


def _resized(step: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Return the size that a step makes of an image, if it is one that keeps the ratio of the sides."""
    target = getattr(step, "size", ())
    sides = [target] if isinstance(target, int) else list(target or ())
    # torchvision's Resize of one side; ResizeKeepRatio of open_clip and timm, where longest=0 is the shorter side.
    if "Resize" not in type(step).__name__ or (len(sides) != 1 and getattr(step, "longest", 1) == 1):
        return size
    factor = max(sides) / min(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def open_clip_transform(preprocess_cfg: dict[str, Any], exact: bool = True) -> ImageTransform:
    """Return the evaluation transform of an open_clip model: its size, interpolation, resize mode, mean and std."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    return ImageTransform(image_transform_v2(PreprocessCfg(**preprocess_cfg), is_train=False).transforms, exact)


def timm_transform(data_config: dict[str, Any], exact: bool = True) -> ImageTransform:
    """Return the evaluation transform of a timm model, for images of any mode."""
    import timm.data

    return ImageTransform([to_rgb, *timm.data.create_transform(**data_config).transforms], exact)


def is_conversion(step: Any) -> bool:
    """Return whether a step makes an RGB image, or a tensor of floats from 0 to 1, of an image."""
    names = {"MaybeConvertMode", "_convert_to_rgb"}  # open_clip's, not imported here
    return step is to_rgb or _is_to_tensor(step) or getattr(step, "__name__", type(step).__name__) in names


def _is_to_tensor(step: Any) -> bool:
    return type(step).__name__ in ("ToTensor", "MaybeToTensor")  # the latter are open_clip's and timm's


def _has_tensor_version(step: Any) -> bool:
    if type(step) is Resize:
        return step.interpolation in (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC)
    return type(step) is CenterCrop or is_conversion(step)


# The name of this function stands in the transform's repr, and so in the identity of stored features: do not rename it.
def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB, which open_clip's transforms do and timm's do not."""
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it
