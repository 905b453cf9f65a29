"""Training loader: mixes sources, shuffles, and resumes exactly at any batch, on any number of ranks.

The loader lives in the main process and plans an epoch as numbers (see plan/). Where there are enough shards, each rank
reads shards of its own; workers then read these in the planned order, and load the bytes of their own batches only.
The batches are a function of the shards, seed, epoch, batch_size and world, and not of the number of workers. Resuming
drops the first batches of the plan; on another number of ranks it deals out anew what is left of the epoch.
"""

import hashlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from prefixvlm.data.loading.bad_samples import BadSamples
from prefixvlm.data.loading.loader import ShardLoader
from prefixvlm.data.loading.make_batch import Collate
from prefixvlm.data.loading.plan.epoch_order import EpochOrder
from prefixvlm.data.loading.plan.rank_worker_split import Deal, Piece, RankPlan, lane_sizes, lanes_of_rank
from prefixvlm.data.loading.plan.source_order import SourceOrder
from prefixvlm.data.loading.shard_source import SampleLengths, ShardSource

VERSION = 2  # of the order of samples; a checkpoint of another starts its epoch again
logger = logging.getLogger(__name__)


class Part(NamedTuple):
    """Steps `start` to `stop` of an epoch, which this number of ranks took. lanes: of each rank (see Deal)."""

    world: int
    batch_size: int
    lanes: int
    start: int = 0
    stop: int = 0


class TrainLoader(ShardLoader):
    """Loader for training: shuffles across and within shards, and gives every rank the same number of batches.

    Several sources are mixed by their weights; in the next epoch each continues where this one left it.

    epoch_samples: the number of samples of an epoch; by default that of all sources together.
    shuffle_buffer: the order of a source's shards is shuffled, and then its samples within blocks of so many. A worker
        holds about this many undecoded samples at most, or a batch of each of its lanes. From the number of all samples
        on, the order is fully random; 1 keeps the order of the shards, with the same batches every epoch.
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
        self.mixed = len(sources) > 1 or epoch_samples is not None
        # Samples that all fit in the buffer are shuffled as one, and so no rank has shards of its own.
        shared = shuffle_buffer == 1 or shuffle_buffer >= self.num_samples
        self.num_samples = self.num_samples if epoch_samples is None else epoch_samples
        self.length = self.num_samples // (batch_size * self.world)
        if self.length < 1:
            raise ValueError(
                f"{self.num_samples} training samples do not fill one batch of {batch_size} on each of {self.world} "
                "ranks; set data.batch_size to less"
            )
        self.shuffle_buffer, self.bucket_batches = shuffle_buffer, bucket_batches
        self.orders = [
            SourceOrder(np.array(source.counts), shuffle_buffer, self.seed, index)
            for index, source in enumerate(sources)
        ]
        self.text_lengths = SampleLengths(sources, self.orders) if bucket_batches else None
        self.bad_samples = BadSamples(max_bad_fraction, self.num_samples)
        self.epoch, self.batches, self._started = 0, 0, False  # batches: yielded in this epoch
        self.positions = [0] * len(sources)  # how many samples of each source precede this epoch
        lanes = 0 if shared else lanes_of_rank(sum(len(source.shards) for source in sources), self.world)
        self.whole = Part(self.world, batch_size, min(lanes, self.length))
        self.parts = [self.whole]  # of this epoch, up to the present one

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        # Lightning stops at len(self) without exhausting the iterator, so code after the loop might never run.
        if self._started or self.batches >= len(self):
            self._begin_next_epoch()
        self._started = True
        plan, last = self._plan(), len(self.parts) - 1
        epoch = 0 if self.shuffle_buffer == 1 else self.epoch  # unshuffled epochs have the same batches
        seed = f"{self.seed}-{epoch}-{f'{last}-' if last else ''}{{step}}"
        ahead = self.shuffle_buffer // max(1, self.parts[-1].lanes)
        reach = self.shuffle_buffer + plan.order.window
        for batch in self._read(plan, seed, self.bad_samples, ahead, reach, replace=True):
            self.batches += 1
            yield batch

    def _begin_next_epoch(self) -> None:
        if self.shuffle_buffer > 1:
            self.positions = self._order().end if self.mixed else [(self.epoch + 1) * self.orders[0].num_samples]
        self.epoch, self.batches, self.parts = self.epoch + 1, 0, [self.whole]

    def _order(self) -> EpochOrder:
        """Return the order of this epoch, which the ranks that began it have given it."""
        world, batch_size, lanes, *_ = self.parts[0]
        num_batches = self.num_samples // (batch_size * world) * world
        sharing = 1 if lanes else world  # the ranks that take the batches of one lane in turn
        return EpochOrder(
            self.orders,
            [source.weight for source in self.sources],
            self.positions,
            lane_sizes(num_batches, batch_size, world * lanes or 1),
            self.seed,
            0 if self.shuffle_buffer == 1 else self.epoch,
            self.text_lengths,
            self.bucket_batches * batch_size * sharing,
            batch_size,
            sharing,
        )

    def _plan(self) -> RankPlan:
        order, first = self._order(), self.parts[0]
        lanes = [Piece(lane, 0, size) for lane, size in enumerate(order.lane_sizes.tolist())]
        deal = Deal(lanes, first.world, first.batch_size, first.lanes)
        for before, after in pairwise(self.parts):
            deal = deal.after(before.stop - before.start, after.world, after.batch_size, after.lanes)
        return RankPlan(order, deal, self.rank, self.batches - self.parts[-1].start)

    @cached_property
    def _settings(self) -> dict[str, Any]:
        """The settings that the order of the samples depends on. A state resumes only if these are the same."""
        names = [
            (source.name, source.weight, [shard.path.name for shard in source.shards], source.counts)
            for source in self.sources
        ]
        values = {name: getattr(self, name) for name in ("seed", "shuffle_buffer", "bucket_batches", "num_samples")}
        return {"shards": hashlib.sha256(repr(names).encode()).hexdigest(), **values, "version": VERSION}

    def state_dict(self) -> dict[str, Any]:
        *parts, last = self.parts
        return {
            "epoch": self.epoch,
            "batches": self.batches,
            "positions": self.positions,
            "parts": [list(part) for part in (*parts, last._replace(stop=self.batches))],
            "plan": self._settings,
            "bad": dict(self.bad_samples.bad),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.batches, self._started = state["epoch"], state["batches"], False
        self.bad_samples.restore(state.get("bad", {}))
        changed = [name for name, value in self._settings.items() if state["plan"].get(name) != value]
        if changed:
            self.batches, self.parts = 0, [self.whole]
            self.positions = [0 if self.mixed else self.epoch * self.orders[0].num_samples] * len(self.orders)
            warnings.warn(
                f"{', '.join(changed)} differ from the checkpoint's: epoch {self.epoch} starts from its first sample "
                "again; to resume exactly, set them as they were",
                stacklevel=2,
            )
            return
        self.positions, self.parts = list(state["positions"]), [Part(*part) for part in state["parts"]]
        if not self.parts[0].stop:  # nothing of the epoch was read
            self.parts = [self.whole]
        if self.parts[-1][:2] != self.whole[:2]:
            self._deal_anew()

    def _deal_anew(self) -> None:
        """Deal out what is left of the epoch to the ranks that are there now."""
        before = self.parts[-1]
        self.parts.append(self.whole._replace(lanes=self.whole.lanes or 1 if self.parts[0].lanes else 0))
        left = self._plan().deal.num_steps()
        # As if these ranks had begun the epoch: its end is the same for the trainer as that of any other.
        self.batches = len(self) - left
        self.parts[-1] = self.parts[-1]._replace(start=self.batches)
        if left and self.rank == 0:
            logger.warning(
                "epoch %d goes on with %d ranks and batches of %d instead of %d and %d: the rest has %d of %d steps",
                *(self.epoch, *self.whole[:2], *before[:2], left, len(self)),
            )
