"""Shards, here or elsewhere, go in; their numbers of samples and, one after the other, their local paths come out."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from prefixvlm.data.shard_cache import PinnedFile, ShardCache
from prefixvlm.data.shards.read import count_samples, listed


class ShardRef(NamedTuple):
    """One shard. prefix: stands before the keys of its samples. cache: fetches it from `url`."""

    path: Path
    prefix: str = ""
    url: str = ""
    cache: ShardCache | None = None

    def pin(self) -> PinnedFile:
        """Its path, fetched if it must be, and there until it is closed."""
        if self.cache is None:
            return PinnedFile(self.path)
        shard = listed(self.path)
        return self.cache.pin(self.url, self.path, *((shard.bytes, shard.sha256) if shard else ()))

    def num_samples(self) -> int:
        """Its samples. A remote one without a manifest is fetched for that, once."""
        if self.cache is None or listed(self.path) is not None:
            return count_samples(self.path)
        kept = self.path.with_name(f"{self.path.name}.count")
        if not kept.is_file():
            held = self.pin()
            try:
                count = count_samples(held.path)
            finally:
                held.close()
            part = kept.with_name(f"{kept.name}.{id(held)}.partial")
            part.write_text(str(count))
            part.replace(kept)
        return int(kept.read_text())


@dataclass
class ShardSource:
    """The shards of one split of a data set; weight: its share of a mixture, beside the others'."""

    tars: Sequence[ShardRef]
    name: str = ""
    weight: float = 1.0

    @cached_property
    def counts(self) -> list[int]:
        return [tar.num_samples() for tar in tqdm(self.tars, desc=f"counting samples {self.name}".strip(), delay=5)]

    @cached_property
    def lengths(self) -> list[NDArray[np.int64]]:
        """Of each shard's samples, the mean number of characters of their texts.

        Raises ValueError if that is not known.
        """
        found = []
        for tar, count in zip(self.tars, self.counts, strict=True):
            shard = listed(tar.path)
            if shard is None or len(shard.text_lengths) != count:
                raise ValueError(
                    f"shard {tar.path} has no text_lengths in its manifest, which data.bucket_batches needs; "
                    "make the shards again, or set data.bucket_batches=0"
                )
            found.append(np.asarray(shard.text_lengths, np.int64))
        return found

    @property
    def num_samples(self) -> int:
        return sum(self.counts)


def prefetched_paths(tars: Sequence[ShardRef]) -> Iterator[Path]:
    """Each one's path in turn, held while it is read; a remote one is fetched while the one before it is read."""
    coming = _begin(tars[0]) if tars else None
    for number in range(len(tars)):
        assert coming is not None
        held = coming.result()
        coming = _begin(tars[number + 1]) if number + 1 < len(tars) else None
        try:
            yield held.path
        except GeneratorExit:
            if coming is not None:
                coming.add_done_callback(_close)
            raise
        finally:
            held.close()


def _begin(tar: ShardRef) -> "Future[PinnedFile]":
    future: Future[PinnedFile] = Future()

    def pin() -> None:
        try:
            future.set_result(tar.pin())
        except Exception as error:  # it belongs to whoever waits for the result
            future.set_exception(error)

    if tar.cache is None:
        pin()
    else:
        Thread(target=pin, daemon=True).start()  # a daemon: a reader that stops early does not wait for it
    return future


def _close(done: "Future[PinnedFile]") -> None:
    if done.exception() is None:
        done.result().close()
