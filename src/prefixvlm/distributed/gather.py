"""Gathers predictions from all ranks and runs functions on rank 0 only."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch.distributed as dist

from prefixvlm.task.results.prediction import Prediction

T = TypeVar("T")


def gather_by_id(predictions: Sequence[Prediction], num_keys: int | None = None) -> list[Prediction]:
    """Return the predictions of all ranks on rank 0, sorted by image and item; an empty list on other ranks.

    An item that two ranks have, as from a padded sampler, is returned once.

    num_keys: the expected number of images.
    Raises ValueError on every rank if a rank has an item twice, if two images have an item of the same id, or if the
    number of images is not num_keys.
    """
    by_rank = _gather(list(predictions))
    return on_rank_zero(lambda: _merge(by_rank, num_keys), elsewhere=[])


def _merge(by_rank: Sequence[Sequence[Prediction]], num_keys: int | None) -> list[Prediction]:
    merged: dict[str, Prediction] = {}
    for predictions in by_rank:
        counts = Counter(p.id for p in predictions)
        for p in predictions:
            if counts[p.id] > 1 or merged.setdefault(p.id, p).key != p.key:
                raise ValueError(f"the id {p.id!r} comes twice in the shards; make ids unique")
    ordered = sorted(merged.values(), key=lambda p: (p.key, p.id))
    if num_keys is not None and len({p.key for p in ordered}) != num_keys:
        raise ValueError(f"{len({p.key for p in ordered})} images were predicted, but the shards hold {num_keys}")
    return ordered


def on_rank_zero(function: Callable[[], T], elsewhere: T | None = None) -> T:
    """Call a function on rank 0 and return its result on all ranks, or `elsewhere` on the others if that is given.

    An exception on rank 0 is raised on every rank; the others would wait for rank 0 forever.
    """
    if not _distributed():
        return function()
    is_first = dist.get_rank() == 0
    result: Any = elsewhere
    message: list[Any] = [None, None]  # a result and an exception
    if is_first:
        try:
            result = function()
            message[0] = result if elsewhere is None else None
        except Exception as error:
            message[1] = error
    dist.broadcast_object_list(message)
    if message[1] is not None:
        raise message[1]
    return message[0] if elsewhere is None else result


def from_all_ranks(value: T) -> list[T]:
    """Return the values of all ranks, on each of them. Every rank must call it."""
    values: list[Any] = [value]
    if _distributed():
        values = [None] * dist.get_world_size()
        dist.all_gather_object(values, value)
    return values


def _gather(predictions: list[Prediction]) -> list[list[Prediction]]:
    if not _distributed():
        return [predictions]
    by_rank: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(predictions, by_rank)
    return by_rank or []


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
