"""Order of the samples of an epoch: mixes the sources by their weights, in lanes that read different shards.

No file is opened, and nothing is kept for a single sample: the order of a lane is computed part by part.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from prefixvlm.data.loading.plan.source_order import (
    BUCKETS,
    DRAWS,
    MIXTURE,
    Numbers,
    SourceOrder,
    SourceReader,
    generator,
)

Order = Numbers  # int64[samples, 2]: the source of each sample, and its place in the order of the source
SOURCE, PLACE = 0, 1
ROW = 2**16  # samples of a lane whose sources are drawn together


class EpochOrder:
    """The samples of an epoch in lanes, each a part of every source that no other lane has.

    lane_sizes: int64[lanes], the number of samples of each lane.
    weights: of the sources. positions: how many samples of each source precede the epoch.
    lengths: returns the text lengths of samples, if these are to share batches with samples of similar length.
    window: within so many samples of a lane they are sorted by length; steps of `world` batches of `batch_size`
        samples are then shuffled.
    """

    def __init__(
        self,
        sources: Sequence[SourceOrder],
        weights: Sequence[float],
        positions: Sequence[int],
        lane_sizes: Numbers,
        seed: int,
        epoch: int,
        lengths: Callable[[Order], Numbers] | None = None,
        window: int = 0,
        batch_size: int = 1,
        world: int = 1,
    ) -> None:
        self.sources, self.seed, self.epoch, self.lane_sizes = sources, seed, epoch, lane_sizes
        self.lengths, self.window, self.step = lengths, window, (world, batch_size)
        # In a multinomial draw of so many samples, permuted, each sample is drawn independently; and where a lane
        # begins in each source is known from numbers of draws alone.
        rows = -(-lane_sizes // ROW)
        self.first_rows = np.concatenate([[0], np.cumsum(rows)])
        sizes = np.full(self.first_rows[-1], ROW)
        last, size_of_last = self.first_rows[1:] - 1, lane_sizes - (rows - 1) * ROW
        sizes[last[rows > 0]] = size_of_last[rows > 0]  # a lane without samples has no row
        share = np.asarray(weights) / np.sum(weights)
        draws = generator(seed, DRAWS, epoch).multinomial(sizes, share) if len(sources) > 1 else sizes[:, None]
        self.starts = np.concatenate([[positions], positions + np.cumsum(draws, axis=0)])

    @property
    def end(self) -> list[int]:
        """How many samples of each source precede the next epoch."""
        return self.starts[-1].tolist()

    def lane(self, lane: int, start: int, stop: int) -> Iterator[Order]:
        """Yield the samples of a lane from number `start` to `stop`, part by part."""
        parts = self._bucketed(lane, start) if self.window else self._mixed(lane, start)
        return take(parts, stop - start)

    def _mixed(self, lane: int, start: int) -> Iterator[Order]:
        first, last = self.first_rows[lane] + start // ROW, self.first_rows[lane + 1]
        readers = [
            SourceReader(source, at) for source, at in zip(self.sources, self.starts[first].tolist(), strict=True)
        ]
        skip = start % ROW
        for row, (before, after) in zip(range(first, last), pairwise(self.starts[first : last + 1]), strict=True):
            source = np.repeat(np.arange(len(readers)), after - before)
            if len(readers) > 1:
                source = generator(self.seed, MIXTURE, self.epoch, row).permutation(source)
            order = np.empty((len(source), 2), np.int64)
            order[:, SOURCE] = source
            for index, count in enumerate((after - before).tolist()):
                order[source == index, PLACE] = readers[index].take(count)
            yield order[skip:]
            skip = 0

    def _bucketed(self, lane: int, start: int) -> Iterator[Order]:
        assert self.lengths is not None
        first = start // self.window
        world, batch_size = self.step
        windows = in_parts_of(self.window, self._mixed(lane, first * self.window))
        for number, window in enumerate(windows, first):
            window = window[np.argsort(self.lengths(window), kind="stable")]
            # The batches of a step are neighbours in length, so no rank waits for another; which rank gets the
            # longest is random. Lanes shuffle their batches alike, and ranks are at the same batch of their lanes.
            rng = generator(self.seed, BUCKETS, self.epoch, number)
            steps = rng.permutation(window.reshape(-1, world, batch_size, 2))
            ranks = rng.permuted(np.tile(np.arange(world), (len(steps), 1)), axis=1)
            batches = np.take_along_axis(steps, ranks[:, :, None, None], axis=1).reshape(-1, 2)
            yield batches[start - first * self.window :] if number == first else batches


def take(parts: Iterator[Order], count: int) -> Iterator[Order]:
    """Yield the first `count` samples."""
    while count > 0:
        part = next(parts)[:count]
        count -= len(part)
        yield part


def in_parts_of(size: int, parts: Iterator[Order]) -> Iterator[Order]:
    """Yield the same samples in parts of `size`, of which the last may be smaller."""
    rest = np.empty((0, 2), np.int64)
    for part in parts:
        rest = np.concatenate([rest, part])
        while len(rest) >= size:
            yield rest[:size]
            rest = rest[size:]
    if len(rest):
        yield rest
