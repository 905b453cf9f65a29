"""Image transforms of the encoders: from a PIL image to the pixel values that the pretrained weights expect."""

from collections.abc import Callable
from typing import Any

from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose

# open_clip and timm take seconds to import, and an encoder of one of them needs no other: hence the local imports.


def open_clip_transform(preprocess_cfg: dict[str, Any]) -> Callable[[Image.Image], Tensor]:
    """Return the evaluation transform of an open_clip model: its size, interpolation, resize mode, mean and std."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    return image_transform_v2(PreprocessCfg(**preprocess_cfg), is_train=False)


def timm_transform(data_config: dict[str, Any]) -> Callable[[Image.Image], Tensor]:
    """Return the evaluation transform of a timm model, for images of any mode."""
    import timm.data

    return Compose([to_rgb, *timm.data.create_transform(**data_config).transforms])


# The name of this function stands in the transform's repr, and so in the identity of stored features: do not rename it.
def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB, which open_clip's transforms do and timm's do not."""
    return image.convert("RGB")
