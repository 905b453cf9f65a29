"""Merging trials: means, spreads, and intervals of the mean of each item."""

import numpy as np
import pytest

from prefixvlm.evaluation.trials import merge_trials
from prefixvlm.metrics.bootstrap import bootstrap_interval
from prefixvlm.task.results.prediction import Prediction

IDS = ["a0", "a1", "b0", "c0"]


def predictions(trial):
    return [Prediction("vqa", id[0], id, "", f"text of trial {trial}", ("x",), 0.0) for id in IDS]


def trial(number, items, cider=0.5):
    """Make a report in which the score of a group has no items, and cider has no interval."""
    report = {
        "scores": {"accuracy": sum(items) / 4, "cider": cider, "accuracy_a": 1.0},
        "intervals": {"accuracy": (0.0, 1.0), "accuracy_a": (0.0, 1.0)},
        "items": {"accuracy": dict(zip(IDS, items, strict=True))},
        "resamples": {"cider": np.array([cider, 0.0])},
        "counts": {"accuracy": 4, "cider": 4, "accuracy_a": 2},
        "num_items": 4,
    }
    return {"vqa": report}, {"vqa": predictions(number)}


def test_no_trial_and_one_trial_are_unchanged():
    assert merge_trials([]) == ({}, {})
    one = trial(0, [100, 0, 0, 100])
    assert merge_trials([one]) == (one[0], one[1])
    assert "spread" not in merge_trials([one])[0]["vqa"]


def test_several_trials_are_merged_to_means_and_spreads():
    reports, merged = merge_trials([trial(0, [100, 0, 0, 100], 0.2), trial(1, [100, 100, 0, 100], 0.6)])
    report = reports["vqa"]
    assert report["scores"] == pytest.approx({"accuracy": 62.5, "cider": 0.4, "accuracy_a": 1.0})
    assert report["spread"]["accuracy"] == pytest.approx(25 / 2**0.5)  # with n - 1
    assert report["spread"]["accuracy_a"] == 0
    assert report["trials"]["cider"] == [0.2, 0.6]
    assert report["items"] == {"accuracy": {"a0": 100, "a1": 50, "b0": 0, "c0": 100}}
    assert report["resamples"]["cider"].tolist() == pytest.approx([0.4, 0.0])
    assert report["counts"]["accuracy_a"] == 2
    assert [p.prediction for p in merged["vqa"]] == ["text of trial 0"] * 4


def test_the_interval_is_a_bootstrap_of_item_means_by_image():
    reports, _ = merge_trials([trial(0, [100, 0, 0, 100]), trial(1, [100, 100, 0, 100])])
    expected = bootstrap_interval([100, 50, 0, 100], ["a", "a", "b", "c"])
    assert reports["vqa"]["intervals"] == {"accuracy": expected, "accuracy_a": (0.0, 1.0)}
    assert expected != bootstrap_interval([100, 50, 0, 100])


def test_the_reports_of_the_trials_are_not_modified():
    trials = [trial(0, [100, 0, 0, 100]), trial(1, [100, 100, 0, 100])]
    before = repr(trials)
    merge_trials(trials)
    assert repr(trials) == before


def test_a_score_that_a_trial_lacks_is_left_out():
    with_class, without = trial(0, [100, 0, 0, 100]), trial(1, [100, 100, 0, 100])
    with_class[0]["vqa"]["scores"]["map_circle"] = 50.0
    for trials in ([with_class, without], [without, with_class]):
        assert "map_circle" not in merge_trials(trials)[0]["vqa"]["scores"]
