"""Compare the paired test with all sign flips and with properties of p-values."""

import itertools
import math

import numpy as np
import pytest

import prefixvlm.metrics.paired as paired
from prefixvlm.metrics.bootstrap import bootstrap_interval, bootstrap_values
from prefixvlm.metrics.paired import paired_bootstrap, paired_test


def exact_p_value(differences: list[float]) -> float:
    """Count over all 2**n sign flips, ties included."""
    totals = [
        abs(sum(sign * value for sign, value in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(total >= totals[0] - 1e-9 for total in totals) / len(totals)


@pytest.mark.parametrize(
    "differences",
    [
        [0.1, 0.2, 0.3],
        [0.1] * 7 + [-0.1] * 2,  # equal sums in another order are other floats: without care, 0.125 and not 0.18
        [1, 1, 1, -1, 0, 0, 1, 1],
        [3, 1, 4, 1, 5, -9, 2, 6, -5],
        [-0.7, -0.1, -0.4, -0.35, -0.8, 0.05, -0.2, -0.9, -0.3, -0.6],
    ],
)
def test_p_value_equals_that_of_all_sign_flips(differences: list[float]) -> None:
    exact = exact_p_value(differences)
    error = np.sqrt(exact * (1 - exact) / 40_000)
    found = paired_test([0] * len(differences), differences, num_resamples=40_000)
    assert found.p_value == pytest.approx(exact, abs=5 * error + 1e-4)
    flipped = paired_test(differences, [0] * len(differences), num_resamples=40_000)
    assert flipped.p_value == pytest.approx(exact, abs=5 * error + 1e-4)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 50))
    whole = paired_test(a, b, num_resamples=999).p_value
    monkeypatch.setattr(paired, "CHUNK", 7 * 50)
    assert paired_test(a, b, num_resamples=999).p_value == pytest.approx(whole, abs=0.08)
    assert (whole * 1000) == pytest.approx(round(whole * 1000))  # (count + 1) / (n + 1)


def test_identical_systems_do_not_differ() -> None:
    scores = np.random.default_rng(0).normal(size=30).tolist()
    found = paired_test(scores, scores)
    assert (found.difference, found.interval, found.p_value) == (0.0, (0.0, 0.0), 1.0)
    assert found.mean_a == found.mean_b == pytest.approx(np.mean(scores))


def test_an_obvious_difference() -> None:
    rng = np.random.default_rng(2)
    a = rng.normal(50, 10, size=400)
    b = a + rng.normal(3, 2, size=400)
    groups = [index // 2 for index in range(400)]
    found = paired_test(a.tolist(), b.tolist(), groups, num_resamples=999)
    assert found.p_value == 1 / 1000
    assert (found.mean_a, found.mean_b) == pytest.approx((a.mean(), b.mean()))
    assert found.difference == pytest.approx(b.mean() - a.mean())
    assert found.interval == bootstrap_interval(b - a, groups, num_resamples=999)
    assert 2.5 < found.interval[0] < found.difference < found.interval[1] < 3.5
    assert paired_test(b, a, groups, num_resamples=999).difference == -found.difference


def test_p_values_of_equal_systems_are_uniform() -> None:
    rng = np.random.default_rng(4)
    p_values = np.array([paired_test(*rng.normal(size=(2, 30)), num_resamples=199).p_value for _ in range(400)])
    for level in (0.05, 0.25, 0.5, 0.75):
        assert (p_values <= level).mean() == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / 400))


def test_items_of_a_group_change_sign_together() -> None:
    """Use five images with forty questions each, where all of an image are right or wrong together."""
    differences = np.repeat([1.0, 1.0, 1.0, -1.0, 1.0], 40)
    zeros, groups = np.zeros(200), np.repeat(list("abcde"), 40).tolist()
    assert paired_test(zeros, differences).p_value == pytest.approx(1 / 10_001)
    grouped = paired_test(zeros, differences, groups)
    assert grouped.p_value == pytest.approx(exact_p_value([1, 1, 1, -1, 1]), abs=0.02)
    assert grouped.interval[0] < 0 < paired_test(zeros, differences).interval[0]


def test_the_seed_determines_the_result() -> None:
    a, b = np.random.default_rng(6).normal(size=(2, 40))
    assert paired_test(a, b) == paired_test(a, b)
    assert paired_test(a, b, seed=1).p_value != paired_test(a, b).p_value


@pytest.mark.parametrize(
    ("a", "b", "groups", "message"),
    [
        ([1.0], [1.0, 2.0], None, "1 scores of one system but 2 of the other"),
        ([], [], None, "no scores"),
        ([1.0], [2.0], ["a", "b"], "1 scores but 2 groups"),
        ([1.0, float("nan")], [1.0, 2.0], None, "item 1 is not a finite number"),
    ],
)
def test_bad_input(a, b, groups, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_test(a, b, groups)


def test_paired_bootstrap_of_means_agrees_with_the_normal_approximation() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal([[0.0], [0.1]], size=(2, 400))
    a += b  # the systems are correlated, so that unpaired intervals would be too wide
    columns = [
        bootstrap_values(lambda draw, x=x: [x[draw].mean()], range(400), num_resamples=4000)[:, 0] for x in (a, b)
    ]
    interval, p_value = paired_bootstrap(a.mean(), b.mean(), *columns)
    difference, error = (b - a).mean(), (b - a).std(ddof=1) / 20
    assert interval == pytest.approx((difference - 1.96 * error, difference + 1.96 * error), abs=0.1 * error)
    assert interval == pytest.approx(bootstrap_interval(b - a, num_resamples=4000))
    assert p_value == pytest.approx(math.erfc(abs(difference) / error / 2**0.5), abs=0.03)


def test_paired_bootstrap_leaves_out_undefined_resamples() -> None:
    nan = math.nan
    interval, p_value = paired_bootstrap(0.0, 1.0, np.array([nan, 0.0, 0.0]), np.array([5.0, 1.0, 1.0]))
    assert (interval, p_value) == ((1.0, 1.0), 1 / 3)
    interval, p_value = paired_bootstrap(0.0, 1.0, np.array([nan]), np.array([nan]))
    assert (np.isnan(interval).all(), p_value) == (True, 1.0)
    assert paired_bootstrap(1.0, 1.0, np.ones(9), np.ones(9)) == ((0.0, 0.0), 1.0)
