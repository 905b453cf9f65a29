"""Training loader for data.mode=stream: shards are drawn at random without end, and nothing is counted ahead."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from copy import deepcopy
from typing import Any

import torch.distributed as dist

from prefixvlm.data.loading.bad_samples import BadSamples
from prefixvlm.data.loading.loader import Loader
from prefixvlm.data.loading.make_batch import Collate
from prefixvlm.data.loading.shard_source import ShardSource
from prefixvlm.data.loading.stream_batches import Place, Stream, StreamBatches

logger = logging.getLogger(__name__)


class StreamLoader(Loader):
    """Loader for training from shards that nobody has counted, by webdataset's pipeline.

    Each worker of each rank draws shards at random, with replacement, and reads one after the other. So every rank
    always has a next batch, a sample may come twice before another comes once, and an epoch is epoch_samples by
    definition. The workers go on from one epoch to the next. Batches are a function of seed, batch_size,
    shuffle_buffer, world and the number of workers.

    shuffle_buffer: the number of undecoded samples among which each worker draws the next one.
    max_bad_fraction: the fraction of an epoch's samples that may be bad and are skipped; also the fraction of the
        shards that may be damaged or missing, the readable samples of which are used.

    The state has the place of every worker of every rank. A resumed run reads on from there: the samples that were in
    the shuffle buffers are left out. With other shards or another number of ranks or workers it draws anew.
    """

    def __init__(
        self,
        sources: Sequence[ShardSource],
        batch_size: int,
        collate: Collate,
        shuffle_buffer: int,
        epoch_samples: int,
        max_bad_fraction: float = 0.001,
        **kwargs: Any,
    ) -> None:
        super().__init__(sources, batch_size, collate, **kwargs)
        self.length = epoch_samples // (batch_size * self.world)
        if self.length < 1:
            raise ValueError(
                f"data.epoch_samples={epoch_samples} does not fill one batch of {batch_size} on each of {self.world} "
                "ranks; set it to more, or data.batch_size to less"
            )
        self.shuffle_buffer = shuffle_buffer
        self.bad_samples = BadSamples(max_bad_fraction, epoch_samples)
        self.bad_shards = BadSamples(max_bad_fraction, sum(len(source.shards) for source in sources), "shard")
        self.epoch, self.batches, self._started = 0, 0, False  # batches: yielded in this epoch
        self.number, self.draws = 0, str(self.seed)  # number: of batches that were yielded in all epochs
        self.places = self._no_places()
        self._running: Iterator[Any] | None = None
        self._message = ""  # about a resumed stream. Lightning and the data module both load the state

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        # Lightning stops at len(self) without exhausting the iterator, so code after the loop might never run.
        if self._started or self.batches >= len(self):
            self.epoch, self.batches = self.epoch + 1, 0
            self.bad_samples.start_epoch()
        self._started = True
        if self._running is None:
            self._running = self._start()
        while self.batches < len(self):
            with ExitStack() as unless_made:
                unless_made.callback(self.close)  # at an error and at Ctrl-C
                batch = self._next()
                unless_made.pop_all()
            yield batch

    def _next(self) -> Any:
        assert self._running is not None
        # Neither the iterator nor an error is left in a variable: the traceback would keep them, and so the workers.
        result = next(self._running)
        if isinstance(result, Exception):
            try:
                raise result
            finally:
                del result
        self.bad_shards.add(result.bad_shards)
        self.bad_samples.add(result.bad_samples)
        self.places[self.rank][result.reader] = result.places
        self.batches, self.number = self.batches + 1, self.number + 1
        return result.batch

    def close(self) -> None:
        """End the workers."""
        self._running = None

    def _start(self) -> Iterator[Any]:
        fraction = self.bad_shards.fraction
        stream = Stream(self.sources, self.batch_size, self.shuffle_buffer, self.seed, self.draws, fraction)
        places = self.places[self.rank]
        batches = StreamBatches(stream, self.collate, self.blind, self.decoder, self.rank, self.number, places)
        if self._message and self.rank == 0:
            logger.warning(self._message)
        self._message = ""
        return iter(self._in_workers(batches))

    def _no_places(self) -> list[list[list[Place]]]:
        """Return the start: for each rank, each of its workers and each source the place [0, 0]."""
        return [[[[0, 0] for _ in self.sources] for _ in range(max(1, self.num_workers))] for _ in range(self.world)]

    def _settings(self) -> dict[str, Any]:
        """Return the settings that the draws depend on."""
        names = [(source.name, [shard.path.name for shard in source.shards]) for source in self.sources]
        shards = hashlib.sha256(repr(names).encode()).hexdigest()
        workers = max(1, self.num_workers)
        return {"mode": "stream", "shards": shards, "seed": self.seed, "world": self.world, "num_workers": workers}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all ranks, which must all call this, as they do when Lightning saves a checkpoint."""
        self.bad_samples.gather()
        self.bad_shards.gather()
        if dist.is_available() and dist.is_initialized():
            dist.all_gather_object(self.places, self.places[self.rank])
        return {
            "epoch": self.epoch,
            "batches": self.batches,
            "plan": self._settings(),
            "bad": dict(self.bad_samples.bad),
            "bad_before": self.bad_samples.before,
            "bad_shards": dict(self.bad_shards.bad),
            "number": self.number,
            "draws": self.draws,
            "places": deepcopy(self.places),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.batches, self._started = state["epoch"], state["batches"], False
        self.number = state.get("number", self.epoch * len(self) + self.batches)
        self.bad_samples.restore(state.get("bad", {}), state.get("bad_before", 0))
        self.bad_shards.restore(state.get("bad_shards", {}))
        changed = [name for name, value in self._settings().items() if state["plan"].get(name) != value]
        if changed:
            self.draws, self.places = f"{self.seed}-{self.number}", self._no_places()
            self._message = f"{', '.join(changed)} differ from the checkpoint's: the stream of shards is drawn anew"
        else:
            self.draws, self.places = state["draws"], deepcopy(state["places"])
            self._message = (
                "the stream of shards goes on at its place in the checkpoint; the samples in the shuffle buffer of "
                f"each worker, {self.shuffle_buffer} at most, are left out"
            )
        self._running = None
