"""Pictures for the page: the image as the encoder sees it, heat maps to lay on it, and matrices."""

import base64
import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from prefixvlm.inspect.target import Target

FOR, AGAINST = (214, 0, 108), (20, 110, 255)  # colours that are seen on any image, in both themes
MOST_OPAQUE = 0.8
MAX_SIDE = 224  # pixels of a picture in the page


def as_seen(target: Target) -> Image.Image:
    """Return the image of a target, cropped and resized as the encoder's transform has done."""
    mean, std = _normalization(target.model.encoder.transform)
    pixels = target.pixel_values[0].float().cpu()
    if mean is None or std is None:  # a transform of another kind: the colours are not known exactly
        low, high = pixels.amin(), pixels.amax()
        pixels = (pixels - low) / (high - low).clamp_min(1e-6)
    else:
        pixels = pixels * std.view(-1, 1, 1) + mean.view(-1, 1, 1)
    array = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(array)


def image_uri(image: Image.Image) -> str:
    """Return an image of at most MAX_SIDE pixels as a data URI."""
    small = image.copy()
    small.thumbnail((MAX_SIDE, MAX_SIDE))
    return _uri(small)


def heat_uri(values: Tensor, largest: float | None = None) -> str:
    """Return signed values float[rows, columns] as a transparent picture with a pixel for each, as a data URI.

    largest: the absolute value that is the least transparent; by default the largest one.
    """
    array = values.numpy()
    scale = max(float(np.abs(array).max()) if largest is None else largest, 1e-12)
    pixels = np.zeros((*array.shape, 4), np.uint8)
    pixels[..., :3] = np.where((array >= 0)[..., None], FOR, AGAINST)
    pixels[..., 3] = (np.clip(np.abs(array) / scale, 0, 1) * MOST_OPAQUE * 255).round()
    return _uri(Image.fromarray(pixels, "RGBA"))


def _uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _normalization(transform: object) -> tuple[Tensor | None, Tensor | None]:
    """Return mean and standard deviation of the last Normalize of a torchvision or timm transform."""
    for step in reversed(getattr(transform, "transforms", [])):
        if hasattr(step, "mean") and hasattr(step, "std"):
            return torch.as_tensor(step.mean).float().flatten(), torch.as_tensor(step.std).float().flatten()
    return None, None
