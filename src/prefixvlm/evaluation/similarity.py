"""One vector an image, to find the training images that are most alike."""

from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from prefixvlm.batch import ImageOrFeatures
from prefixvlm.data.sample import Sample
from prefixvlm.encoder.interface import ImageEncoder

BATCH_SIZE = 32


def images_of(samples: Iterable[Sample], keys: list[str]) -> Iterator[ImageOrFeatures]:
    """Yield the images of samples, and append their keys."""
    for sample in samples:
        keys.append(sample.key)
        yield sample.image


@torch.no_grad()
def mean_features(encoder: ImageEncoder, images: Iterable[ImageOrFeatures], total: int, what: str) -> Tensor:
    """Return the mean of the features of each image, with L2 norm 1: float32[B, D]. what: title of the progress bar."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder.to(device)
    means = []
    remaining = iter(tqdm(images, desc=what, total=total, delay=2))
    while batch := list(islice(remaining, BATCH_SIZE)):
        pixel_values = torch.stack([encoder.transform(image) for image in batch]).to(device)
        means.append(encoder(pixel_values).float().mean(1).cpu())
    return normalize(torch.cat(means), dim=-1) if means else torch.empty(0, encoder.feature_width)
