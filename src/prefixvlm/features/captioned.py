"""Features of the training images that have captions, to find those that are like another image; kept on disk."""

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from prefixvlm.batch import ImageOrFeatures
from prefixvlm.data.feature_store import FeatureStore, KeyedDecoder, KeyedImage
from prefixvlm.data.image import ImageDecoder
from prefixvlm.data.sample import decode
from prefixvlm.data.shards.read import count_samples, read_shard
from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.encoder.mean_features import mean_features
from prefixvlm.packaged.folders import cache_folder

MIN_SECONDS = 5.0  # what takes less is not kept
logger = logging.getLogger(__name__)


def captioned_features(
    encoder: ImageEncoder, paths: Sequence[Path], decoder: ImageDecoder, what: str, device: torch.device | None = None
) -> tuple[Tensor, list[tuple[str, ...]]]:
    """Return the mean features (see mean_features) and the captions of the images of shards that have captions.

    What a frozen encoder computes is kept in the cache folder, if that takes longer than MIN_SECONDS.
    """
    store = None if encoder.trained or encoder.reads_features else _store(encoder, decoder, device)
    captions: list[tuple[str, ...]] = []
    known: dict[int, Tensor] = {}  # by the number of the image
    keys: list[bytes] = []  # of the others

    def unknown() -> Iterator[ImageOrFeatures]:
        for image in _images(paths, decoder if store is None else KeyedDecoder(decoder, store), captions):
            if not isinstance(image, KeyedImage):
                yield image
            elif (found := image.features(1)) is not None:
                known[len(captions) - 1] = torch.tensor(found[0])
            else:
                keys.append(image.key(1))
                yield image.image

    start = time.monotonic()
    computed = mean_features(encoder, unknown(), sum(map(count_samples, paths)), what, device)
    if store is not None and time.monotonic() - start > MIN_SECONDS:
        try:
            store.add(keys, computed[:, None].numpy())
        except OSError as error:
            logger.warning("features are not kept, because %s cannot be written (%s)", store.folder, error)
    rest = iter(computed)
    rows = [known[number] if number in known else next(rest) for number in range(len(captions))]
    return torch.stack(rows) if rows else computed, captions


def _images(
    paths: Sequence[Path], decoder: ImageDecoder | KeyedDecoder, captions: list[tuple[str, ...]]
) -> Iterator[ImageOrFeatures | KeyedImage]:
    """Yield the images that have captions, after appending the captions of each."""
    for path in paths:
        for key, members in read_shard(path):
            sample = decode(key, members, path.name, decoder=decoder)
            if sample.captions:
                captions.append(sample.captions)
                yield sample.image


def _store(encoder: ImageEncoder, decoder: ImageDecoder, device: torch.device | None) -> FeatureStore:
    """Return the store of this encoder. Its name is a hash of what the encoder makes of an image."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8))
    features = mean_features(encoder, [noise], 1, "", device)
    name = hashlib.sha256(repr(decoder).encode() + features.numpy().tobytes()).hexdigest()[:16]
    return FeatureStore(cache_folder() / "means" / name, 1, encoder.feature_width)
