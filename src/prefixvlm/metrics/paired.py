"""Two systems' scores of the same items go in; their difference, its interval and a p-value come out."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prefixvlm.metrics.bootstrap import bootstrap_interval, group_sums

CHUNK = 2**22  # signs held at once; as float64, 32 MB


@dataclass(frozen=True)
class PairedTest:
    """All on the scale of the scores but p_value. difference: b - a. interval: 95 %, by the percentile bootstrap."""

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
    """Whether b scores otherwise than a on average: a two-sided permutation test (Fisher's, by random sign flips).

    If the two are alike, either could have given each score, so each group's difference is as likely with the other
    sign. p_value: how often random signs give a difference at least as large as the true one, ties included, as
    (count + 1) / (num_resamples + 1) (Phipson and Smyth 2010). G groups that differ cannot give less than 2 / 2**G.
    groups: what each item belongs to, as in `bootstrap_interval`; a group's items change sign together.
    Raises ValueError if the lengths differ, if there are no items, or if a score is not finite.
    """
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


def _sign_flip_p_value(sums: NDArray[np.float64], num_resamples: int, seed: int) -> float:
    """sums: float[G], the difference of each group."""
    sums = sums[sums != 0]  # a sign changes nothing there
    if not len(sums):
        return 1.0
    # Equal sums in another order of addition differ in their last bits, and must still count as ties.
    bound = abs(sums.sum()) - 1e-12 * np.abs(sums).sum()
    generator, count, rows = np.random.default_rng([seed, 1]), 0, max(1, CHUNK // len(sums))
    for start in range(0, num_resamples, rows):
        shape = min(rows, num_resamples - start), -(-len(sums) // 8)
        flips = np.unpackbits(generator.integers(256, size=shape, dtype=np.uint8), axis=1, count=len(sums))
        count += int((abs(sums.sum() - 2 * (flips @ sums)) >= bound).sum())
    return (count + 1) / (num_resamples + 1)
