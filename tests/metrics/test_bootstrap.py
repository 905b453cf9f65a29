"""Compare the bootstrap interval with the normal approximation, which is close for many items."""

import math

import numpy as np
import pytest

from prefixvlm.metrics.bootstrap import bootstrap_interval, bootstrap_values, group_sums, percentile_interval


def test_interval_is_close_to_the_normal_approximation() -> None:
    scores = np.random.default_rng(1).normal(50, 10, size=2000)
    half = 1.96 * scores.std() / np.sqrt(len(scores))
    low, high = bootstrap_interval(scores.tolist(), num_resamples=4000)
    assert low == pytest.approx(scores.mean() - half, abs=0.08 * half)
    assert high == pytest.approx(scores.mean() + half, abs=0.08 * half)


def test_items_of_a_group_are_resampled_together() -> None:
    groups = [index // 10 for index in range(1000)]
    scores = [100.0 * (group % 2) for group in groups]
    low, high = bootstrap_interval(scores)
    wide_low, wide_high = bootstrap_interval(scores, groups)
    assert (wide_high - wide_low) / (high - low) == pytest.approx(np.sqrt(10), rel=0.15)


def test_the_seed_determines_the_interval() -> None:
    scores = [0.0, 100.0, 100.0, 0.0, 100.0]
    assert bootstrap_interval(scores) == bootstrap_interval(scores)
    assert bootstrap_interval([1.0] * 5) == (1.0, 1.0)
    with pytest.raises(ValueError, match="no scores"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="2 scores but 1 groups"):
        bootstrap_interval([1, 2], ["a"])
    with pytest.raises(ValueError, match="item 1 is not a finite number"):
        bootstrap_interval([1, float("nan")])


def test_a_groups_items_are_summed_and_counted() -> None:
    sums, counts = group_sums([1, 2, 4, 8], ["b", "a", "b", "b"])
    assert (sums.tolist(), counts.tolist()) == ([13, 2], [3, 1])
    low, high = bootstrap_interval([0, 0, 0, 100], ["b", "b", "b", "a"])  # both, or one of them twice
    assert (low, high) == (0, 100)
    assert bootstrap_interval([0, 0, 0, 100], ["b", "b", "b", "a"], level=0.0)[0] == 25  # the median, of both


def test_intervals_of_a_corpus_statistic_equal_those_of_a_mean_and_ignore_nan():
    rng = np.random.default_rng(0)
    scores, groups = rng.normal(size=60), rng.integers(15, size=60).tolist()
    (column,) = bootstrap_values(lambda draw: [scores[draw].mean()], groups).T
    assert percentile_interval(column) == pytest.approx(bootstrap_interval(scores.tolist(), groups))
    values = bootstrap_values(lambda draw: [math.nan if 0 in draw else 1.0, len(draw)], list(range(5)))
    assert [percentile_interval(column) for column in values.T] == [(1.0, 1.0), (5, 5)]
    assert np.isnan(percentile_interval([math.nan])).all()
