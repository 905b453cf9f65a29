"""Sources and the number of an epoch go in; which shards are read and which samples make its batches come out.

Only numbers: no file is opened. The samples of an epoch are numbered as its walks meet them, a walk a source, one
walk's numbers after the other's; an epoch is the sequence of these numbers, cut into batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prefixvlm.data.loading.shard_source import ShardRef, ShardSource

Numbers = NDArray[np.int64]
ReadOrder = list[tuple[ShardRef, int]]  # shards in the order in which they are read, with their numbers of samples
PASS, MIXTURE, BUCKETS = range(3)  # what random numbers are for: no two share theirs


@dataclass(frozen=True)
class Planner:
    """Plans epochs of `length` steps of `world` batches of `batch_size` samples.

    mixed: samples are drawn by the sources' weights, and each source goes on where the last epoch left it; else an
    epoch is one pass over the one source.
    shuffle_buffer: how far a sample may move within a walk; 1: epochs are alike, in the shards' order.
    bucket_batches: within so many steps, batches are made of samples with texts of like length.
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
        if self.shuffle_buffer == 1:
            epoch = 0
        drawn, starts = self._drawn(epoch)
        numbers = np.empty(len(drawn), np.int64)
        walks: list[ReadOrder] = []
        lengths, first = [np.empty(0, np.int64)], 0
        for number, source in enumerate(self.sources):
            chosen = np.flatnonzero(drawn == number)
            walk, found = self._stretch(number, starts[number], starts[number] + len(chosen))
            numbers[chosen] = first + found
            walks.append([(source.tars[shard], source.counts[shard]) for shard in walk])
            first += sum(count for _, count in walks[-1])
            if self.bucket_batches:
                lengths += [source.lengths[shard] for shard in walk]
        if self.bucket_batches:
            numbers = self._bucketed(numbers, np.concatenate(lengths), epoch)
        return walks, numbers

    def _drawn(self, epoch: int) -> tuple[Numbers, Numbers]:
        """The source of each sample of the epoch, and how many samples of each source came before it."""
        if not self.mixed:
            return np.zeros(self._size, np.int64), np.array([epoch * self.sources[0].num_samples])
        starts = sum((self._shares(before) for before in range(epoch)), np.zeros(len(self.sources), np.int64))
        shares = np.repeat(np.arange(len(self.sources)), self._shares(epoch))
        return self._rng(epoch, MIXTURE, 1).permutation(shares), starts

    def _shares(self, epoch: int) -> Numbers:
        """How many samples of each source: with the permutation above, as if each were drawn on its own."""
        weights = np.array([source.weight for source in self.sources])
        return self._rng(epoch, MIXTURE, 0).multinomial(self._size, weights / weights.sum())

    def _stretch(self, number: int, start: int, stop: int) -> tuple[list[int], Numbers]:
        """The walk over a source's passes from its sample `start` on, and the numbers in it of those up to `stop`."""
        source = self.sources[number]
        walk, numbers = list[int](), [np.empty(0, np.int64)]
        total = source.num_samples
        for place, turn in enumerate(range(start // total, -(-stop // total))):
            shards, order = self._pass(number, turn)
            numbers.append(order[max(0, start - turn * total) : stop - turn * total] + place * total)
            walk += shards
        return walk, np.concatenate(numbers)

    def _pass(self, number: int, turn: int) -> tuple[list[int], Numbers]:
        source = self.sources[number]
        total = source.num_samples
        if self.shuffle_buffer == 1:
            return list(range(len(source.tars))), np.arange(total)
        rng = self._rng(turn, PASS, number)
        shards = rng.permutation(len(source.tars)).tolist()
        if self.shuffle_buffer >= total:
            return shards, rng.permutation(total)
        steps = rng.uniform(0, self.shuffle_buffer, total)
        return shards, np.argsort(np.arange(total) + steps, kind="stable")

    def _bucketed(self, numbers: Numbers, lengths: Numbers, epoch: int) -> Numbers:
        """Sorted by length within each window; the batches of a step are neighbours, so no rank waits for another."""
        rng = self._rng(epoch, BUCKETS, 0)
        size, windows = self.batch_size * self.world, []
        for first in range(0, len(numbers), self.bucket_batches * size):
            window = numbers[first : first + self.bucket_batches * size]
            window = window[np.argsort(lengths[window], kind="stable")]
            steps = rng.permutation(window.reshape(-1, self.world, self.batch_size))
            ranks = rng.permuted(np.tile(np.arange(self.world), (len(steps), 1)), axis=1)
            windows.append(np.take_along_axis(steps, ranks[:, :, None], axis=1).ravel())
        return np.concatenate(windows)

    @property
    def _size(self) -> int:
        return self.length * self.world * self.batch_size

    def _rng(self, number: int, use: int, which: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, number, which, use])
