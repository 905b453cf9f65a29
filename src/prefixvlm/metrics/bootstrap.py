"""Scores of single items go in; an interval for what they make comes out, by the percentile bootstrap (Efron 1979)."""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def bootstrap_interval(
    scores: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """The lower and upper end, on the scale of the scores; the same seed gives the same ends.

    groups: what each item belongs to, as the image of a question. Groups are then drawn whole: questions about one
    image fail together, and an interval that takes them for independent is too narrow.
    """
    sums, counts = group_sums(scores, groups)
    generator = np.random.default_rng(seed)
    draws = (generator.integers(len(sums), size=len(sums)) for _ in range(num_resamples))
    means = [sums[draw].sum() / counts[draw].sum() for draw in draws]
    return _ends(means, level)


def bootstrap_intervals(
    statistic: Callable[[NDArray[np.int64]], Sequence[float]],
    groups: Sequence[Hashable],
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> list[tuple[float, float]]:
    """As `bootstrap_interval`, for figures of a whole set, such as BLEU or F1: one interval for each of them.

    statistic: from the numbers of the items that were drawn, some several times, to the figures; NaN where a draw
    leaves one undefined, which is then left out.
    """
    members = _members(groups)
    by_group = np.split(np.argsort(members, kind="stable"), np.cumsum(np.bincount(members))[:-1])
    generator = np.random.default_rng(seed)
    figures = []
    for _ in range(num_resamples):
        draw = generator.integers(len(by_group), size=len(by_group))
        figures.append(
            statistic(draw if len(by_group) == len(members) else np.concatenate([by_group[g] for g in draw]))
        )
    return [_ends([value for value in column if not math.isnan(value)], level) for column in zip(*figures, strict=True)]


def _ends(values: Sequence[float], level: float) -> tuple[float, float]:
    tail = 50 * (1 - level)
    low, high = np.percentile(values, [tail, 100 - tail]) if len(values) else (math.nan, math.nan)
    return float(low), float(high)


def _members(groups: Sequence[Hashable]) -> list[int]:
    """The number of each item's group, in the order in which groups first come."""
    places: dict[Hashable, int] = {}
    return [places.setdefault(group, len(places)) for group in groups]


def group_sums(scores: Sequence[float], groups: Sequence[Hashable] | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """float[G], the sum of each group's scores, and int[G], how many they are; without groups each item is one.

    Raises ValueError if there are no scores, if one is not finite, or if groups has another length.
    """
    values = np.asarray(scores, dtype=float)
    if not len(values):
        raise ValueError("there are no scores to make an interval of")
    if groups is not None and len(groups) != len(values):
        raise ValueError(f"there are {len(values)} scores but {len(groups)} groups")
    if not np.isfinite(values).all():
        raise ValueError(f"the score of item {np.isfinite(values).argmin()} is no finite number")
    members = _members(range(len(values)) if groups is None else groups)
    return np.bincount(members, weights=values), np.bincount(members)
