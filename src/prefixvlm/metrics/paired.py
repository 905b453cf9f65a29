"""Paired significance tests of two systems on the same items."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prefixvlm.metrics.bootstrap import bootstrap_interval, group_sums, percentile_interval

CHUNK = 2**22  # number of signs in memory at once; 32 MB as float64


@dataclass(frozen=True)
class PairedTest:
    """The difference is b - a, its interval a 95 % percentile bootstrap; all but p_value are on the scores' scale."""

    mean_a: float
    mean_b: float
    difference: float
    interval: tuple[float, float]
    p_value: float


def paired_test(
    a: Sequence[float],
    b: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> PairedTest:
    """Test whether the mean scores of a and b differ: a two-sided permutation test with random sign flips (Fisher).

    groups: the group of each item, as in `bootstrap_interval`; the items of a group change sign together.
    p_value: the share of sign flips with a difference at least as large as the observed one, counting ties; with G
        groups that differ it cannot fall below 2 / 2**G.
    Raises ValueError if the lengths differ, if there are no items, or if a score is not finite.
    """
    # Under the null hypothesis either system could have produced either score, so the difference of each group is as
    # likely with the opposite sign. No distribution of the scores is assumed, unlike in a t test.
    if len(a) != len(b):
        raise ValueError(f"there are {len(a)} scores of one system but {len(b)} of the other")
    differences = np.asarray(b, dtype=float) - np.asarray(a, dtype=float)
    sums, _ = group_sums(differences, groups)
    return PairedTest(
        mean_a=float(np.mean(a)),
        mean_b=float(np.mean(b)),
        difference=float(differences.mean()),
        interval=bootstrap_interval(differences, groups, num_resamples=num_resamples, seed=seed),
        p_value=_sign_flip_p_value(sums, num_resamples, seed),
    )


def paired_bootstrap(
    a: float, b: float, resamples_a: NDArray[np.float64], resamples_b: NDArray[np.float64]
) -> tuple[tuple[float, float], float]:
    """Return the interval of b - a and its two-sided p-value, for a score of the whole set such as BLEU.

    resamples_a, resamples_b: float[R], the scores of both for the same resamples (`bootstrap_values`), NaN where they
        are undefined.
    """
    differences = resamples_b - resamples_a
    differences = differences[~np.isnan(differences)]
    # The distribution of the resamples around their mean is taken for that of a null hypothesis without a difference
    # (Riezler and Maxwell 2005; sacrebleu's --paired-bs): how often is chance alone as far from 0 as what was observed?
    deviations = np.abs(differences - differences.mean()) if len(differences) else differences
    p_value = (int((deviations >= abs(b - a)).sum()) + 1) / (len(differences) + 1)
    return percentile_interval(differences), p_value


def _sign_flip_p_value(sums: NDArray[np.float64], num_resamples: int, seed: int) -> float:
    """sums: float[G], the difference of each group."""
    sums = sums[sums != 0]  # flipping a zero changes nothing
    if not len(sums):
        return 1.0
    # Equal sums in another order of addition differ in their last bits, and must still count as ties.
    bound = abs(sums.sum()) - 1e-12 * np.abs(sums).sum()
    # [seed, 1] gives another random stream than the bootstrap's, which has the same seed.
    generator, count, rows = np.random.default_rng([seed, 1]), 0, max(1, CHUNK // len(sums))
    for start in range(0, num_resamples, rows):
        # Each random byte gives eight signs.
        shape = min(rows, num_resamples - start), -(-len(sums) // 8)
        flips = np.unpackbits(generator.integers(256, size=shape, dtype=np.uint8), axis=1, count=len(sums))
        count += int((abs(sums.sum() - 2 * (flips @ sums)) >= bound).sum())
    # The observed signs are one of the permutations: without the + 1 a p-value could be 0 (Phipson and Smyth 2010).
    return (count + 1) / (num_resamples + 1)
