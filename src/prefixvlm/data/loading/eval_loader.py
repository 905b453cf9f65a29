"""Evaluation loader: each sample once over all ranks, in the order of the shards."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from prefixvlm.data.loading.bad_samples import BadSamples
from prefixvlm.data.loading.loader import ShardLoader
from prefixvlm.data.loading.make_batch import Collate, decode_from
from prefixvlm.data.loading.plan.epoch_order import EpochOrder
from prefixvlm.data.loading.plan.rank_worker_split import Deal, Piece, RankPlan
from prefixvlm.data.loading.plan.source_order import SourceOrder
from prefixvlm.data.loading.shard_source import ShardSource, prefetched_paths
from prefixvlm.data.sample import BLACK_IMAGE, Sample
from prefixvlm.data.shards.read import read_shard


class EvalLoader(ShardLoader):
    """Loader for validation and test: each sample once over all ranks; the last batch may be smaller.

    Each rank reads neighbouring shards of its own.

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
        shards = [shard for source in sources for shard in source.shards]
        super().__init__(sources, batch_size, collate, **kwargs)
        if limit is not None and limit < 1:
            raise ValueError(f"the limit of samples is {limit}; set it to 1 or more, or to null for all")
        self.num_samples = min(self.num_samples, limit or self.num_samples)
        if self.num_samples < self.world:
            raise ValueError(
                f"{self.num_samples} samples cannot be shared by {self.world} devices; set devices to less"
            )
        # Every rank needs a batch: Lightning stops a rank that has none, and the others would wait for it.
        self.batch_size = min(batch_size, self.num_samples // self.world)
        self.sources = [ShardSource.of(shards, [count for source in sources for count in source.counts])]
        self.fail = max_bad_fraction is None
        self.bad_samples = BadSamples(max_bad_fraction or 0, self.num_samples)
        in_order = SourceOrder(np.array(self.sources[0].counts), 1, self.seed, 0)
        order = EpochOrder([in_order], [1], [0], np.array([self.num_samples]), self.seed, 0)
        deal = Deal([Piece(0, 0, self.num_samples)], self.world, self.batch_size, lanes=1, keep_last=True)
        self.plan = RankPlan(order, deal, self.rank)

    def __len__(self) -> int:
        return self.plan.deal.num_steps(self.rank)

    def samples(self, images: bool = False) -> Iterator[Sample]:
        """Yield the samples of all ranks in order. images: decode their images, which are black otherwise."""
        image = None if images else BLACK_IMAGE
        shards = self.sources[0].shards
        samples = (
            (shard, raw)
            for shard, path in zip(shards, prefetched_paths(shards), strict=True)
            for raw in read_shard(path)
        )
        for shard, raw in islice(samples, self.num_samples):
            yield decode_from(shard, raw, image, self.decoder)

    def __iter__(self) -> Iterator[Any]:
        yield from self._read(self.plan, str(self.seed), self.bad_samples, ahead=1, fail=self.fail)
