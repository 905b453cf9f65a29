"""Planning of epochs of 10^5 to 10^9 samples on 8 to 1,024 ranks, and what each node fetches.

`python bench/scale.py`: invented counts of shards, the real loader: time and memory of its plan, what is fetched,
doubled and left out, and what it costs to resume; then processes that read 200 real shards over HTTP, whose server
counts bytes (scale_http.py). Writes outputs/bench/scale.json.
"""

import argparse
import gc
import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from measure import extra_memory, machine
from scale_http import train_over_http

from prefixvlm.data.loading.plan.epoch_order import PLACE
from prefixvlm.data.loading.plan.rank_worker_split import RankPlan
from prefixvlm.data.loading.shard_source import ShardRef, ShardSource
from prefixvlm.data.loading.train_loader import TrainLoader

OUT = Path("outputs/bench/scale.json")
ROWS = ((10**5, 8), (10**6, 64), (10**7, 64), (10**8, 256), (10**9, 8), (10**9, 1024))  # samples, ranks
BATCH, RANKS_OF_NODE, COUNTED = 32, 8, 2 * 10**6  # every sample of an epoch up to this size is counted


def source(num_samples: int) -> ShardSource:
    """Return shards of about 10,000 samples (1,000 in small sets), all of different sizes."""
    mean = 1000 if num_samples < 10**7 else 10_000
    counts = np.random.default_rng(0).integers(mean // 2, 3 * mean // 2, num_samples // mean)
    counts[-1] += num_samples - counts.sum()
    return ShardSource.of([ShardRef(Path(f"train-{n:06d}.tar")) for n in range(len(counts))], counts.tolist())


def collate(samples: Any, rng: Any) -> None:
    raise AssertionError("nothing is read")


def loader_of(shards: ShardSource, world: int, rank: int = 0) -> TrainLoader:
    return TrainLoader([shards], BATCH, collate, rank=rank, world=world)


def first_batches(loader: TrainLoader) -> RankPlan:
    """Plan an epoch up to the numbers of the first samples of each lane, and return the plan."""
    plan = loader._plan()
    lanes = {plan.deal.sequence_of(plan.rank, plan.first + step) for step in range(8)}
    for lane in lanes:
        next(plan.samples_of_worker(lane, 4000 // max(1, len(lanes))))
    return plan


def fetched_by_nodes(loader: TrainLoader, plan: RankPlan) -> list[float]:
    """Return for each node the share of the samples that are in the shards which its ranks open."""
    order, deal, (shards,) = plan.order, plan.deal, loader.orders
    read_order, starts = shards.read_order(0)
    counts, shares = shards.counts[read_order], []
    for first in range(0, loader.world, RANKS_OF_NODE):
        opened = np.zeros(len(counts), bool)
        if not deal.lanes:
            opened[:] = True
        for sequence in deal.sequences[first * deal.lanes : (first + RANKS_OF_NODE) * deal.lanes]:
            for piece in sequence:
                start, stop = (int(order.starts[order.first_rows[piece.lane], 0]) + at for at in piece[1:])
                blocks = start // loader.shuffle_buffer, -(-stop // loader.shuffle_buffer)  # of which it has a part
                low, high = (min(block * loader.shuffle_buffer, shards.num_samples - 1) for block in blocks)
                opened[np.searchsorted(starts, low, "right") - 1 : np.searchsorted(starts, high, "right")] = True
        shares.append(float(counts[opened].sum() / shards.num_samples))
    return shares


def places_of(plan: RankPlan, num_samples: int) -> np.ndarray:
    """Return the samples of the lanes, one lane after the other: of all of a small set, of neighbouring lanes else."""
    lanes = range(len(plan.deal.sequences))
    if num_samples > COUNTED:
        lanes = range(min(len(lanes), max(2, COUNTED * len(lanes) // num_samples)))
    return np.concatenate([part[:, PLACE] for lane in lanes for part in plan._samples(lane, 0)])


def num_dealt(plan: RankPlan) -> int:
    """Return the number of samples in all lanes, after a check that no two of these overlap."""
    pieces = [piece for sequence in plan.deal.sequences for piece in sequence]
    assert all(before.lane < after.lane or before.stop <= after.start for before, after in pairwise(pieces))
    return sum(piece.stop - piece.start for piece in pieces)


def resume_seconds(shards: ShardSource, state: dict[str, Any], world: int) -> float:
    resumed, start = loader_of(shards, world), time.perf_counter()
    resumed.load_state_dict(state)
    first_batches(resumed)
    return round(time.perf_counter() - start, 3)


def simulate(num_samples: int, world: int) -> dict[str, Any]:
    shards = source(num_samples)
    made: list[tuple[TrainLoader, RankPlan, float]] = []

    def make() -> None:
        start = time.perf_counter()
        loader = loader_of(shards, world)
        made.append((loader, first_batches(loader), time.perf_counter() - start))

    gc.collect()
    mib = extra_memory(make) / 2**20
    loader, plan, seconds = made.pop()
    places = places_of(plan, num_samples)
    assert {plan.deal.num_steps(rank) for rank in range(0, world, max(1, world // 16))} == {len(loader)}
    loader.batches = len(loader) // 2
    return {
        "samples": num_samples,
        "shards": len(shards.shards),
        "ranks": world,
        "lanes_of_a_rank": plan.deal.lanes,
        "plan_seconds": round(seconds, 3),
        "plan_mib": round(mib, 1),
        "node_fetches_percent": round(100 * max(fetched_by_nodes(loader, plan)), 3),
        "its_share_percent": round(100 * RANKS_OF_NODE / world, 3),
        "doubled": len(places) - len(np.unique(places)),
        "counted": len(places),
        "left_out": num_samples - num_dealt(plan),
        "resume_seconds": resume_seconds(shards, loader.state_dict(), world),
        "resume_on_half_the_ranks_seconds": resume_seconds(shards, loader.state_dict(), world // 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rows, and two processes on few shards")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "plans": [], "http": []}
    for row in ROWS[:2] if arguments.quick else ROWS:
        result["plans"].append(simulate(*row))
        print(json.dumps(result["plans"][-1]), flush=True)
    for world in (2,) if arguments.quick else (2, 4):
        result["http"].append(train_over_http(world, num_shards=40 if arguments.quick else 200))
        print(json.dumps(result["http"][-1]), flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
