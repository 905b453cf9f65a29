"""Dataset of the batches of a planned epoch, which the worker processes of a loader read and collate."""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from prefixvlm.data.loading.make_batch import BatchMaker
from prefixvlm.data.loading.plan.epoch_order import PLACE, SOURCE, Order
from prefixvlm.data.loading.plan.rank_worker_split import RankPlan
from prefixvlm.data.loading.sample_reader import SampleReader
from prefixvlm.data.loading.shard_source import ShardRef, ShardSource
from prefixvlm.data.shards.read import RawSample

MAX_REPLACEMENTS = 64


class PlannedBatches(IterableDataset):
    """Yields the planned batches of one rank, each with its bad samples; of W workers each makes every W-th batch.

    ahead: a worker reads so many samples of a lane's order together; it holds its own of them, undecoded.
    reach: how far, in samples, the order of a lane departs from that of its shards.
    seed: of the random generator of a batch; it may have {step} in it.
    replace: make a batch that has bad samples only of the next good sample in the order of reading instead of leaving
        it out (None). Which one that is depends neither on the number of workers nor on where a run is resumed.
    """

    def __init__(
        self,
        sources: Sequence[ShardSource],
        plan: RankPlan,
        maker: BatchMaker,
        seed: str,
        ahead: int,
        reach: int,
        replace: bool,
    ) -> None:
        self.sources, self.plan, self.maker, self.seed = sources, plan, maker, seed
        self.ahead, self.replace = max(ahead, plan.deal.batch_size), replace
        self.keep = -(-reach // self.ahead) + 1  # parts of the order within which a shard may come again

    def __iter__(self) -> Iterator[Any]:
        lanes: dict[int, Generator[tuple[Order, list[tuple[ShardRef, RawSample]]], None, None]] = {}
        try:
            for step in self.plan.steps_of_worker():
                lane = self.plan.deal.sequence_of(self.plan.rank, step)
                if lane not in lanes:
                    lanes[lane] = self._read_lane(lane)
                order, samples = next(lanes[lane])
                seed = self.seed.format(step=step)
                batch, bad = self.maker.make(samples, seed)
                if isinstance(batch, str):
                    batch = self._replacement(order[-1], seed, batch) if self.replace else None
                yield batch, bad
        except (ValueError, OSError) as error:
            yield error  # torch would put the worker's traceback into the message of an exception that is raised
        finally:
            for reading in lanes.values():
                reading.close()

    def _read_lane(self, lane: int) -> Generator[tuple[Order, list[tuple[ShardRef, RawSample]]], None, None]:
        """Yield the batches of a lane that this worker makes: where their samples stand, and the samples."""
        with closing(self._reader()) as reader:
            yield from self._batches_of_lane(lane, reader)

    def _batches_of_lane(
        self, lane: int, reader: SampleReader
    ) -> Iterator[tuple[Order, list[tuple[ShardRef, RawSample]]]]:
        ready: deque[tuple[Order, list[tuple[ShardRef, RawSample]]]] = deque()
        for batches in self.plan.samples_of_worker(lane, self.ahead):
            order = np.concatenate(batches)
            samples: dict[int, tuple[ShardRef, RawSample]] = {}
            reading = reader.read(order)
            # While the batches of one part are used up, the next part is read, so that reading pauses nowhere.
            share = -(-len(order) // max(1, len(ready)))
            while ready:
                yield ready.popleft()
                samples.update(islice(reading, share))
            samples.update(reading)
            first = 0
            for batch in batches:
                ready.append((batch, [samples.pop(row) for row in range(first, first + len(batch))]))
                first += len(batch)
        yield from ready

    def _reader(self) -> SampleReader:
        return SampleReader(self.sources, self.plan.order.sources, self.keep)

    def _replacement(self, after: Order, seed: str, reason: str) -> Any:
        """Return a batch of the first good sample that is read after this one. Raises ValueError if none is nearby."""
        source, place = after.tolist()
        count = min(MAX_REPLACEMENTS, self.plan.order.sources[source].num_samples - 1)
        candidates = np.empty((count, 2), np.int64)
        candidates[:, SOURCE], candidates[:, PLACE] = source, place + 1 + np.arange(count)
        with closing(self._reader()) as reader:
            for _, sample in reader.read(candidates):
                batch, _ = self.maker.make([sample], seed)
                if not isinstance(batch, str):
                    return batch
        raise ValueError(f"{reason}; the same holds for its whole batch and the {count} samples after it")
