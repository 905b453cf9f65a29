"""Dataset of the batches of a planned epoch, which the worker processes of a loader read and collate."""

import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import IterableDataset

from prefixvlm.batch import NothingToLearnError
from prefixvlm.data.image import ImageDecoder, decode_image, reason_of
from prefixvlm.data.loading.bad_samples import Bad
from prefixvlm.data.loading.epoch_plan import Numbers, ReadOrder
from prefixvlm.data.loading.rank_worker_split import batches_of_worker
from prefixvlm.data.loading.shard_source import ShardRef, prefetched_paths
from prefixvlm.data.sample import BLACK_IMAGE, Sample, decode
from prefixvlm.data.shards.read import RawSample, read_shard

Collate = Callable[[list[Sample], random.Random], Any]
FAIL, SKIP, REPLACE = "fail", "skip", "replace"  # skip and replace differ for a batch of bad samples only
MAX_REPLACEMENTS = 64


class PlannedBatches(IterableDataset):
    """Yields the planned batches of one rank, each with its bad samples; of W workers each makes every W-th batch.

    A sample is bad if it does not decode, or if no batch can be made of it alone, for example without a caption to
    train on; a sample that raises NothingToLearnError is not bad.

    on_bad: FAIL raises the error of a bad sample. SKIP leaves bad samples out, and yields None for a batch of bad
        samples only. REPLACE makes such a batch of the next good sample in the read order instead, which does not
        depend on the number of workers or on where a run is resumed.
    """

    def __init__(
        self,
        read_orders: list[ReadOrder],
        batches: list[Numbers],
        seeds: list[str],
        collate: Collate,
        blind: bool,
        on_bad: str,
        decoder: ImageDecoder = decode_image,
    ) -> None:
        self.read_orders, self.batches, self.seeds, self.collate = read_orders, batches, seeds, collate
        self.on_bad, self.image, self.decoder = on_bad, BLACK_IMAGE if blind else None, decoder

    def __iter__(self) -> Iterator[Any]:
        own = batches_of_worker()
        try:
            samples = _planned_samples(self.read_orders, self.batches[own])
            for numbers, seed in zip(self.batches[own], self.seeds[own], strict=True):
                batch, bad = self._make_batch((next(samples) for _ in numbers), seed)
                if isinstance(batch, str):
                    batch = self._replacement(numbers[-1], seed, batch) if self.on_bad == REPLACE else None
                yield batch, bad
        except (ValueError, OSError) as error:
            yield error  # torch would put the worker's traceback into the message of an exception that is raised

    def _make_batch(self, samples: Iterable[tuple[ShardRef, RawSample]], seed: str) -> tuple[Any, list[Bad]]:
        """Return the batch of the good samples, or the reason (str) if there are none; and the bad samples."""
        decoded: list[tuple[ShardRef, str, Sample]] = []
        bad: list[Bad] = []
        for shard, raw in samples:
            try:
                decoded.append((shard, raw[0], decode_from(shard, raw, self.image, self.decoder)))
            except ValueError as error:
                if self.on_bad == FAIL:
                    raise
                bad.append((_sample_name(shard, raw[0]), str(error)))
        try:
            if decoded:
                return self._collate([sample for _, _, sample in decoded], seed), bad
        except NothingToLearnError as error:
            return str(error), bad
        except Exception:  # whatever it was: an error of the batch itself is raised again below
            pass
        # The batch does not collate; samples that do not collate alone are bad.
        good = []
        for shard, key, sample in decoded:
            try:
                self._collate([sample], seed)
                good.append(sample)
            except NothingToLearnError:
                continue
            except Exception as error:  # a transform may raise MemoryError, a field of the sample OverflowError
                bad.append((_sample_name(shard, key), reason := _reason(shard, key, error)))
                if self.on_bad == FAIL:
                    raise ValueError(reason) from error
        return (self._collate(good, seed) if good else bad[0][1]), bad

    def _collate(self, samples: list[Sample], seed: str) -> Any:
        return self.collate(samples, random.Random(seed))

    def _replacement(self, number: int, seed: str, reason: str) -> Any:
        """Return a batch of the first good sample after `number`. Raises ValueError if there is none nearby."""
        total = sum(count for read_order in self.read_orders for _, count in read_order)
        candidates = (number + np.arange(1, min(MAX_REPLACEMENTS, total - 1) + 1)) % total
        for sample in _planned_samples(self.read_orders, [candidates]):
            batch, _ = self._make_batch([sample], seed)
            if not isinstance(batch, str):
                return batch
        raise ValueError(f"{reason}; the same holds for its whole batch and the {len(candidates)} samples after it")


def _reason(shard: ShardRef, key: str, error: Exception) -> str:
    reason = reason_of(error)
    if reason.startswith("shard "):
        return reason
    return f"shard {shard.path}: {reason}" if key in reason else f"shard {shard.path}, sample {key}: {reason}"


def _sample_name(shard: ShardRef, key: str) -> str:
    return f"{shard.prefix}{shard.path.name}: {key}"


def decode_from(
    shard: ShardRef, raw: RawSample, image: Image.Image | None = None, decoder: ImageDecoder = decode_image
) -> Sample:
    """Decode a sample of a shard. Raises ValueError that names shard and key if the sample is bad."""
    return decode(*raw, f"shard {shard.path}", image, decoder, shard.prefix)


def _planned_samples(read_orders: list[ReadOrder], batches: list[Numbers]) -> Iterator[tuple[ShardRef, RawSample]]:
    """Yield the samples of the batches in order, from all sources in parallel."""
    numbers = np.concatenate([np.empty(0, np.int64), *batches])
    starts = [0, *accumulate(sum(count for _, count in read_order) for read_order in read_orders)]
    streams = [
        _reordered_samples(read_order, numbers[(numbers >= start) & (numbers < stop)] - start)
        for read_order, start, stop in zip(read_orders, starts, starts[1:], strict=False)
    ]
    for number in numbers.tolist():
        yield next(streams[bisect_right(starts, number) - 1])


def _reordered_samples(read_order: ReadOrder, numbers: Numbers) -> Iterator[tuple[ShardRef, RawSample]]:
    """Yield the samples in the order of `numbers`, buffering those that are read before their turn, undecoded."""
    samples = _read_samples(read_order, np.sort(numbers))
    buffer: dict[int, tuple[ShardRef, RawSample]] = {}
    for number in numbers.tolist():
        while number not in buffer:
            read_number, sample = next(samples)
            buffer[read_number] = sample
        yield buffer.pop(number)


def _read_samples(read_order: ReadOrder, numbers: Numbers) -> Iterator[tuple[int, tuple[ShardRef, RawSample]]]:
    """Yield the samples with these numbers, which are sorted, in the order of reading."""
    parts, first = [], 0  # shards with the number of their first sample and the numbers to read, within the shard
    for shard, count in read_order:
        low, high = np.searchsorted(numbers, (first, first + count))
        if low < high:
            parts.append((shard, first, (numbers[low:high] - first).tolist()))
        first += count
    paths = prefetched_paths([shard for shard, _, _ in parts])
    for (shard, first, inside), path in zip(parts, paths, strict=True):
        samples = read_shard(path, set(inside))
        for number in inside:
            if (sample := next(samples, None)) is None:
                raise ValueError(f"shard {path} has lost samples since it was counted; was it written to meanwhile?")
            yield first + number, (shard, sample)
        next(samples, None)  # reads to the end of the shard, where its number of samples is checked
