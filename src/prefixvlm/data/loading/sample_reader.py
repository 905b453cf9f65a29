"""Reads samples by their places: each part of an order in the order of the shards, the next of which is fetched."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from prefixvlm.data.loading.indexed_shard import IndexedShard
from prefixvlm.data.loading.plan.epoch_order import PLACE, SOURCE, Order
from prefixvlm.data.loading.plan.source_order import SourceOrder
from prefixvlm.data.loading.shard_source import ShardRef, ShardSource, close, fetch
from prefixvlm.data.shard_cache import PinnedFile
from prefixvlm.data.shards.read import RawSample

MAX_OPEN = 16  # files; a worker may read several lanes
Visit = tuple[int, int]  # a source, and the number of the visit to one of its shards


class SampleReader:
    """Reads parts of an order.

    keep: the headers of a shard are kept until so many parts have not read from it, so that they are walked once.
    """

    def __init__(self, sources: Sequence[ShardSource], orders: Sequence[SourceOrder], keep: int) -> None:
        self.sources, self.orders, self.keep = sources, orders, keep
        self._shards: dict[Visit, _Visited] = {}
        self._num_parts = 0

    def read(self, order: Order) -> Iterator[tuple[int, tuple[ShardRef, RawSample]]]:
        """Yield the samples, each with its row in the order, as they come in the shards."""
        visits = self._visits(order)
        self._num_parts += 1
        for index, (visit, shard, rows, numbers) in enumerate(visits):
            visited = self._begin(visit, shard)
            if index + 1 < len(visits):
                self._begin(*visits[index + 1][:2])
            for row, raw in zip(rows, visited.read(numbers), strict=True):
                yield row, (visited.shard, raw)
            visited.unpin()
            # Of a shard that others read to the end, the headers would keep the file open.
            unfinished = [each for each in self._shards.values() if each.index and not each.index.finished]
            if len(unfinished) > MAX_OPEN and unfinished[0].index:
                unfinished[0].index.finish()
        for visit, visited in list(self._shards.items()):
            if visited.last_part <= self._num_parts - self.keep:
                self._shards.pop(visit).close()

    def close(self) -> None:
        for visited in self._shards.values():
            visited.close()
        self._shards.clear()

    def _begin(self, visit: Visit, shard: int) -> "_Visited":
        source = self.sources[visit[0]]
        visited = self._shards.setdefault(visit, _Visited(source.shards[shard], source.counts[shard]))
        visited.last_part = self._num_parts
        visited.pin()
        return visited

    def _visits(self, order: Order) -> list[tuple[Visit, int, list[int], list[int]]]:
        """Return the visits in the order of reading: shard, rows of the order, and numbers in the shard of each."""
        result = []
        for index, source_order in enumerate(self.orders):
            rows = np.flatnonzero(order[:, SOURCE] == index)
            places = order[rows, PLACE]
            rows = rows[np.argsort(places)]
            located = np.stack([*source_order.locate(np.sort(places)), rows], axis=1).tolist()
            for (visit, shard), group in groupby(located, key=lambda entry: (entry[0], entry[1])):
                numbers, own = zip(*((number, row) for _, _, number, row in group), strict=True)
                result.append(((index, visit), shard, list(own), list(numbers)))
        return result


@dataclass
class _Visited:
    """A shard that is being read. count: its number of samples."""

    shard: ShardRef
    count: int
    last_part: int = 0
    pinned: "Future[PinnedFile] | None" = None
    index: IndexedShard | None = None

    def pin(self) -> None:
        if self.pinned is None:
            self.pinned = fetch(self.shard)

    def read(self, numbers: list[int]) -> Iterator[RawSample]:
        assert self.pinned is not None
        path = self.pinned.result().path
        if self.index is None:
            self.index = IndexedShard(path, self.count)
        return self.index.read(numbers)

    def unpin(self) -> None:
        if self.pinned is not None:
            self.pinned.add_done_callback(close)
            self.pinned = None

    def close(self) -> None:
        self.unpin()
        if self.index is not None:
            self.index.close()
