"""Image transforms of the encoders: from a PIL image to the pixel values that the pretrained weights expect."""

from collections.abc import Callable
from typing import Any

from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose, ToTensor

# open_clip and timm take seconds to import, and an encoder of one of them needs no other: hence the local imports.

MAX_PIXELS = 50_000_000  # of a resized image: a line of 1 x 20000 pixels and 161 bytes would become 224 x 4480000


class ImageTransform(Compose):
    """The steps of a transform, for images that they do not make too large."""

    def __call__(self, image: Image.Image) -> Tensor:
        """Raise ValueError if the image cannot be transformed."""
        for step in self.transforms:
            width, height = _resized(step, image.size)
            if width * height > MAX_PIXELS:
                raise ValueError(
                    f"the image has {image.width} x {image.height} pixels, which the encoder's transform would make "
                    f"{width} x {height}, more than {MAX_PIXELS}; crop it"
                )
        try:
            pixel_values: Tensor = super().__call__(image)
        except Exception as error:  # of libraries: MemoryError, or RuntimeError of torch's allocator
            raise ValueError(f"the image cannot be transformed ({type(error).__name__}: {error})") from error
        return pixel_values

    def __repr__(self) -> str:
        return repr(Compose(self.transforms))  # it stands in the identity of stored features


def _resized(step: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Return the size that a step makes of an image, if it is one that keeps the ratio of the sides."""
    target = getattr(step, "size", ())
    sides = [target] if isinstance(target, int) else list(target or ())
    # torchvision's Resize of one side; ResizeKeepRatio of open_clip and timm, where longest=0 is the shorter side.
    if "Resize" not in type(step).__name__ or (len(sides) != 1 and getattr(step, "longest", 1) == 1):
        return size
    factor = max(sides) / min(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def open_clip_transform(preprocess_cfg: dict[str, Any]) -> Callable[[Image.Image], Tensor]:
    """Return the evaluation transform of an open_clip model: its size, interpolation, resize mode, mean and std."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    return ImageTransform(image_transform_v2(PreprocessCfg(**preprocess_cfg), is_train=False).transforms)


def timm_transform(data_config: dict[str, Any]) -> Callable[[Image.Image], Tensor]:
    """Return the evaluation transform of a timm model, for images of any mode."""
    import timm.data

    return ImageTransform([to_rgb, *timm.data.create_transform(**data_config).transforms])


def is_conversion(step: Any) -> bool:
    """Return whether a step makes an RGB image, or a tensor of floats from 0 to 1, of an image."""
    names = {"MaybeConvertMode", "_convert_to_rgb", "MaybeToTensor"}  # open_clip's and timm's, not imported here
    return step is to_rgb or type(step) is ToTensor or getattr(step, "__name__", type(step).__name__) in names


# The name of this function stands in the transform's repr, and so in the identity of stored features: do not rename it.
def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB, which open_clip's transforms do and timm's do not."""
    return image.convert("RGB")
