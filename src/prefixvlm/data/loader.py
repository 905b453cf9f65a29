"""Shards go in, batches come out: shuffled and resumable for training, each sample exactly once for evaluation.

A loader lives in the main process and plans an epoch as numbers: the shards' samples are numbered as the epoch walks
them, and every batch of every rank is a list of numbers. A reader then walks the shards in that order and reads the
bytes of its own batches only. So the batches are a function of (seed, epoch, batch_size, world) and of nothing else,
for any number of shards and workers; resuming is dropping the first batches of the plan; and one shard serves any
number of readers. The price is that every reader walks the headers of every shard (about 0.1 ms a sample).
"""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from tqdm import tqdm

from prefixvlm.data.reader import Collate, Numbers, Reader, Walk
from prefixvlm.data.sample import Sample, decode
from prefixvlm.data.shards import count_samples, read_shard


class _Loader:
    """What the two loaders share.

    collate: makes a batch of samples; runs in the workers, so it must be picklable. Its random generator depends on
        (seed, epoch, batch) only, not on the number of workers.
    rank, world: from the main process; a spawned worker has no process group to ask.
    blind: every image is one black image, and none is decoded.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        batch_size: int,
        collate: Collate,
        num_workers: int = 0,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        blind: bool = False,
    ) -> None:
        if batch_size < 1 or num_workers < 0:
            raise ValueError(f"batch_size is {batch_size} and num_workers {num_workers}; set them to 1 and 0 or more")
        self.shards = [(path, count_samples(path)) for path in tqdm(shards, desc="counting samples", delay=5)]
        self.num_samples = sum(count for _, count in self.shards)
        if not self.num_samples:
            raise ValueError(f"the shards {', '.join(map(str, shards))} hold no samples; set data.shards to others")
        self.batch_size, self.collate, self.num_workers, self.seed = batch_size, collate, num_workers, seed
        self.rank, self.world, self.blind = rank, world, blind

    def _read(self, walk: Walk, batches: list[Numbers], seeds: list[str]) -> Iterator[Any]:
        loader = DataLoader(
            Reader(walk, batches, seeds, self.collate, self.blind),
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else each epoch draws from torch's global one
        )
        for batch in loader:
            if isinstance(batch, Exception):
                raise batch
            yield batch


class ShardLoader(_Loader):
    """For training: shuffled across and within shards, as many batches on every rank, resumable at any batch.

    shuffle_buffer: how far, in samples, a sample may move within the walk over the shuffled shards; a loader holds at
        most as many undecoded samples. From the number of all samples on, the order is fully random; 1 is the shards'
        own order, the same batches in every epoch.
    The state is rank 0's and serves every rank. The last samples of an epoch that fill no batch on every rank are
    left out of it; they are others in the next one.
    """

    def __init__(
        self, shards: Sequence[Path], batch_size: int, collate: Collate, shuffle_buffer: int = 2000, **kwargs: Any
    ) -> None:
        super().__init__(shards, batch_size, collate, **kwargs)
        if shuffle_buffer < 1:
            raise ValueError(f"shuffle_buffer is {shuffle_buffer}; set data.shuffle_buffer to 1 (in order) or more")
        self.shuffle_buffer = shuffle_buffer
        if not len(self):
            raise ValueError(
                f"{self.num_samples} training samples do not fill one batch of {batch_size} on each of {self.world} "
                "ranks; set data.batch_size to less"
            )
        self.epoch, self.batches, self._begun = 0, 0, False  # batches: handed out in this epoch

    def __len__(self) -> int:
        return self.num_samples // (self.batch_size * self.world)

    def __iter__(self) -> Iterator[Any]:
        # Lightning stops at len(self) without exhausting the iterator, so the epoch goes up here and not at the end.
        if self._begun or self.batches >= len(self):
            self.epoch, self.batches = self.epoch + 1, 0
        self._begun = True
        walk, order = self._order()
        epoch = 0 if self.shuffle_buffer == 1 else self.epoch  # in order: the same batches again
        mine = range(self.batches * self.world + self.rank, len(self) * self.world, self.world)
        batches = [order[batch * self.batch_size :][: self.batch_size] for batch in mine]
        for result in self._read(walk, batches, [f"{self.seed}-{epoch}-{batch}" for batch in mine]):
            self.batches += 1
            yield result

    def _order(self) -> tuple[Walk, Numbers]:
        if self.shuffle_buffer == 1:
            return self.shards, np.arange(self.num_samples)
        rng = np.random.default_rng([self.seed, self.epoch])
        walk = [self.shards[number] for number in rng.permutation(len(self.shards))]
        if self.shuffle_buffer >= self.num_samples:
            return walk, rng.permutation(self.num_samples)
        steps = rng.uniform(0, self.shuffle_buffer, self.num_samples)
        return walk, np.argsort(np.arange(self.num_samples) + steps, kind="stable")

    def _plan(self) -> dict[str, Any]:
        shards = hashlib.sha256(repr([(path.name, count) for path, count in self.shards]).encode()).hexdigest()
        names = ("seed", "batch_size", "world", "shuffle_buffer")
        return {"shards": shards, **{name: getattr(self, name) for name in names}}

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "batches": self.batches, "plan": self._plan()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.batches, self._begun = state["epoch"], state["batches"], False
        changed = [name for name, value in self._plan().items() if state["plan"].get(name) != value]
        if changed:
            self.batches = 0
            warnings.warn(
                f"{', '.join(changed)} differ from the checkpoint's: epoch {self.epoch} starts from its first sample "
                "again; to resume exactly, set them as they were",
                stacklevel=2,
            )


class ExactLoader(_Loader):
    """For validation and test: each sample once over all ranks, in the shards' order; the last batch may be smaller.

    limit: only the first so many samples. Ranks may differ by one batch: no collectives in a validation step.
    """

    def __init__(
        self, shards: Sequence[Path], batch_size: int, collate: Collate, limit: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(shards, batch_size, collate, **kwargs)
        if limit is not None and limit < 1:
            raise ValueError(f"the limit of samples is {limit}; set it to 1 or more, or to null for all")
        self.num_samples = min(self.num_samples, limit or self.num_samples)
        if self.num_samples < self.world:
            raise ValueError(
                f"{self.num_samples} samples cannot be shared by {self.world} devices; set devices to less"
            )
        # Every rank needs a batch: Lightning stops a rank that has none, and the others would wait for it.
        batch_size = self.batch_size = min(batch_size, self.num_samples // self.world)
        self._starts = range(self.rank * batch_size, self.num_samples, self.world * batch_size)

    def __len__(self) -> int:
        return len(self._starts)

    def samples(self, images: bool = False) -> Iterator[Sample]:
        """All samples of all ranks, in order; their images are black unless they are asked for."""
        black = None if images else Image.new("RGB", (64, 64))
        raw = ((path, sample) for path, _ in self.shards for sample in read_shard(path))
        for path, (key, members) in islice(raw, self.num_samples):
            yield decode(key, members, f"shard {path}", black)

    def __iter__(self) -> Iterator[Any]:
        batches = [np.arange(start, min(start + self.batch_size, self.num_samples)) for start in self._starts]
        yield from self._read(self.shards, batches, [f"{self.seed}-{start}" for start in self._starts])
