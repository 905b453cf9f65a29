"""A table of resumed training loaders: whether they are exact, by workers, ranks and step of the interruption."""

import io
import random
import tarfile
import tempfile
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
from padding import SourceWithLengths
from PIL import Image

from prefixvlm.data.loading.eval_loader import EvalLoader
from prefixvlm.data.loading.shard_source import ShardRef, ShardSource
from prefixvlm.data.loading.train_loader import TrainLoader
from prefixvlm.data.sample import Sample

WORKERS, RANKS, SHARDS, KINDS = (0, 1, 3), (1, 2), (1, 5), ("plain", "mixture", "buckets")
SAMPLES, BATCH = 62, 3  # no multiple of the batch size or of 5 shards, so that both end unevenly


def keys(samples: list[Sample], rng: random.Random) -> tuple[list[str], float]:
    """Return the keys, and a number that random prompts or captions would depend on."""
    return [sample.key for sample in samples], rng.random()


def source(folder: Path, name: str, shards: int) -> ShardSource:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG")
    counts = np.bincount(np.arange(SAMPLES) * shards // SAMPLES)
    tars, number = [], 0
    for shard, count in enumerate(counts):
        path = folder / f"{name}-{shards}-{shard}.tar"
        with tarfile.open(path, "w") as file:
            for _ in range(count):
                info = tarfile.TarInfo(f"{number:03d}.png")
                info.size = len(buffer.getvalue())
                file.addfile(info, io.BytesIO(buffer.getvalue()))
                number += 1
        tars.append(ShardRef(path, f"{name}/"))
    return SourceWithLengths(tars, name, 1 + len(name), [np.arange(count) * 17 % 29 for count in counts])


def loaders(sources: list[ShardSource], kind: str, workers: int, ranks: int) -> list[TrainLoader]:
    chosen = sources if kind == "mixture" else sources[:1]
    options: dict[str, Any] = {"epoch_samples": SAMPLES} if kind == "mixture" else {}
    options["bucket_batches"] = 4 if kind == "buckets" else 0
    return [
        TrainLoader(chosen, BATCH, keys, 10, num_workers=workers, rank=rank, world=ranks, **options)
        for rank in range(ranks)
    ]


def is_exact(
    sources: list[ShardSource], kind: str, workers: int, ranks: int, stop: int, expected: list[list[Any]]
) -> bool:
    """Return whether every rank, resumed from the state of rank 0, reads the same batches as without a stop."""
    before = loaders(sources, kind, workers, ranks)
    read: list[list[Any]] = [[] for _ in range(ranks)]
    for rank, loader in enumerate(before):
        while len(read[rank]) < stop:
            read[rank] += islice(loader, min(len(loader), stop - len(read[rank])))
    after = loaders(sources, kind, workers, ranks)
    for rank, loader in enumerate(after):
        loader.load_state_dict(before[0].state_dict())
        read[rank] += list(loader)
    end = (stop // len(after[0]) + 1) * len(after[0])
    return all(batches == whole[:end] for batches, whole in zip(read, expected, strict=True))


def sees_each_once(sources: list[ShardSource], workers: int, ranks: int) -> bool:
    """Return whether the evaluation loaders of all ranks together yield each sample once."""
    seen = [key for rank in range(ranks)
            for batch, _ in EvalLoader(sources, BATCH, keys, num_workers=workers, rank=rank, world=ranks)
            for key in batch]  # fmt: skip
    return len(seen) == len(set(seen)) == sum(each.num_samples for each in sources)


def table() -> None:
    """Print the table row by row. The fifth interruption is at the end of an epoch."""
    print("batches  shards  workers  ranks  resumed exactly at batch                  evaluation")
    with tempfile.TemporaryDirectory() as folder:
        for kind, shards in product(KINDS, SHARDS):
            sources = [source(Path(folder), f"{kind}{name}", shards) for name in ("", "b")]
            for workers, ranks in [*product(WORKERS, RANKS), *([(3, 4)] if shards == 1 else [])]:
                whole = loaders(sources, kind, 0, ranks)
                length, expected = len(whole[0]), [[batch for _ in range(3) for batch in loader] for loader in whole]
                stops = [1, 2, (length + 1) // 2, length - 1, length, length + 1, length + 3, 2 * length]
                exact = [is_exact(sources, kind, workers, ranks, stop, expected) for stop in stops]
                points = " ".join(f"{stop}{'' if good else '!'}" for stop, good in zip(stops, exact, strict=True))
                good = f"{sum(exact)} of {len(exact)}"
                each = "each once" if sees_each_once(sources, workers, ranks) else "WRONG"
                print(f"{kind:9}{shards:5}{workers:9}{ranks:7}  {good}: {points:30}  {each}", flush=True)
