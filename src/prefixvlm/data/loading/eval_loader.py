"""Evaluation loader: each sample once over all ranks, in the order of the shards."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from prefixvlm.data.loading.bad_samples import BadSamples
from prefixvlm.data.loading.epoch_plan import ReadOrder
from prefixvlm.data.loading.loader import ShardLoader
from prefixvlm.data.loading.planned_batches import FAIL, SKIP, Collate, decode_from
from prefixvlm.data.loading.rank_worker_split import eval_starts_of_rank
from prefixvlm.data.loading.shard_source import ShardSource, prefetched_paths
from prefixvlm.data.sample import BLACK_IMAGE, Sample
from prefixvlm.data.shards.read import read_shard


class EvalLoader(ShardLoader):
    """Loader for validation and test: each sample once over all ranks; the last batch may be smaller.

    limit: use only the first samples.
    max_bad_fraction: the fraction of the samples that may be bad and are skipped; None makes a bad sample an error.

    The ranks may differ by one batch, so a validation step must not contain collectives.
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
        self._starts = eval_starts_of_rank(self.num_samples, batch_size, self.rank, self.world)
        self.on_bad = FAIL if max_bad_fraction is None else SKIP
        self.bad_samples = BadSamples(max_bad_fraction or 0, self.num_samples)

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def _read_order(self) -> ReadOrder:
        return [pair for source in self.sources for pair in zip(source.shards, source.counts, strict=True)]

    def samples(self, images: bool = False) -> Iterator[Sample]:
        """Yield the samples of all ranks in order. images: decode their images, which are black otherwise."""
        image = None if images else BLACK_IMAGE
        shards = [shard for shard, _ in self._read_order]
        samples = (
            (shard, raw)
            for shard, path in zip(shards, prefetched_paths(shards), strict=True)
            for raw in read_shard(path)
        )
        for shard, raw in islice(samples, self.num_samples):
            yield decode_from(shard, raw, image, self.decoder)

    def __iter__(self) -> Iterator[Any]:
        batches = [np.arange(start, min(start + self.batch_size, self.num_samples)) for start in self._starts]
        seeds = [str(self.seed)] * len(batches)
        yield from self._read([self._read_order], batches, seeds, self.bad_samples, self.on_bad)
