"""Pictures for the page: the image as the encoder sees it, and heat maps on it."""

import torch
from PIL import Image
from torch import Tensor

from prefixvlm.inspect.target import Target


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


def _normalization(transform: object) -> tuple[Tensor | None, Tensor | None]:
    """Return mean and standard deviation of the last Normalize of a torchvision or timm transform."""
    for step in reversed(getattr(transform, "transforms", [])):
        if hasattr(step, "mean") and hasattr(step, "std"):
            return torch.as_tensor(step.mean).float().flatten(), torch.as_tensor(step.std).float().flatten()
    return None, None
