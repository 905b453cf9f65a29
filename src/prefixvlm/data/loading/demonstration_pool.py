"""Random training samples from which few-shot demonstrations are chosen."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from prefixvlm.data.image import ImageDecoder, decode_image
from prefixvlm.data.sample import Sample, decode
from prefixvlm.data.shards.read import RawSample, count_samples, read_shard


class DemonstrationPool:
    """Holds `size` random samples, undecoded to save memory.

    image: replaces the images of all samples (blind). decoder: of the images otherwise.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        size: int,
        seed: int,
        image: Image.Image | None = None,
        decoder: ImageDecoder = decode_image,
    ) -> None:
        counts = [count_samples(path) for path in shards]
        chosen = np.random.default_rng(seed).permutation(sum(counts))[:size]
        self._raw: list[RawSample] = []
        self.image, self.decoder, start = image, decoder, 0
        for path, count in zip(tqdm(shards, desc="reading demonstrations", delay=2), counts, strict=True):
            numbers = {int(number) - start for number in chosen if start <= number < start + count}
            self._raw += read_shard(path, numbers) if numbers else ()
            start += count

    @property
    def keys(self) -> list[str]:
        return [key for key, _ in self._raw]

    def __len__(self) -> int:
        return len(self._raw)

    def __getitem__(self, number: int) -> Sample:
        key, members = self._raw[number]
        return decode(key, members, "the demonstrations", self.image, self.decoder)
