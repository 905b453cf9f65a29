"""Each rank's predictions go in; all of them, once each and in one order, come out on rank 0."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch.distributed as dist

from prefixvlm.task.results.prediction import Prediction

T = TypeVar("T")


def gather_by_id(predictions: Sequence[Prediction], num_keys: int | None = None) -> list[Prediction]:
    """On rank 0 everyone's predictions; elsewhere none. What two ranks have, as a padded sampler gives it, counts once.

    Raises ValueError if a rank has an item twice, two images have an item of one id, or there are not num_keys images.
    """
    everyone = _gather(list(predictions))
    return on_rank_zero(lambda: _in_order(everyone, num_keys), elsewhere=[])


def _in_order(everyone: Sequence[Sequence[Prediction]], num_keys: int | None) -> list[Prediction]:
    found: dict[str, Prediction] = {}
    for rank in everyone:
        counts = Counter(p.id for p in rank)
        for p in rank:
            if counts[p.id] > 1 or found.setdefault(p.id, p).key != p.key:
                raise ValueError(f"the id {p.id!r} comes twice in the shards; make ids unique")
    ordered = sorted(found.values(), key=lambda p: (p.key, p.id))
    if num_keys is not None and len({p.key for p in ordered}) != num_keys:
        raise ValueError(f"{len({p.key for p in ordered})} images were predicted, but the shards hold {num_keys}")
    return ordered


def on_rank_zero(function: Callable[[], T], elsewhere: T | None = None) -> T:
    """What the function returns on rank 0; on other ranks that too, or `elsewhere`.

    An error on rank 0 is one on every rank, so that none waits for it.
    """
    if not _distributed():
        return function()
    first = dist.get_rank() == 0
    result: Any = elsewhere
    told: list[Any] = [None, None]  # a value and an error
    if first:
        try:
            result = function()
            told[0] = result if elsewhere is None else None
        except Exception as error:
            told[1] = error
    dist.broadcast_object_list(told)
    if told[1] is not None:
        raise told[1]
    return told[0] if elsewhere is None else result


def _gather(mine: list[Prediction]) -> list[list[Prediction]]:
    if not _distributed():
        return [mine]
    everyone: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(mine, everyone)
    return everyone or []


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
