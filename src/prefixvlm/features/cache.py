"""Keeps the features that a frozen encoder computes in the first epoch, for the epochs and runs after it."""

import logging
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prefixvlm.batch import Batch
from prefixvlm.data.feature_store import FeatureStore, KeyedDecoder
from prefixvlm.data.image import ImageDecoder
from prefixvlm.encoder.interface import ImageEncoder

logger = logging.getLogger(__name__)


class FeatureCache:
    """Completes batches with the features of their images, and stores those that it had to compute."""

    def __init__(
        self, encoder: ImageEncoder, store: FeatureStore, must_be_exact: bool, limit: int | None = None
    ) -> None:
        """limit: of the images whose features this process stores."""
        self.encoder, self.store, self.must_be_exact, self.limit = encoder, store, must_be_exact, limit
        self._is_checked, self._stores = False, True

    def decoder(self, decode: ImageDecoder) -> KeyedDecoder:
        """Return what opens the images of training and validation."""
        return KeyedDecoder(decode, self.store)

    def complete(self, batch: Any) -> Any:
        """Return the batch, or list of batches, with features float32[B, N, D] as pixel_values."""
        if isinstance(batch, list):
            return [self.complete(each) for each in batch]
        if not isinstance(batch, Batch) or batch.features_index is None:
            return batch
        computed = self._encode(batch.pixel_values, len(batch.features_index))
        self._store(batch.image_keys, computed)
        both = computed if batch.features is None else torch.cat([batch.features, computed])
        features = both[batch.features_index]
        return replace(batch, pixel_values=features, features=None, features_index=None, image_keys=[])

    @torch.no_grad()
    def _encode(self, pixel_values: Tensor, num_images: int) -> Tensor:
        """pixel_values: uint8 or float[M, 3, H, W] -> float32[M, N, D], as in a batch of num_images images."""
        if not (missing := len(pixel_values)):
            return pixel_values.new_empty(0, *self.store.shape, dtype=torch.float32)
        # The shape of the whole batch, because kernels round alike only in batches of the same shape.
        padding = pixel_values.new_zeros(num_images - missing, *pixel_values.shape[1:])
        features = self.encoder(torch.cat([pixel_values, padding]))[:missing]
        if not self._is_checked and missing == num_images > 1:
            self._check_order(pixel_values, features)
        return features

    def _check_order(self, pixel_values: Tensor, features: Tensor) -> None:
        """Stop storing if the features of an image depend on its place in the batch."""
        self._is_checked = True
        other = self.encoder(pixel_values.roll(1, 0)).roll(-1, 0)
        if torch.equal(other, features):
            return
        found = (
            f"the features of an image differ by up to {(other - features).abs().max():.1e} with its place in the batch"
        )
        self._stores = not self.must_be_exact
        then = "are kept all the same, as data.cache_features=true asks" if self._stores else "are not kept"
        logger.warning("%s, so that they could not be equal to the bit, and %s", found, then)

    def _store(self, keys: list[bytes], features: Tensor) -> None:
        chosen = [number for number, key in enumerate(keys) if key]
        if not self._stores or not chosen:
            return
        if self.limit is not None and self.store.num_written + len(chosen) > self.limit:
            self._stores = False
            logger.warning("no more features are kept, because batches have too many different numbers of images")
            return
        try:
            self.store.add([keys[number] for number in chosen], features[chosen].cpu().numpy())
        except OSError as error:
            self._stores = False
            logger.warning("no more features are kept, because %s cannot be written (%s)", self.store.folder, error)
