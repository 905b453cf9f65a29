"""One vector an image, to find the training images that are most alike."""

from collections.abc import Iterable
from itertools import islice

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from prefixvlm.batch import ImageOrFeatures
from prefixvlm.encoder.interface import ImageEncoder

# On a CPU the activations of a larger batch leave the cache: EfficientNet-Lite2 encodes 2 times as many images a second
# in batches of 4 as in batches of 32 (2 cores of an AMD EPYC, with other work on them).
BATCH_SIZE, CPU_BATCH_SIZE = 32, 4


@torch.no_grad()
def mean_features(
    encoder: ImageEncoder,
    images: Iterable[ImageOrFeatures],
    total: int,
    what: str,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return the mean of the features of each image, with L2 norm 1: float32[B, D], on the CPU.

    what: title of the progress bar. device: where the encoder computes; None for a GPU if there is one.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    batch_size = CPU_BATCH_SIZE if device.type == "cpu" else BATCH_SIZE
    encoder.to(device)
    means = []
    remaining = iter(tqdm(images, desc=what, total=total, delay=2))
    while batch := list(islice(remaining, batch_size)):
        pixel_values = torch.stack([encoder.transform(image) for image in batch]).to(device)
        means.append(mean_of(encoder(pixel_values)).cpu())
    return torch.cat(means) if means else torch.empty(0, encoder.feature_width)


def mean_of(features: Tensor) -> Tensor:
    """float[B, N, D] -> float32[B, D], with L2 norm 1."""
    return normalize(features.float().mean(1), dim=-1)
