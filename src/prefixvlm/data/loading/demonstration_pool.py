"""Shards go in; some of their samples, drawn by a seed and read again when they are wanted, come out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from prefixvlm.data.sample import Sample, decode
from prefixvlm.data.shards.read import RawSample, count_samples, read_shard


class DemonstrationPool:
    """Undecoded samples. image: one that stands in for all of theirs (blind)."""

    def __init__(self, shards: Sequence[Path], size: int, seed: int, image: Image.Image | None = None) -> None:
        counts = [count_samples(path) for path in shards]
        drawn = np.random.default_rng(seed).permutation(sum(counts))[:size]
        self._raw: list[RawSample] = []
        self.image, first = image, 0
        for path, count in zip(tqdm(shards, desc="reading demonstrations", delay=2), counts, strict=True):
            wanted = {int(number) - first for number in drawn if first <= number < first + count}
            self._raw += read_shard(path, wanted) if wanted else ()
            first += count

    @property
    def keys(self) -> list[str]:
        return [key for key, _ in self._raw]

    def __len__(self) -> int:
        return len(self._raw)

    def __getitem__(self, number: int) -> Sample:
        key, members = self._raw[number]
        return decode(key, members, "the demonstrations", self.image)
