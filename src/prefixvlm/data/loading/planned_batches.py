"""A planned epoch goes in, its batches come out: what runs in the loader's worker processes."""

import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from prefixvlm.batch import NothingToLearnError
from prefixvlm.data.loading.bad_samples import Bad
from prefixvlm.data.loading.epoch_plan import Numbers, ReadOrder
from prefixvlm.data.loading.shard_source import ShardRef, prefetched_paths
from prefixvlm.data.sample import Sample, decode
from prefixvlm.data.shards.read import RawSample, read_shard

Collate = Callable[[list[Sample], random.Random], Any]
FAIL, SKIP, REPLACE = "fail", "skip", "replace"  # a bad sample; skip and replace differ for a batch of nothing else
MAX_SPARES = 64


class PlannedBatches(IterableDataset):
    """The planned batches of one rank, each with its bad samples; each worker makes every num_workers-th of them.

    A sample is bad if it does not decode, or if no batch can be made of it alone, as without a caption to train on;
    one that raises NothingToLearnError is not. on_bad: FAIL raises; SKIP leaves bad samples out, and a batch of nothing
    else is None; REPLACE makes such a batch of the next good sample of the walk, whatever the workers and wherever a
    run is resumed.
    """

    def __init__(
        self,
        walks: list[ReadOrder],
        batches: list[Numbers],
        seeds: list[str],
        collate: Collate,
        blind: bool,
        on_bad: str,
    ) -> None:
        self.walks, self.batches, self.seeds, self.collate, self.on_bad = walks, batches, seeds, collate, on_bad
        self.image = Image.new("RGB", (64, 64)) if blind else None  # one object: encoded once a batch

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        mine = slice(worker.id, None, worker.num_workers) if worker else slice(None)
        try:
            arriving = _in_order(self.walks, self.batches[mine])
            for batch, seed in zip(self.batches[mine], self.seeds[mine], strict=True):
                made, bad = self._made((next(arriving) for _ in batch), seed)
                if isinstance(made, str):
                    made = self._spare(batch[-1], seed, made) if self.on_bad == REPLACE else None
                yield made, bad
        except (ValueError, OSError) as error:
            yield error  # as a value: torch would put the worker's traceback into its sentence

    def _made(self, arriving: Iterable[tuple[ShardRef, RawSample]], seed: str) -> tuple[Any, list[Bad]]:
        """The batch of those that are good, or why there is none; and the bad ones."""
        found: list[tuple[ShardRef, str, Sample]] = []
        bad: list[Bad] = []
        for tar, raw in arriving:
            try:
                found.append((tar, raw[0], decode_from(tar, raw, self.image)))
            except ValueError as error:
                if self.on_bad == FAIL:
                    raise
                bad.append((_name(tar, raw[0]), str(error)))
        try:
            if found:
                return self._collated([sample for _, _, sample in found], seed), bad
        except NothingToLearnError as error:
            return str(error), bad
        except ValueError:
            if self.on_bad == FAIL:
                raise
        good = []
        for tar, key, sample in found:
            try:
                self._collated([sample], seed)
                good.append(sample)
            except NothingToLearnError:
                continue
            except ValueError as error:
                bad.append((_name(tar, key), f"shard {tar.path}: {error}"))
        return (self._collated(good, seed) if good else bad[0][1]), bad

    def _collated(self, samples: list[Sample], seed: str) -> Any:
        return self.collate(samples, random.Random(seed))

    def _spare(self, number: int, seed: str, reason: str) -> Any:
        total = sum(count for walk in self.walks for _, count in walk)
        spares = (number + np.arange(1, min(MAX_SPARES, total - 1) + 1)) % total
        for each in _in_order(self.walks, [spares]):
            made, _ = self._made([each], seed)
            if not isinstance(made, str):
                return made
        raise ValueError(f"{reason}; so it is with a whole batch and the {len(spares)} samples after it")


def _name(tar: ShardRef, key: str) -> str:
    return f"{tar.prefix}{tar.path.name}: {key}"


def decode_from(tar: ShardRef, raw: RawSample, image: Image.Image | None = None) -> Sample:
    """Raises ValueError for a bad sample, naming shard and key."""
    sample = decode(*raw, f"shard {tar.path}", image)
    if not tar.prefix:
        return sample
    questions = tuple(replace(question, id=tar.prefix + question.id) for question in sample.questions)
    return replace(sample, key=tar.prefix + sample.key, questions=questions)


def _in_order(walks: list[ReadOrder], batches: list[Numbers]) -> Iterator[tuple[ShardRef, RawSample]]:
    """The samples of the batches, one after the other; the walks go on side by side."""
    numbers = np.concatenate([np.empty(0, np.int64), *batches])
    starts = [0, *accumulate(sum(count for _, count in walk) for walk in walks)]
    streams = [
        _of_walk(walk, numbers[(numbers >= start) & (numbers < stop)] - start)
        for walk, start, stop in zip(walks, starts, starts[1:], strict=False)
    ]
    for number in numbers.tolist():
        yield next(streams[bisect_right(starts, number) - 1])


def _of_walk(walk: ReadOrder, numbers: Numbers) -> Iterator[tuple[ShardRef, RawSample]]:
    """Those that the walk meets too early wait, undecoded."""
    arriving = _arriving(walk, np.sort(numbers))
    waiting: dict[int, tuple[ShardRef, RawSample]] = {}
    for number in numbers.tolist():
        while number not in waiting:
            arrived, sample = next(arriving)
            waiting[arrived] = sample
        yield waiting.pop(number)


def _arriving(walk: ReadOrder, numbers: Numbers) -> Iterator[tuple[int, tuple[ShardRef, RawSample]]]:
    wanted, first = [], 0  # shards with the numbers of the samples that are wanted of each
    for tar, count in walk:
        low, high = np.searchsorted(numbers, (first, first + count))
        if low < high:
            wanted.append((tar, first, (numbers[low:high] - first).tolist()))
        first += count
    paths = prefetched_paths([tar for tar, _, _ in wanted])
    for (tar, first, inside), path in zip(wanted, paths, strict=True):
        samples = read_shard(path, set(inside))
        for number in inside:
            if (sample := next(samples, None)) is None:
                raise ValueError(f"shard {path} has lost samples since it was counted; was it written to meanwhile?")
            yield first + number, (tar, sample)
        next(samples, None)  # to the shard's end, where its number of samples is checked
