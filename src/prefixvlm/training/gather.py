"""Each rank's predictions go in; all of them, once each and in one order on every rank, come out."""

from collections.abc import Sequence

import torch.distributed as dist

from prefixvlm.task.interface import Prediction


def gather_by_id(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Raises RuntimeError if an item was predicted twice: the loaders then gave it to two ranks."""
    everyone = [list(predictions)]
    if dist.is_available() and dist.is_initialized():
        everyone = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(everyone, list(predictions))
    by_id = {p.id: p for rank in everyone for p in rank}
    if len(by_id) != sum(map(len, everyone)):
        raise RuntimeError(f"{sum(map(len, everyone))} predictions for {len(by_id)} items: some were predicted twice")
    return sorted(by_id.values(), key=lambda p: (p.key, p.id))
