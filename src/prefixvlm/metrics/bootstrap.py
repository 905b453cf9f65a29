"""Confidence intervals by the percentile bootstrap (Efron 1979)."""

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
    """Return the interval of the mean of per-item scores, on their scale.

    groups: the group of each item, such as the image of a question; whole groups are resampled then.
    """
    # Questions about one image tend to fail together: an interval that treats them as independent is too narrow.
    sums, counts = group_sums(scores, groups)
    generator = np.random.default_rng(seed)
    draws = (generator.integers(len(sums), size=len(sums)) for _ in range(num_resamples))
    # The mean over the items of a draw, not over its groups: groups differ in size, and large ones must weigh more.
    means = [sums[draw].sum() / counts[draw].sum() for draw in draws]
    return percentile_interval(means, level)


def bootstrap_values(
    statistic: Callable[[NDArray[np.int64]], Sequence[float]],
    groups: Sequence[Hashable],
    num_resamples: int = 1000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return float[num_resamples, K], the values of a corpus statistic, such as BLEU or F1, which is no mean of items.

    statistic: from the indices of a resample, with repetitions, to the K values; a value that is undefined for a
        resample is NaN there.
    groups: the group of each item, as in `bootstrap_interval`. Equal groups and seeds give the same resamples, so that
        two systems can be compared on them.
    """
    members = _group_indices(groups)
    by_group = np.split(np.argsort(members, kind="stable"), np.cumsum(np.bincount(members))[:-1])
    generator = np.random.default_rng(seed)
    resampled = []
    for _ in range(num_resamples):
        draw = generator.integers(len(by_group), size=len(by_group))
        # With one item per group a group's index is its item's, which saves the concatenation.
        items = draw if len(by_group) == len(members) else np.concatenate([by_group[group] for group in draw])
        resampled.append(statistic(items))
    return np.array(resampled, dtype=np.float64)


def percentile_interval(values: Sequence[float] | NDArray[np.float64], level: float = 0.95) -> tuple[float, float]:
    """Return the interval of a statistic from its values for the resamples; NaN if it is undefined for all."""
    tail, known = 50 * (1 - level), np.asarray(values, dtype=np.float64)
    # Undefined values are left out: a resample without a positive item, for example, has no ROC AUC.
    known = known[~np.isnan(known)]
    low, high = np.percentile(known, [tail, 100 - tail]) if len(known) else (math.nan, math.nan)
    return float(low), float(high)


def group_sums(scores: Sequence[float], groups: Sequence[Hashable] | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return float[G], the sum of each group's scores, and int[G], its number of items; None for one item per group.

    Raises ValueError if there are no scores, if one is not finite, or if groups has another length.
    """
    values = np.asarray(scores, dtype=float)
    if not len(values):
        raise ValueError("there are no scores to make an interval of")
    if groups is not None and len(groups) != len(values):
        raise ValueError(f"there are {len(values)} scores but {len(groups)} groups")
    if not np.isfinite(values).all():
        raise ValueError(f"the score of item {np.isfinite(values).argmin()} is not a finite number")
    members = _group_indices(range(len(values)) if groups is None else groups)
    return np.bincount(members, weights=values), np.bincount(members)


def _group_indices(groups: Sequence[Hashable]) -> list[int]:
    """Return the index of each item's group, numbered by first occurrence."""
    # Not np.unique: it sorts the groups, which need not be comparable, and the numbering decides what a seed draws.
    indices: dict[Hashable, int] = {}
    return [indices.setdefault(group, len(indices)) for group in groups]
