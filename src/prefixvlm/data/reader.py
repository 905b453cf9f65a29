"""A planned epoch goes in, its batches come out: what runs in the loader's worker processes."""

import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from prefixvlm.data.sample import Sample, decode
from prefixvlm.data.shards import RawSample, read_shard

Collate = Callable[[list[Sample], random.Random], Any]
Walk = list[tuple[Path, int]]  # shards in the order in which they are read, with their numbers of samples
Numbers = NDArray[np.int64]


class Reader(IterableDataset):
    """The planned batches of one rank; each worker makes every num_workers-th of them."""

    def __init__(self, walk: Walk, batches: list[Numbers], seeds: list[str], collate: Collate, blind: bool) -> None:
        self.walk, self.batches, self.seeds, self.collate = walk, batches, seeds, collate
        self.image = Image.new("RGB", (64, 64)) if blind else None  # one object: encoded once a batch

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        mine = slice(worker.id, None, worker.num_workers) if worker else slice(None)
        try:
            samples = _in_order(self.walk, self.batches[mine])
            for batch, seed in zip(self.batches[mine], self.seeds[mine], strict=True):
                raw = islice(samples, len(batch))
                decoded = [decode(key, members, f"shard {path}", self.image) for path, (key, members) in raw]
                yield self.collate(decoded, random.Random(seed))
        except (ValueError, OSError) as error:
            yield error  # as a value: torch would put the worker's traceback into its sentence


def _in_order(walk: Walk, batches: list[Numbers]) -> Iterator[tuple[Path, RawSample]]:
    """The samples of the batches, one after the other; those that the walk meets too early wait, undecoded."""
    numbers = np.concatenate([np.empty(0, np.int64), *batches])
    arriving = _arriving(walk, np.sort(numbers))
    waiting: dict[int, tuple[Path, RawSample]] = {}
    for number in numbers.tolist():
        while number not in waiting:
            arrived, sample = next(arriving)
            waiting[arrived] = sample
        yield waiting.pop(number)


def _arriving(walk: Walk, numbers: Numbers) -> Iterator[tuple[int, tuple[Path, RawSample]]]:
    first = 0
    for path, count in walk:
        low, high = np.searchsorted(numbers, (first, first + count))
        wanted = (numbers[low:high] - first).tolist()
        samples = read_shard(path, set(wanted)) if wanted else iter(())
        for number in wanted:
            if (sample := next(samples, None)) is None:
                raise ValueError(f"shard {path} has lost samples since it was counted; was it written to meanwhile?")
            yield first + number, (path, sample)
        next(samples, None)  # to the shard's end, where its number of samples is checked
        first += count
