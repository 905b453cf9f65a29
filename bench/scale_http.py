"""Processes with gloo that read shards over HTTP on 127.0.0.1, each with its own cache; the server counts bytes."""

import random
import socket
import tempfile
import threading
import time
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.multiprocessing as mp
from reading import photo

from prefixvlm.data.loading.mixture import find_sources
from prefixvlm.data.loading.train_loader import TrainLoader
from prefixvlm.data.sample import Sample
from prefixvlm.data.shard_cache import ShardCache
from prefixvlm.data.shards.write import write_shards

SAMPLES_PER_SHARD, BATCH = 10, 5


class CountingServer(ThreadingHTTPServer):
    """Serves the files of a folder as NODE/FILE. bytes: how many of tars were sent to each node."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.bytes, self.lock = Counter[str](), threading.Lock()


class Handler(SimpleHTTPRequestHandler):
    def translate_path(self, path: str) -> str:
        self.node, _, name = path.strip("/").partition("/")
        return super().translate_path(f"/{name}")

    def copyfile(self, source: Any, outputfile: Any) -> None:
        data = source.read()
        if self.path.endswith(".tar"):
            with self.server.lock:  # type: ignore[attr-defined]
                self.server.bytes[self.node] += len(data)  # type: ignore[attr-defined]
        outputfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


def keys(samples: list[Sample], rng: random.Random) -> list[str]:
    return [sample.key for sample in samples]


def read_epoch(rank: int, world: int, port: int, url: str, folder: str, results: Any) -> None:
    """Read an epoch as one rank, on a node of its own."""
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    sources = find_sources(f"{url}/node{rank}/", "train", ShardCache(f"{folder}/cache{rank}"))
    loader = TrainLoader(sources, BATCH, keys, shuffle_buffer=20, rank=rank, world=world)
    every: list[Any] = [None] * world
    dist.all_gather_object(every, list(loader))
    if rank == 0:
        results.put(every)
    dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def train_over_http(world: int, num_shards: int) -> dict[str, Any]:
    """Return what the server has counted while `world` processes read an epoch of small shards."""
    count = num_shards * SAMPLES_PER_SHARD
    with tempfile.TemporaryDirectory() as folder:
        photos = [photo(seed, (64, 48)) for seed in range(50)]
        samples = ((f"{n:06d}", {"jpg": photos[n % 50], "txt": f"photo {n}".encode()}) for n in range(count))
        shards = Path(folder, "shards")
        write_shards({"train": samples}, shards, "a benchmark", "none", SAMPLES_PER_SHARD)
        size = sum(path.stat().st_size for path in shards.glob("*.tar"))
        server = CountingServer(shards)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        start, results = time.perf_counter(), mp.get_context("spawn").SimpleQueue()
        url = f"http://127.0.0.1:{server.server_port}"
        mp.spawn(read_epoch, (world, _free_port(), url, folder, results), nprocs=world)
        ranks = results.get()
        seconds = time.perf_counter() - start
        server.shutdown()
        thread.join()
        server.server_close()
    seen = Counter(key for batches in ranks for batch in batches for key in batch)
    return {
        "ranks": world,
        "shards": num_shards,
        "fetched_percent_by_node": [round(100 * server.bytes[f"node{rank}"] / size, 1) for rank in range(world)],
        "batches": [len(batches) for batches in ranks],
        "samples": count,
        "read": len(seen),
        "doubled": seen.total() - len(seen),
        "seconds": round(seconds, 1),
    }
