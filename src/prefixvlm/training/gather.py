"""Each rank's predictions go in; all of them, once each and in one order on every rank, come out."""

from collections import Counter
from collections.abc import Sequence

import torch.distributed as dist

from prefixvlm.task.interface import Prediction


def gather_by_id(predictions: Sequence[Prediction], num_keys: int | None = None) -> list[Prediction]:
    """Raises ValueError if an item comes twice, or if there are not num_keys images."""
    everyone = [list(predictions)]
    if dist.is_available() and dist.is_initialized():
        everyone = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(everyone, list(predictions))
    ids = Counter(p.id for rank in everyone for p in rank)
    if repeated := [id for id, count in ids.items() if count > 1]:
        raise ValueError(
            f"{len(repeated)} ids come twice in the test shards, {repeated[0]!r} among them; make them unique"
        )
    ordered = sorted((p for rank in everyone for p in rank), key=lambda p: (p.key, p.id))
    if num_keys is not None and len({p.key for p in ordered}) != num_keys:
        raise ValueError(f"{len({p.key for p in ordered})} images were predicted, but the test shards hold {num_keys}")
    return ordered
