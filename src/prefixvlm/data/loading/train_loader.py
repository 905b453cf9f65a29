"""Training loader: mixes sources, shuffles, and resumes exactly at any batch.

The loader lives in the main process and plans an epoch as numbers (see epoch_plan.py): each batch of each rank is a
list of sample numbers. Workers then read the shards in the planned order, and load the bytes of their own batches only.
So the batches are a function of (seed, epoch, batch_size, world) alone, for any number of shards and workers; resuming
drops the first batches of the plan; and any number of workers can read one shard. The price is that every worker reads
the headers of every shard (about 0.1 ms per sample).
"""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from prefixvlm.data.loading.bad_samples import BadSamples
from prefixvlm.data.loading.epoch_plan import Planner
from prefixvlm.data.loading.loader import ShardLoader
from prefixvlm.data.loading.planned_batches import REPLACE, Collate
from prefixvlm.data.loading.rank_worker_split import train_batches_of_rank
from prefixvlm.data.loading.shard_source import ShardSource


class TrainLoader(ShardLoader):
    """Loader for training: shuffles across and within shards, and gives every rank the same number of batches.

    Several sources are mixed by their weights; in the next epoch each continues where this one left it.

    epoch_samples: the number of samples of an epoch; by default that of all sources together.
    shuffle_buffer: how far, in samples, a sample may move within the read order of a source's shuffled shards. A
        worker holds at most this many undecoded samples of each source, and bucket_batches batches. From the number of
        all samples on, the order is fully random; 1 keeps the order of the shards, with the same batches every epoch.
    bucket_batches: within this many batches, samples with texts of similar length share a batch; 0 turns it off.
    max_bad_fraction: the fraction of an epoch's samples that may be bad and are skipped.

    The state is that of rank 0 and serves every rank, because Lightning saves no other. The last samples of an epoch,
    which do not fill a batch on every rank, are left out; they are others in the next epoch.
    """

    def __init__(
        self,
        sources: Sequence[ShardSource],
        batch_size: int,
        collate: Collate,
        shuffle_buffer: int = 4000,
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
                source.lengths  # noqa: B018  # raises now, not in the first epoch, if a shard has no lengths
        self.bad_samples = BadSamples(max_bad_fraction, self.num_samples)
        self.epoch, self.batches, self._started = 0, 0, False  # batches: yielded in this epoch

    def __len__(self) -> int:
        return self.planner.length

    def __iter__(self) -> Iterator[Any]:
        # Lightning stops at len(self) without exhausting the iterator, so code after the loop might never run.
        if self._started or self.batches >= len(self):
            self.epoch, self.batches = self.epoch + 1, 0
        self._started = True
        read_orders, order = self.planner.epoch(self.epoch)
        epoch = 0 if self.planner.shuffle_buffer == 1 else self.epoch  # unshuffled epochs have the same batches
        own = train_batches_of_rank(self.batches, len(self), self.rank, self.world)
        batches = [order[batch * self.batch_size :][: self.batch_size] for batch in own]
        seeds = [f"{self.seed}-{epoch}-{batch // self.world}" for batch in own]
        for result in self._read(read_orders, batches, seeds, self.bad_samples, REPLACE):
            self.batches += 1
            yield result

    def _plan(self) -> dict[str, Any]:
        """Return the settings that the batches depend on. A state resumes exactly only if these are the same."""
        names = [
            (source.name, source.weight, [shard.path.name for shard in source.shards], source.counts)
            for source in self.sources
        ]
        values = {name: getattr(self.planner, name) for name in ("shuffle_buffer", "bucket_batches")}
        values |= {name: getattr(self, name) for name in ("seed", "batch_size", "world", "num_samples")}
        return {"shards": hashlib.sha256(repr(names).encode()).hexdigest(), **values}

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "batches": self.batches, "plan": self._plan(), "bad": dict(self.bad_samples.bad)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.batches, self._started = state["epoch"], state["batches"], False
        self.bad_samples.restore(state.get("bad", {}))
        changed = [name for name, value in self._plan().items() if state["plan"].get(name) != value]
        if changed:
            self.batches = 0
            warnings.warn(
                f"{', '.join(changed)} differ from the checkpoint's: epoch {self.epoch} starts from its first sample "
                "again; to resume exactly, set them as they were",
                stacklevel=2,
            )
