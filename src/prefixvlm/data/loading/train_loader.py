"""Sources of shards go in, training batches come out: mixed, shuffled, and resumable at any batch.

A loader lives in the main process and plans an epoch as numbers (see plan.py): every batch of every rank is a list of
numbers. A reader then walks the shards in the planned order and reads the bytes of its own batches only. So the batches
are a function of (seed, epoch, batch_size, world) and of nothing else, for any number of shards and workers; resuming
is dropping the first batches of the plan; and one shard serves any number of readers. The price is that every reader
walks the headers of every shard (about 0.1 ms a sample).
"""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from prefixvlm.data.loading.bad_samples import BadSamples
from prefixvlm.data.loading.epoch_plan import Numbers, Planner, ReadOrder
from prefixvlm.data.loading.planned_batches import REPLACE, Collate, PlannedBatches
from prefixvlm.data.loading.shard_source import ShardSource


class Loader:
    """What the loaders for training and for evaluation share.

    collate: makes a batch of samples; runs in the workers, so it must be picklable. Its random generator depends on
        (seed, epoch, step) only, not on the number of workers or ranks.
    rank, world: from the main process; a spawned worker has no process group to ask.
    blind: every image is one black image, and none is decoded.
    """

    def __init__(
        self,
        sources: Sequence[ShardSource],
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
        self.sources = sources
        for source in sources:
            if not source.num_samples:
                shards = ", ".join(str(tar.path) for tar in source.tars)
                raise ValueError(f"the shards {shards} hold no samples; set data.shards to others")
        self.num_samples = sum(source.num_samples for source in sources)
        self.batch_size, self.collate, self.num_workers, self.seed = batch_size, collate, num_workers, seed
        self.rank, self.world, self.blind = rank, world, blind

    def _read(
        self, walks: list[ReadOrder], batches: list[Numbers], seeds: list[str], budget: BadSamples, on_bad: str
    ) -> Iterator[Any]:
        loader = DataLoader(
            PlannedBatches(walks, batches, seeds, self.collate, self.blind, on_bad),
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else each epoch draws from torch's global one
        )
        for result in loader:
            if isinstance(result, Exception):
                raise result
            batch, bad = result
            budget.add(bad)
            if batch is not None:
                yield batch


class TrainLoader(Loader):
    """For training: shuffled across and within shards, as many batches on every rank, resumable at any batch.

    Several sources are mixed by their weights, and each goes on in the next epoch where this one left it.
    epoch_samples: how many samples an epoch has, if not all of one source or as many as the sources together.
    shuffle_buffer: how far, in samples, a sample may move within the walk over a source's shuffled shards; a loader
        holds at most as many undecoded samples of each source, and bucket_batches batches. From the number of all
        samples on, the order is fully random; 1 is the shards' own order, the same batches in every epoch.
    bucket_batches: within so many batches, those samples share a batch whose texts are of like length; 0: any do.
    max_bad_fraction: of an epoch's samples, how many may be bad and are skipped.
    The state is rank 0's and serves every rank. The last samples of an epoch that fill no batch on every rank are
    left out of it; they are others in the next one.
    """

    def __init__(
        self,
        sources: Sequence[ShardSource],
        batch_size: int,
        collate: Collate,
        shuffle_buffer: int = 2000,
        epoch_samples: int | None = None,
        bucket_batches: int = 0,
        max_bad_fraction: float = 0.001,
        **kwargs: Any,
    ) -> None:
        super().__init__(sources, batch_size, collate, **kwargs)
        if shuffle_buffer < 1:
            raise ValueError(f"shuffle_buffer is {shuffle_buffer}; set data.shuffle_buffer to 1 (in order) or more")
        if bucket_batches < 0:
            raise ValueError(f"bucket_batches is {bucket_batches}; set data.bucket_batches to 0 (off) or more")
        mixed = len(sources) > 1 or epoch_samples is not None
        self.num_samples = self.num_samples if epoch_samples is None else epoch_samples
        length = self.num_samples // (batch_size * self.world)
        if length < 1:
            raise ValueError(
                f"{self.num_samples} training samples do not fill one batch of {batch_size} on each of {self.world} "
                "ranks; set data.batch_size to less"
            )
        self.planner = Planner(
            sources, length, batch_size, self.world, self.seed, shuffle_buffer, bucket_batches, mixed
        )
        if bucket_batches:
            for source in sources:
                source.lengths  # noqa: B018  # now, and not in the first epoch, say that a shard has none
        self.budget = BadSamples(max_bad_fraction, self.num_samples)
        self.epoch, self.batches, self._begun = 0, 0, False  # batches: handed out in this epoch

    def __len__(self) -> int:
        return self.planner.length

    def __iter__(self) -> Iterator[Any]:
        # Lightning stops at len(self) without exhausting the iterator, so the epoch goes up here and not at the end.
        if self._begun or self.batches >= len(self):
            self.epoch, self.batches = self.epoch + 1, 0
        self._begun = True
        walks, order = self.planner.epoch(self.epoch)
        epoch = 0 if self.planner.shuffle_buffer == 1 else self.epoch  # in order: the same batches again
        mine = range(self.batches * self.world + self.rank, len(self) * self.world, self.world)
        batches = [order[batch * self.batch_size :][: self.batch_size] for batch in mine]
        seeds = [f"{self.seed}-{epoch}-{batch // self.world}" for batch in mine]
        for result in self._read(walks, batches, seeds, self.budget, REPLACE):
            self.batches += 1
            yield result

    def _plan(self) -> dict[str, Any]:
        names = [
            (source.name, source.weight, [tar.path.name for tar in source.tars], source.counts)
            for source in self.sources
        ]
        values = {name: getattr(self.planner, name) for name in ("shuffle_buffer", "bucket_batches")}
        values |= {name: getattr(self, name) for name in ("seed", "batch_size", "world", "num_samples")}
        return {"shards": hashlib.sha256(repr(names).encode()).hexdigest(), **values}

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "batches": self.batches, "plan": self._plan(), "bad": dict(self.budget.bad)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.batches, self._begun = state["epoch"], state["batches"], False
        self.budget.restore(state.get("bad", {}))
        changed = [name for name, value in self._plan().items() if state["plan"].get(name) != value]
        if changed:
            self.batches = 0
            warnings.warn(
                f"{', '.join(changed)} differ from the checkpoint's: epoch {self.epoch} starts from its first sample "
                "again; to resume exactly, set them as they were",
                stacklevel=2,
            )
