"""The scores of single items go in; an interval for their mean comes out, by the percentile bootstrap (Efron 1979)."""

from collections.abc import Hashable, Sequence

import numpy as np


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
    if not len(scores):
        raise ValueError("there are no scores to make an interval of")
    if groups is not None and len(groups) != len(scores):
        raise ValueError(f"there are {len(scores)} scores but {len(groups)} groups")
    places: dict[Hashable, int] = {}
    members = [places.setdefault(group, len(places)) for group in (range(len(scores)) if groups is None else groups)]
    sums, counts = np.bincount(members, weights=np.asarray(scores, dtype=float)), np.bincount(members)
    generator = np.random.default_rng(seed)
    draws = (generator.integers(len(sums), size=len(sums)) for _ in range(num_resamples))
    means = [sums[draw].sum() / counts[draw].sum() for draw in draws]
    tail = 50 * (1 - level)
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)
