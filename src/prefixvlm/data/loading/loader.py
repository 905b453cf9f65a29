"""Base classes of the loaders: their options, and the worker processes that make their batches."""

import os
from collections.abc import Iterator, Sequence
from multiprocessing.queues import Queue
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from prefixvlm.data.image import ImageDecoder, decode_image
from prefixvlm.data.loading.bad_samples import BadSamples
from prefixvlm.data.loading.make_batch import BatchMaker, Collate
from prefixvlm.data.loading.plan.rank_worker_split import RankPlan
from prefixvlm.data.loading.planned_batches import PlannedBatches
from prefixvlm.data.loading.shard_source import ShardSource
from prefixvlm.options.ranges import Positive, Workers, check_value


class Loader:
    """Base class of all loaders.

    collate: makes a batch of samples. It runs in the workers, so it must be picklable. Its random generator depends
        only on (seed, epoch, step), not on the number of workers or ranks.
    rank, world: must be those of the main process, because a spawned worker has no process group.
    blind: replace all images by one black image; none is decoded. decoder: of the images otherwise.
    """

    def __init__(
        self,
        sources: Sequence[ShardSource],
        batch_size: int,
        collate: Collate,
        num_workers: int = 0,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        blind: bool = False,
        decoder: ImageDecoder = decode_image,
    ) -> None:
        check_value("data.batch_size", batch_size, Positive)
        check_value("data.num_workers", num_workers, Workers)
        self.sources = sources
        self.batch_size, self.collate, self.num_workers, self.seed = batch_size, collate, num_workers, seed
        self.rank, self.world, self.blind, self.decoder = rank, world, blind, decoder

    def _in_workers(self, dataset: IterableDataset) -> DataLoader:
        """Return the results of a dataset that makes whole batches, in worker processes."""
        return DataLoader(
            dataset,
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # without one, each epoch draws from torch's global generator
            worker_init_fn=_end_with_its_queue,
        )


class ShardLoader(Loader):
    """Base class of TrainLoader and EvalLoader, whose sources are counted and whose batches are planned."""

    def __init__(self, sources: Sequence[ShardSource], *args: Any, **kwargs: Any) -> None:
        super().__init__(sources, *args, **kwargs)
        for source in sources:
            if not source.num_samples:
                paths = ", ".join(str(shard.path) for shard in source.shards)
                raise ValueError(f"the shards {paths} hold no samples; set data.shards to others")
        self.num_samples = sum(source.num_samples for source in sources)

    def _read(
        self,
        plan: RankPlan,
        seed: str,
        bad_samples: BadSamples,
        ahead: int,
        reach: int = 0,
        fail: bool = False,
        replace: bool = False,
    ) -> Iterator[Any]:
        maker = BatchMaker(self.collate, self.blind, fail, self.decoder)
        for result in self._in_workers(PlannedBatches(self.sources, plan, maker, seed, ahead, reach, replace)):
            if isinstance(result, Exception):
                raise result
            batch, bad = result
            bad_samples.add(bad)
            if batch is not None:
                yield batch


def _end_with_its_queue(_: int) -> None:
    """Let a worker end that cannot hand a batch over, mostly because /dev/shm is full."""
    # Python prints the error of the queue's thread and drops the batch, for which the loader would wait for ever.
    Queue._on_queue_feeder_error = staticmethod(lambda error, batch: os._exit(1))  # type: ignore[attr-defined]
