"""Which rank and which loader worker read which batches of an epoch.

Where there are many shards, each rank reads lanes of its own in turn, and so shards of its own; its workers share out
the lanes. Where there are few shards, all ranks take the batches of one lane in turn, and each opens every shard.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from prefixvlm.data.loading.plan.epoch_order import EpochOrder, Order, in_parts_of
from prefixvlm.data.loading.plan.source_order import Numbers

MAX_LANES = 8  # of a rank: as many workers read different shards
SHARDS_PER_LANE = 4  # with fewer, the shards that two lanes share would be a large part of what is read


def lanes_of_rank(num_shards: int, world: int) -> int:
    """Return how many lanes each rank has for itself; 0 if there are too few shards, so that all ranks share one."""
    return min(MAX_LANES, num_shards // (SHARDS_PER_LANE * world))


def lane_sizes(num_batches: int, batch_size: int, num_lanes: int) -> Numbers:
    """Return the number of samples of each lane; lanes differ by one batch at most."""
    return np.diff(num_batches * np.arange(num_lanes + 1) // num_lanes) * batch_size


class Piece(NamedTuple):
    """Samples `start` to `stop` of a lane of the epoch's order."""

    lane: int
    start: int
    stop: int


@dataclass(frozen=True)
class Deal:
    """How the samples of an epoch, or those that are left of it, are dealt to ranks.

    Each rank has the same number of batches; samples that do not fill a batch on every rank are left out.

    pieces: the samples, one piece after the other. lanes: of each rank, or 0 if all ranks share one.
    keep_last: for evaluation: all samples are dealt, the last batch may be smaller, and ranks differ by one batch.
    """

    pieces: Sequence[Piece]
    world: int
    batch_size: int
    lanes: int
    keep_last: bool = False

    @cached_property
    def sequences(self) -> list[list[Piece]]:
        """The samples cut into one sequence for each lane."""
        total = sum(piece.stop - piece.start for piece in self.pieces)
        step = 1 if self.keep_last else self.batch_size * self.world
        num_batches = -(-(total // step * step) // self.batch_size)
        sizes = lane_sizes(num_batches, self.batch_size, self.world * self.lanes or 1)
        return _cut(self.pieces, np.minimum(np.cumsum(sizes), total).tolist())

    def num_steps(self, rank: int = 0) -> int:
        """Return the number of batches of a rank."""
        return sum(self._num_batches(rank)) // (1 if self.lanes else self.world)

    def sequence_of(self, rank: int, step: int) -> int:
        """Return the number of the sequence that has a rank's batch."""
        if not self.lanes:
            return 0
        shortest, longer = self._lengths(rank)
        if step < shortest * self.lanes:
            return rank * self.lanes + step % self.lanes
        return rank * self.lanes + longer[step - shortest * self.lanes]

    def steps_of(self, rank: int, sequence: int, batches: Numbers) -> Numbers:
        """Return the steps in which a rank has these batches of a sequence, -1 for those of other ranks."""
        if not self.lanes:
            return np.where(batches % self.world == rank, batches // self.world, -1)
        (shortest, longer), lane = self._lengths(rank), sequence - rank * self.lanes
        last = shortest * self.lanes + longer.index(lane) if lane in longer else -1
        return np.where(batches < shortest, batches * self.lanes + lane, last)

    def after(self, steps: int, world: int, batch_size: int, lanes: int) -> "Deal":
        """Deal out what is left after so many steps of every rank, to another number of ranks or in other batches."""
        left = []
        for sequence, pieces in enumerate(self.sequences):
            batches = np.arange(sum(piece.stop - piece.start for piece in pieces) // self.batch_size)
            taken = steps * self.world
            if self.lanes:
                taken = int((self.steps_of(sequence // self.lanes, sequence, batches) < steps).sum())
            left += _cut(pieces, [taken * self.batch_size, len(batches) * self.batch_size])[1]
        return Deal(left, world, batch_size, lanes if self.lanes else 0)

    def _num_batches(self, rank: int) -> list[int]:
        own = self.sequences[rank * self.lanes : (rank + 1) * self.lanes] if self.lanes else self.sequences
        return [-(-sum(piece.stop - piece.start for piece in pieces) // self.batch_size) for pieces in own]

    def _lengths(self, rank: int) -> tuple[int, list[int]]:
        """Return the length of a rank's shortest lane in batches, and the lanes that are one batch longer."""
        lengths = self._num_batches(rank)
        return min(lengths), [lane for lane, length in enumerate(lengths) if length > min(lengths)]


@dataclass(frozen=True)
class RankPlan:
    """The batches of one rank from step `first` on."""

    order: EpochOrder
    deal: Deal
    rank: int
    first: int = 0

    def steps_of_worker(self) -> range:
        """The steps whose batches this worker process makes: every num_workers-th; all in the main process."""
        # The worker asks for itself alone. Rank and world size come from the main process, because a worker that is
        # spawned has no process group, and would take itself for rank 0 of 1.
        worker, workers = _worker()
        return range(self.first + worker, self.deal.num_steps(self.rank), workers)

    def samples_of_worker(self, sequence: int, ahead: int) -> Iterator[list[Order]]:
        """Yield the batches of a sequence that this worker makes, as many together as have `ahead` samples in it."""
        size, (worker, workers) = self.deal.batch_size, _worker()
        first = self.first // self.deal.lanes if self.deal.lanes else self.first * self.deal.world + self.rank
        in_part = max(1, ahead // size)
        for part in in_parts_of(in_part * size, self._samples(sequence, first * size)):
            batches = np.arange(first, first + -(-len(part) // size))
            steps = self.deal.steps_of(self.rank, sequence, batches)
            own: NDArray[np.bool_] = (steps >= self.first) & ((steps - self.first) % workers == worker)
            if own.any():
                yield [part[(batch - first) * size :][:size] for batch in batches[own]]
            first += in_part

    def _samples(self, sequence: int, skip: int) -> Iterator[Order]:
        for piece in _cut(self.deal.sequences[sequence], [skip, None])[1]:
            yield from self.order.lane(*piece)


def _worker() -> tuple[int, int]:
    worker = get_worker_info()
    return (worker.id, worker.num_workers) if worker else (0, 1)


def _cut(pieces: Sequence[Piece], ends: Sequence[int | None]) -> list[list[Piece]]:
    """Cut a sequence of pieces after these numbers of samples; None is its end."""
    parts: list[list[Piece]] = [[] for _ in ends]
    part, at = 0, 0
    for piece in pieces:
        start = piece.start
        while start < piece.stop and part < len(ends):
            end = ends[part]
            count = piece.stop - start if end is None else min(piece.stop - start, end - at)
            if count:
                parts[part].append(Piece(piece.lane, start, start + count))
            start, at = start + count, at + count
            part += end is not None and at == end
    return parts
