"""Order of the samples of one source: an endless sequence of passes, each shuffled anew.

Nothing is kept for a single sample: a part of the sequence is computed when it is reached, whatever came before it.
"""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
LONGEST = 2**16  # samples of a part that is not shuffled
SHARDS, BLOCK, DRAWS, MIXTURE, BUCKETS = range(5)  # part of the seed, so that no two uses share their random numbers


def generator(seed: int, *use: int) -> np.random.Generator:
    return np.random.default_rng([seed, *use])


class SourceOrder:
    """Shuffles the shards of each pass, then the samples within blocks of `shuffle_buffer` samples.

    A place is the number of a sample in the order of reading, which goes through the permuted shards of one pass after
    those of the other: place p is sample p % num_samples of pass p // num_samples.

    counts: the number of samples of each shard.
    shuffle_buffer: 1 keeps the order of the shards.
    """

    def __init__(self, counts: Numbers, shuffle_buffer: int, seed: int, source: int) -> None:
        self.counts, self.shuffle_buffer, self.key = counts, shuffle_buffer, (seed, source)
        self.num_samples = int(counts.sum())
        self._passes: dict[int, tuple[Numbers, Numbers]] = {}

    def read_order(self, turn: int) -> tuple[Numbers, Numbers]:
        """Return the shards of a pass in the order of reading, and the place of the first sample of each in it."""
        if turn not in self._passes:
            num_shards = len(self.counts)
            shuffled = self.shuffle_buffer > 1
            shards = self._rng(SHARDS, turn).permutation(num_shards) if shuffled else np.arange(num_shards)
            self._passes = {**dict(list(self._passes.items())[-1:]), turn: (shards, _starts(self.counts[shards]))}
        return self._passes[turn]

    def block(self, start: int) -> Numbers:
        """Return the places of the samples from number `start` of the sequence to the end of its block."""
        turn, inside = divmod(start, self.num_samples)
        if self.shuffle_buffer == 1:
            return np.arange(start, start + min(LONGEST, self.num_samples - inside))
        first = inside // self.shuffle_buffer * self.shuffle_buffer
        size = min(self.shuffle_buffer, self.num_samples - first)
        order = self._rng(BLOCK, turn, first).permutation(size)
        return turn * self.num_samples + first + order[inside - first :]

    def locate(self, places: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Return for each place a number of its visit to a shard, which grows with the place; the shard; and the
        number of the sample in the shard."""
        turns, inside = np.divmod(places, self.num_samples)
        visits, shards, numbers = np.empty_like(places), np.empty_like(places), np.empty_like(places)
        for turn in np.unique(turns):
            chosen = turns == turn
            order, starts = self.read_order(int(turn))
            # Shards without samples start where the next one does, and the last of those that start there has it.
            index = np.searchsorted(starts, inside[chosen], side="right") - 1
            visits[chosen] = turn * len(order) + index
            shards[chosen], numbers[chosen] = order[index], inside[chosen] - starts[index]
        return visits, shards, numbers

    def _rng(self, use: int, *numbers: int) -> np.random.Generator:
        seed, source = self.key
        return generator(seed, use, source, *numbers)


class SourceReader:
    """Takes the samples of a source one after the other."""

    def __init__(self, order: SourceOrder, start: int) -> None:
        self.order, self.start, self.rest = order, start, np.empty(0, np.int64)

    def take(self, count: int) -> Numbers:
        """Return the places of the next samples."""
        parts = [np.empty(0, np.int64)]
        while count:
            if not len(self.rest):
                self.rest = self.order.block(self.start)
            part, self.rest = self.rest[:count], self.rest[count:]
            parts.append(part)
            self.start, count = self.start + len(part), count - len(part)
        return np.concatenate(parts)


def _starts(counts: Numbers) -> Numbers:
    return np.concatenate([[0], np.cumsum(counts[:-1])])
