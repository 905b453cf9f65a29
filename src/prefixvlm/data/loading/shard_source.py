"""Local and remote shards: sample counts, and local paths that are fetched one shard ahead."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from prefixvlm.atomic import write_text
from prefixvlm.data.loading.plan.epoch_order import PLACE, SOURCE, Order
from prefixvlm.data.loading.plan.source_order import Numbers, SourceOrder
from prefixvlm.data.shard_cache import PinnedFile, ShardCache
from prefixvlm.data.shards.lookup import Entry, entries, manifest_entry
from prefixvlm.data.shards.read import count_samples
from prefixvlm.data.shards.text_lengths import read_lengths


class ShardRef(NamedTuple):
    """A local shard, or one that `cache` downloads from `url`. prefix: stands before the keys of its samples."""

    path: Path
    prefix: str = ""
    url: str = ""
    cache: ShardCache | None = None

    def pin(self) -> PinnedFile:
        """Return the local file, downloaded if needed, which stays until it is closed."""
        if self.cache is None:
            return PinnedFile(self.path)
        entry = manifest_entry(self.path)
        return self.cache.pin(self.url, self.path, *((entry.bytes, entry.sha256) if entry else ()))

    def num_samples(self) -> int:
        """Return the number of samples. To count it, a remote shard without a manifest is downloaded once."""
        if self.cache is None or manifest_entry(self.path) is not None:
            return count_samples(self.path)
        count_file = self.path.with_name(f"{self.path.name}.count")  # stays when the shard is evicted
        if not count_file.is_file():
            pin = self.pin()
            try:
                write_text(count_file, str(count_samples(pin.path)))
            finally:
                pin.close()
        return int(count_file.read_text())


@dataclass
class ShardSource:
    """The shards of one split of a data set. weight: its share of a mixture, relative to the other sources."""

    shards: Sequence[ShardRef]
    name: str = ""
    weight: float = 1.0

    @cached_property
    def counts(self) -> list[int]:
        description = f"counting samples {self.name}".strip()
        bar = tqdm(self._entries(), desc=description, total=len(self.shards), delay=5)
        return [entry.shard.samples if entry else shard.num_samples() for shard, entry in bar]

    def check_lengths(self) -> None:
        """Raise ValueError if the manifests do not have the text lengths of all shards; none are read."""
        for shard, entry in self._entries():
            _check_lengths(shard, entry)

    def lengths_of(self, number: int) -> NDArray[np.int64]:
        """Return the mean number of characters of the texts of each sample of a shard.

        Those of a remote folder are downloaded when they are first needed. Raises ValueError if they are not known.
        """
        shard = self.shards[number]
        entry = _check_lengths(shard, entries(shard.path.parent).get(shard.path.name))
        if entry.lengths is None:
            return np.asarray(entry.shard.text_lengths, np.int64)
        path = shard.path.with_name(entry.lengths.name)
        if shard.cache is not None and not path.is_file():
            url = f"{shard.url.rpartition('/')[0]}/{entry.lengths.name}"
            shard.cache.pin(url, path, entry.lengths.bytes, entry.lengths.sha256).close()
        return read_lengths(path, entry.lengths, entry.first, entry.shard.samples)

    def _entries(self) -> Iterator[tuple[ShardRef, Entry | None]]:
        """Yield each shard with its entry in the manifest, which is looked up once, not for each of 100,000 shards."""
        folders: dict[str, Mapping[str, Entry]] = {}
        for shard in self.shards:
            folder, name = os.path.split(shard.path)  # much faster than Path.parent and its hash
            if folder not in folders:
                folders[folder] = entries(Path(folder))
            yield shard, folders[folder].get(name)

    @property
    def num_samples(self) -> int:
        return sum(self.counts)

    @classmethod
    def of(cls, shards: Sequence[ShardRef], counts: list[int]) -> "ShardSource":
        """Return a source of shards whose samples have been counted."""
        source = cls(shards)
        source.__dict__["counts"] = counts
        return source


class SampleLengths:
    """Text lengths of samples by their place in the orders of the sources."""

    def __init__(self, sources: Sequence[ShardSource], orders: Sequence[SourceOrder]) -> None:
        self.sources, self.orders = sources, orders
        for source in sources:
            source.check_lengths()  # raises now, not in the first epoch, if a shard has no lengths

    def __call__(self, order: Order) -> Numbers:
        lengths = np.empty(len(order), np.int64)
        for index, source in enumerate(self.sources):
            rows = np.flatnonzero(order[:, SOURCE] == index)
            _, shards, numbers = self.orders[index].locate(order[rows, PLACE])
            for shard in np.unique(shards).tolist():
                chosen = shards == shard
                lengths[rows[chosen]] = source.lengths_of(shard)[numbers[chosen]]
        return lengths


def _check_lengths(shard: ShardRef, entry: Entry | None) -> Entry:
    if entry is None or (entry.lengths is None and len(entry.shard.text_lengths) != entry.shard.samples):
        raise ValueError(
            f"shard {shard.path} has no text_lengths in its manifest, which data.bucket_batches needs; "
            "make the shards again, or set data.bucket_batches=0"
        )
    return entry


def prefetched_paths(shards: Iterable[ShardRef]) -> Iterator[Path]:
    """Yield the local path of each shard, pinned while it is read, and fetch the next shard meanwhile."""
    for _, fetched in prefetched(shards):
        pin = fetched.result()
        try:
            yield pin.path
        finally:
            pin.close()


def prefetched(shards: Iterable[ShardRef]) -> Iterator[tuple[ShardRef, "Future[PinnedFile]"]]:
    """Yield each shard with its fetched file or what went wrong, and fetch the next one meanwhile. Close the files."""
    remaining = iter(shards)
    upcoming = _upcoming(remaining)
    while upcoming is not None:
        current, fetched = upcoming
        wait([fetched])
        upcoming = _upcoming(remaining)
        try:
            yield current, fetched
        except GeneratorExit:
            if upcoming is not None:
                upcoming[1].add_done_callback(close)
            raise


def _upcoming(remaining: Iterator[ShardRef]) -> tuple[ShardRef, "Future[PinnedFile]"] | None:
    shard = next(remaining, None)
    return None if shard is None else (shard, fetch(shard))


def fetch(shard: ShardRef) -> "Future[PinnedFile]":
    """Begin to download a shard, if it is not here, and return its pinned file to come."""
    future: Future[PinnedFile] = Future()

    def pin() -> None:
        try:
            future.set_result(shard.pin())
        except Exception as error:  # raised where the result is awaited
            future.set_exception(error)

    if shard.cache is None:
        pin()
    else:
        Thread(target=pin, daemon=True).start()  # a daemon, so that a process that stops reading can end at once
    return future


def close(done: "Future[PinnedFile]") -> None:
    """Close a file that was fetched; nothing is done if that failed."""
    if done.exception() is None:
        done.result().close()
