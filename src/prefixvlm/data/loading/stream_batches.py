"""Dataset of the endless batches of one rank: webdataset's pipeline over resampled shards, in each worker process.

Each worker of each rank is a reader with random numbers of its own:

    wds.ResampledShards -> read_shard  (for each source)  -> draw by weight -> wds.shuffle -> batches

The shards are opened by this package and not by webdataset, which takes a damaged header for the end of a shard and
runs URLs that begin with `pipe:` in a shell.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from typing import Any, NamedTuple

import webdataset as wds
from torch.utils.data import IterableDataset, get_worker_info

from prefixvlm.data.image import ImageDecoder, reason_of
from prefixvlm.data.loading.bad_samples import Bad, BadSamples
from prefixvlm.data.loading.make_batch import BatchMaker, Collate
from prefixvlm.data.loading.planned_batches import MAX_REPLACEMENTS
from prefixvlm.data.loading.shard_source import ShardRef, ShardSource, prefetched
from prefixvlm.data.shards.read import RawSample, read_shard

MAX_EMPTY_SHARDS = 64  # without a sample, before a reader gives up
Place = list[int]  # the number of shards that were read to their end, and of samples that were read of the next one


class StreamedBatch(NamedTuple):
    """A batch, what was left out since the last one, the reader and its places in the sources after the batch."""

    batch: Any
    bad_samples: list[Bad]
    bad_shards: list[Bad]
    reader: int
    places: list[Place]


@dataclass(frozen=True)
class Stream:
    """What the batches of all ranks depend on.

    seed: of the random choices within a batch. draws: seeds the draws of shards.
    """

    sources: Sequence[ShardSource]
    batch_size: int
    shuffle_buffer: int
    seed: int
    draws: str
    max_bad_fraction: float


class StreamBatches(IterableDataset):
    """Yields StreamedBatch without end, of one rank; of W workers each makes every W-th batch.

    first: the number of the first batch. places: for each reader of the rank its places in the sources.
    """

    def __init__(
        self,
        stream: Stream,
        collate: Collate,
        blind: bool,
        decoder: ImageDecoder,
        rank: int,
        first: int,
        places: list[list[Place]],
    ) -> None:
        self.stream, self.rank, self.first, self.places = stream, rank, first, places
        self.maker = BatchMaker(collate, blind, decoder=decoder)

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        first = self.first + (worker.id if worker else 0)
        # torch takes the first batch from worker 0, whichever reader's turn it was when the run was stopped.
        reader = first % len(self.places)
        places = [list(place) for place in self.places[reader]]
        try:
            yield from _Reader(self.stream, self.maker, self.rank, reader, len(self.places), first, places)
        except (ValueError, OSError) as error:
            yield error  # torch would put the worker's traceback into the message of an exception that is raised


class _Reader:
    """The pipeline of one worker."""

    def __init__(
        self,
        stream: Stream,
        maker: BatchMaker,
        rank: int,
        reader: int,
        num_readers: int,
        first: int,
        places: list[Place],
    ) -> None:
        self.stream, self.maker, self.reader, self.places = stream, maker, reader, places
        self.numbers = count(first, num_readers)
        self.number_of_all = rank * num_readers + reader
        self.name = f"{stream.draws}-{self.number_of_all}-{first}"
        self.bad_samples: list[Bad] = []
        self.bad_shards: list[Bad] = []
        num_shards = sum(len(source.shards) for source in stream.sources)
        self.all_bad_shards = BadSamples(stream.max_bad_fraction, num_shards, "shard")

    def __iter__(self) -> Iterator[StreamedBatch]:
        sources = [self._source(index) for index in range(len(self.stream.sources))]
        weights = [source.weight for source in self.stream.sources]
        return iter(
            wds.DataPipeline(
                partial(_mix, sources, weights, random.Random(f"mix-{self.name}")),
                wds.shuffle(self.stream.shuffle_buffer, rng=random.Random(f"shuffle-{self.name}")),
                self._batches,
            )
        )

    def _source(self, index: int) -> wds.DataPipeline:
        # webdataset's own seed of a worker needs a process group, which a spawned worker does not have. It adds
        # 961 * worker_seed to `seed`, so no two readers have the same draws.
        draws = wds.ResampledShards(
            [_name(shard) for shard in self.stream.sources[index].shards],
            seed=random.Random(f"{self.stream.draws}-{index}").getrandbits(31),
            worker_seed=lambda: self.number_of_all,
            deterministic=True,
        )
        return wds.DataPipeline(draws, partial(self._samples, index))

    def _samples(self, index: int, draws: Iterator[dict[str, str]]) -> Iterator[tuple[ShardRef, RawSample]]:
        """Yield the samples of the drawn shards, from the place of this source on."""
        shards = {_name(shard): shard for shard in self.stream.sources[index].shards}
        place, empty = self.places[index], list[ShardRef]()
        for shard, fetched in prefetched(shards[draw["url"]] for draw in islice(draws, place[0], None)):
            try:
                pin = fetched.result()
            except ValueError as error:  # fetching raises OSError for this machine alone, as for a full disk
                self._add_bad_shard(shard, error)
            else:
                try:
                    for raw in read_shard(pin.path, range(place[1], 2**63), partial(self._add_problem, shard)):
                        empty.clear()
                        place[1] += 1
                        yield shard, raw
                except (ValueError, OSError) as error:
                    self._add_bad_shard(shard, error)
                finally:
                    pin.close()
            if not place[1]:  # nothing came of it, now or before a checkpoint
                empty.append(shard)
            place[:] = [place[0] + 1, 0]
            if empty and len(set(empty)) in (len(shards), MAX_EMPTY_SHARDS):
                reason = self.bad_shards[-1][1] if self.bad_shards else f"shard {shard.path.name} holds no samples"
                raise ValueError(f"{reason}; none of {len(set(empty))} shards gave a sample; correct data.shards")

    def _add_bad_shard(self, shard: ShardRef, error: Exception) -> None:
        name = f"{shard.prefix}{shard.path.name}"
        reason = reason_of(error)
        reason = reason if reason.startswith("shard ") else f"shard {shard.path.name}: {reason}"
        if name not in self.all_bad_shards.bad:
            self.bad_shards.append((name, reason))
            self.all_bad_shards.restore({name: reason})
            self.all_bad_shards.check()

    def _add_problem(self, shard: ShardRef, problem: str) -> None:
        self.bad_samples.append((f"{shard.prefix}{problem}", problem))

    def _batches(self, samples: Iterator[tuple[ShardRef, RawSample]]) -> Iterator[StreamedBatch]:
        for number in self.numbers:
            for _ in range(MAX_REPLACEMENTS):
                chosen = islice(samples, self.stream.batch_size)
                batch, bad = self.maker.make(chosen, f"{self.stream.seed}-{number}")
                self.bad_samples += bad
                if not isinstance(batch, str):
                    break
            else:
                raise ValueError(f"{batch}; the same holds for {MAX_REPLACEMENTS} batches one after the other")
            places = [list(place) for place in self.places]
            yield StreamedBatch(batch, self.bad_samples, self.bad_shards, self.reader, places)
            self.bad_samples, self.bad_shards = [], []


def _name(shard: ShardRef) -> str:
    return shard.url or str(shard.path)


def _mix(
    sources: Iterable[Iterable[Any]], weights: list[float], rng: random.Random
) -> Iterator[tuple[ShardRef, RawSample]]:
    """Draw the source of each sample by weight."""
    # Not wds.RandomMix, which draws from the global random numbers.
    streams = [iter(source) for source in sources]
    while True:
        yield next(rng.choices(streams, weights)[0])
