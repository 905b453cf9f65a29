"""Share of padding in batches with and without buckets, for easy-VQA and for captions of real lengths."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip

from prefixvlm.data.loading.mixture import find_sources
from prefixvlm.data.loading.plan.epoch_order import PLACE, EpochOrder
from prefixvlm.data.loading.plan.rank_worker_split import lane_sizes
from prefixvlm.data.loading.plan.source_order import SourceOrder
from prefixvlm.data.loading.shard_source import SampleLengths, ShardRef, ShardSource
from prefixvlm.data.loading.train_loader import TrainLoader
from prefixvlm.data.sample import Sample
from prefixvlm.data.shard_cache import ShardCache
from prefixvlm.task.captioning import Captioning
from prefixvlm.task.vqa import Vqa

BATCH, PREFIX, BUCKETS = 32, 10, (0, 10, 50)
TASKS = {"captioning": Captioning(), "vqa": Vqa()}
encode = open_clip.SimpleTokenizer().encode


@dataclass
class SourceWithLengths(ShardSource):
    """A source whose text lengths are given, and not in a manifest."""

    lengths: Sequence[Any] = ()

    def check_lengths(self) -> None:
        pass

    def lengths_of(self, number: int) -> Any:
        return self.lengths[number]


def lengths(samples: list[Sample], rng: random.Random, mixed: bool) -> list[int]:
    """Return the number of positions of each row: prefix, text and EOS, as task/rows/loader_rows.py makes them."""
    tasks = list(TASKS.values()) if mixed else [rng.choice(list(TASKS.values()))]
    rows = [row for task in tasks for sample in samples for row in task.training_rows(sample, rng)]
    return [PREFIX + len(encode(row.text + row.target)) + 1 for row in rows]


def mixed_lengths(samples: list[Sample], rng: random.Random) -> list[int]:
    return lengths(samples, rng, mixed=True)


def one_task_lengths(samples: list[Sample], rng: random.Random) -> list[int]:
    return lengths(samples, rng, mixed=False)


def share(batches: list[list[int]]) -> float:
    positions = sum(len(batch) * max(batch) for batch in batches)
    return 100 * (1 - sum(map(sum, batches)) / positions)


def mean_length(sample: Sample) -> int:
    texts = [*sample.captions, *(question.question for question in sample.questions)]
    return round(sum(map(len, texts)) / len(texts)) if texts else 0


def sample_lengths(samples: list[Sample], rng: random.Random) -> list[int]:
    return [mean_length(sample) for sample in samples]


def padding(shards: str = "data/easy-vqa") -> str:
    """Return the table. Needs the shards of easy-VQA; caption lengths are those of Flickr8k (caption_lengths.tsv)."""
    (source,) = find_sources(shards, "train", ShardCache())
    in_order = TrainLoader([source], 1, sample_lengths, 1, blind=True)
    all_lengths = np.array([length for batch in in_order for length in batch])
    lengths_of_shards = np.split(all_lengths, np.cumsum(source.counts)[:-1])
    source = SourceWithLengths(source.shards, lengths=lengths_of_shards)  # older shards have none
    lines = [f"easy-VQA, batches of {BATCH} images, % of positions that are padding"]
    for name, collate in (("one task a batch", one_task_lengths), ("tasks mixed", mixed_lengths)):
        for buckets in BUCKETS:
            loader = TrainLoader([source], BATCH, collate, 4000, bucket_batches=buckets, blind=True)
            lines.append(f"  {name:18} data.bucket_batches={buckets:<4} {share(list(loader)):6.2f}")
    return "\n".join([*lines, f"captions of Flickr8k's lengths, one an image, batches of {BATCH}", *captions()])


def captions(count: int = 20_000) -> list[str]:
    lines = [line.split() for line in Path(__file__).with_name("caption_lengths.tsv").read_text().splitlines()]
    table = [(int(line[0]), float(line[1])) for line in lines if line and line[0].isdigit()]
    tokens, weights = np.array([length for length, _ in table]), np.array([weight for _, weight in table])
    drawn = np.random.default_rng(0).choice(tokens, count, p=weights / weights.sum())
    source = SourceWithLengths([ShardRef(Path("captions"))], lengths=[drawn])
    result = []
    for buckets in BUCKETS:
        order = SourceOrder(np.array([count]), 4000, seed=0, source=0)
        sizes = lane_sizes(count // BATCH, BATCH, 1)
        lengths = SampleLengths([source], [order]) if buckets else None
        epoch = EpochOrder([order], [1], [0], sizes, 0, 0, lengths, buckets * BATCH, BATCH)
        places = np.concatenate(list(epoch.lane(0, 0, sizes[0])))[:, PLACE]
        batches = (drawn[places].reshape(-1, BATCH) + PREFIX + 1).tolist()
        result.append(f"  {'':18} data.bucket_batches={buckets:<4} {share(batches):6.2f}")
    return result
