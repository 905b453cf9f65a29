"""Sources of shards go in, the batches of an evaluation come out: each sample once over all ranks."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from prefixvlm.data.loading.bad_samples import BadSamples
from prefixvlm.data.loading.epoch_plan import ReadOrder
from prefixvlm.data.loading.planned_batches import FAIL, SKIP, Collate, decode_from
from prefixvlm.data.loading.shard_source import ShardSource, prefetched_paths
from prefixvlm.data.loading.train_loader import Loader
from prefixvlm.data.sample import Sample
from prefixvlm.data.shards.read import read_shard


class EvalLoader(Loader):
    """For validation and test: each sample once over all ranks, in the shards' order; the last batch may be smaller.

    limit: only the first so many samples. Ranks may differ by one batch: no collectives in a validation step.
    max_bad_fraction: of the samples, how many may be bad and are skipped; None: a bad sample is an error.
    """

    def __init__(
        self,
        sources: Sequence[ShardSource],
        batch_size: int,
        collate: Collate,
        limit: int | None = None,
        max_bad_fraction: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(sources, batch_size, collate, **kwargs)
        if limit is not None and limit < 1:
            raise ValueError(f"the limit of samples is {limit}; set it to 1 or more, or to null for all")
        self.num_samples = min(self.num_samples, limit or self.num_samples)
        if self.num_samples < self.world:
            raise ValueError(
                f"{self.num_samples} samples cannot be shared by {self.world} devices; set devices to less"
            )
        # Every rank needs a batch: Lightning stops a rank that has none, and the others would wait for it.
        batch_size = self.batch_size = min(batch_size, self.num_samples // self.world)
        self._starts = range(self.rank * batch_size, self.num_samples, self.world * batch_size)
        self.on_bad = FAIL if max_bad_fraction is None else SKIP
        self.budget = BadSamples(max_bad_fraction or 0, self.num_samples)

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def _walk(self) -> ReadOrder:
        return [pair for source in self.sources for pair in zip(source.tars, source.counts, strict=True)]

    def samples(self, images: bool = False) -> Iterator[Sample]:
        """All samples of all ranks, in order; their images are black unless they are asked for."""
        black = None if images else Image.new("RGB", (64, 64))
        tars = [tar for tar, _ in self._walk]
        raw = (
            (tar, sample) for tar, path in zip(tars, prefetched_paths(tars), strict=True) for sample in read_shard(path)
        )
        for tar, sample in islice(raw, self.num_samples):
            yield decode_from(tar, sample, black)

    def __iter__(self) -> Iterator[Any]:
        batches = [np.arange(start, min(start + self.batch_size, self.num_samples)) for start in self._starts]
        seeds = [str(self.seed)] * len(batches)
        yield from self._read([self._walk], batches, seeds, self.budget, self.on_bad)
