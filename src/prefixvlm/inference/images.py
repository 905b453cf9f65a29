"""Images as Python holds them: paths, bytes, PIL images, arrays and tensors."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from prefixvlm.data.image import ImageDecoder, read_image

ImageInput = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.generic] | Tensor
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by the number of channels


def to_image(image: ImageInput, decoder: ImageDecoder) -> Image.Image:
    """Return an upright RGB image.

    image: a path; the bytes of a JPEG, PNG or WebP; a PIL image; an array [H, W] or [H, W, C] or a tensor [C, H, W] of
        1, 3 or 4 channels: integers of 8 bits, or floats from 0 to 1.
    Raises ValueError for what is none of these, OSError for a file that cannot be read.
    """
    if isinstance(image, bytes):
        return decoder(image)
    if isinstance(image, Image.Image):
        return decoder.convert(image)
    if isinstance(image, np.ndarray):
        return decoder.convert(_from_array(image, image.shape))
    if isinstance(image, Tensor):
        return decoder.convert(_from_array(_channels_last(image), image.shape))
    if not isinstance(image, str | os.PathLike):
        raise ValueError(
            f"an image is of type {type(image).__name__}; give a path, bytes, a PIL image, an array [H, W, 3] or a "
            "tensor [3, H, W]"
        )
    data = read_image(Path(image))
    try:
        return decoder(data)
    except ValueError as error:
        raise ValueError(f"{image}: {error}") from error


def _channels_last(image: Tensor) -> NDArray[np.generic]:
    tensor = image.detach().cpu()
    tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor  # numpy has none
    return (tensor.movedim(0, -1) if tensor.ndim == 3 else tensor).numpy()


def _from_array(array: NDArray[np.generic], shape: Sequence[int]) -> Image.Image:
    """Return an image of an array [H, W] or [H, W, C]. shape: that of the given image, for messages."""
    pixels = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    channels = 1 if pixels.ndim == 2 else pixels.shape[2] if pixels.ndim == 3 else 0
    if channels not in MODES or not pixels.size:
        raise ValueError(f"an image has the shape {list(shape)}; give an array [H, W, 3] or a tensor [3, H, W]")
    if np.issubdtype(pixels.dtype, np.floating):
        if not (pixels.min() >= 0 and pixels.max() <= 1):  # also false for NaN
            raise ValueError(f"an image of floats has values from {pixels.min():g} to {pixels.max():g}; give 0 to 1")
        pixels = (pixels * 255).round().astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"an image is an array of {pixels.dtype}; give uint8, or floats from 0 to 1")
    return Image.fromarray(np.ascontiguousarray(pixels), MODES[channels])
