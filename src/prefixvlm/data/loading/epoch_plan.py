"""Plan of an epoch: shuffles shards and samples and cuts them into batches, as numbers only.

No file is opened. The samples of an epoch are numbered in the order in which they are read, the read order of one
source after that of the other. An epoch is a sequence of these numbers, cut into batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prefixvlm.data.loading.shard_source import ShardRef, ShardSource

Numbers = NDArray[np.int64]
ReadOrder = list[tuple[ShardRef, int]]  # the shards of one source in the order of reading, with their sample counts
PASS, MIXTURE, BUCKETS = range(3)  # part of the seed, so that no two uses share their random numbers


@dataclass(frozen=True)
class Planner:
    """Plans epochs of `length` steps of `world` batches of `batch_size` samples.

    mixed: draw samples by the weights of the sources, and continue each source where the last epoch left it. Otherwise
        an epoch is one pass over the one source.
    shuffle_buffer: how far a sample may move within the read order; 1 gives the order of the shards in every epoch.
    bucket_batches: within this many steps, samples with texts of similar length share a batch.
    """

    sources: Sequence[ShardSource]
    length: int
    batch_size: int
    world: int
    seed: int
    shuffle_buffer: int
    bucket_batches: int = 0
    mixed: bool = False

    def epoch(self, epoch: int) -> tuple[list[ReadOrder], Numbers]:
        """Return the read order of each source, and the numbers of the samples in the order of the batches."""
        if self.shuffle_buffer == 1:
            epoch = 0
        source_of, starts = self._draw_sources(epoch)
        numbers = np.empty(len(source_of), np.int64)
        read_orders: list[ReadOrder] = []
        lengths, first = [np.empty(0, np.int64)], 0
        for index, source in enumerate(self.sources):
            chosen = np.flatnonzero(source_of == index)
            shards, order = self._slice_of_passes(index, starts[index], starts[index] + len(chosen))
            numbers[chosen] = first + order
            read_orders.append([(source.shards[shard], source.counts[shard]) for shard in shards])
            first += sum(count for _, count in read_orders[-1])
            if self.bucket_batches:
                lengths += [source.lengths[shard] for shard in shards]
        if self.bucket_batches:
            numbers = self._bucket(numbers, np.concatenate(lengths), epoch)
        return read_orders, numbers

    def _draw_sources(self, epoch: int) -> tuple[Numbers, Numbers]:
        """Return the source of each sample of the epoch, and how many samples of each source precede the epoch."""
        if not self.mixed:
            return np.zeros(self._size, np.int64), np.array([epoch * self.sources[0].num_samples])
        starts = sum((self._draw_counts(before) for before in range(epoch)), np.zeros(len(self.sources), np.int64))
        sources = np.repeat(np.arange(len(self.sources)), self._draw_counts(epoch))
        return self._rng(epoch, MIXTURE, 1).permutation(sources), starts

    def _draw_counts(self, epoch: int) -> Numbers:
        """Draw the number of samples of each source."""
        # A multinomial and then a permutation is distributed as an independent draw for each sample, and the counts of
        # former epochs cost next to nothing.
        weights = np.array([source.weight for source in self.sources])
        return self._rng(epoch, MIXTURE, 0).multinomial(self._size, weights / weights.sum())

    def _slice_of_passes(self, index: int, start: int, stop: int) -> tuple[list[int], Numbers]:
        """Return the shards of the passes that hold samples `start` to `stop` of a source, and the order of these."""
        source = self.sources[index]
        shards, numbers = list[int](), [np.empty(0, np.int64)]
        total = source.num_samples
        for place, turn in enumerate(range(start // total, -(-stop // total))):
            pass_shards, order = self._shuffled_pass(index, turn)
            numbers.append(order[max(0, start - turn * total) : stop - turn * total] + place * total)
            shards += pass_shards
        return shards, np.concatenate(numbers)

    def _shuffled_pass(self, index: int, turn: int) -> tuple[list[int], Numbers]:
        source = self.sources[index]
        total = source.num_samples
        if self.shuffle_buffer == 1:
            return list(range(len(source.shards))), np.arange(total)
        rng = self._rng(turn, PASS, index)
        shards = rng.permutation(len(source.shards)).tolist()
        if self.shuffle_buffer >= total:
            return shards, rng.permutation(total)
        moves = rng.uniform(0, self.shuffle_buffer, total)
        return shards, np.argsort(np.arange(total) + moves, kind="stable")

    def _bucket(self, numbers: Numbers, lengths: Numbers, epoch: int) -> Numbers:
        """Sort the samples by length within windows of bucket_batches steps, then shuffle the steps."""
        rng = self._rng(epoch, BUCKETS, 0)
        size, windows = self.batch_size * self.world, []
        for first in range(0, len(numbers), self.bucket_batches * size):
            window = numbers[first : first + self.bucket_batches * size]
            window = window[np.argsort(lengths[window], kind="stable")]
            # The batches of a step are neighbours in length, so no rank waits for another; which rank gets the
            # longest is random.
            steps = rng.permutation(window.reshape(-1, self.world, self.batch_size))
            ranks = rng.permuted(np.tile(np.arange(self.world), (len(steps), 1)), axis=1)
            windows.append(np.take_along_axis(steps, ranks[:, :, None], axis=1).ravel())
        return np.concatenate(windows)

    @property
    def _size(self) -> int:
        return self.length * self.world * self.batch_size

    def _rng(self, number: int, use: int, which: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, number, which, use])
