"""Several trials as one: means, spreads, and an interval of what each item has on average."""

import pytest

from prefixvlm.evaluation.trials import merge_trials
from prefixvlm.metrics.bootstrap import bootstrap_interval
from prefixvlm.task.results.prediction import Prediction

IDS = ["a0", "a1", "b0", "c0"]


def predictions(trial):
    return [Prediction("vqa", id[0], id, "", f"said in {trial}", ("x",), 0.0) for id in IDS]


def trial(number, items, cider=0.5):
    """Of items a part is in the score of a group, which has no items of its own; cider has no interval."""
    report = {
        "scores": {"accuracy": sum(items) / 4, "cider": cider, "accuracy_a": 1.0},
        "intervals": {"accuracy": (0.0, 1.0), "accuracy_a": (0.0, 1.0)},
        "items": {id: {"accuracy": item} for id, item in zip(IDS, items, strict=True)},
        "counts": {"accuracy": 4, "cider": 4, "accuracy_a": 2},
        "num_items": 4,
    }
    return {"vqa": report}, {"vqa": predictions(number)}


def test_no_trial_and_one_are_left_as_they_are():
    assert merge_trials([]) == ({}, {})
    one = trial(0, [100, 0, 0, 100])
    assert merge_trials([one]) == one
    assert "spread" not in merge_trials([one])[0]["vqa"]


def test_several_are_their_means_and_spreads():
    reports, said = merge_trials([trial(0, [100, 0, 0, 100], 0.2), trial(1, [100, 100, 0, 100], 0.6)])
    report = reports["vqa"]
    assert report["scores"] == pytest.approx({"accuracy": 62.5, "cider": 0.4, "accuracy_a": 1.0})
    assert report["spread"]["accuracy"] == pytest.approx(25 / 2**0.5)  # of a sample: n - 1
    assert report["spread"]["accuracy_a"] == 0
    assert report["trials"]["cider"] == [0.2, 0.6]
    assert report["items"] == {"a0": {"accuracy": 100}, "a1": {"accuracy": 50}, "b0": {"accuracy": 0},
                               "c0": {"accuracy": 100}}  # fmt: skip
    assert report["counts"]["accuracy_a"] == 2
    assert [p.prediction for p in said["vqa"]] == ["said in 0"] * 4


def test_the_interval_is_of_the_items_means_by_image():
    reports, _ = merge_trials([trial(0, [100, 0, 0, 100]), trial(1, [100, 100, 0, 100])])
    expected = bootstrap_interval([100, 50, 0, 100], ["a", "a", "b", "c"])
    assert reports["vqa"]["intervals"] == {"accuracy": expected, "accuracy_a": (0.0, 1.0)}
    assert expected != bootstrap_interval([100, 50, 0, 100])


def test_the_reports_of_the_trials_are_not_changed():
    trials = [trial(0, [100, 0, 0, 100]), trial(1, [100, 100, 0, 100])]
    merge_trials(trials)
    assert trials == [trial(0, [100, 0, 0, 100]), trial(1, [100, 100, 0, 100])]


def test_a_score_that_one_trial_has_not_is_left_out():
    with_class, without = trial(0, [100, 0, 0, 100]), trial(1, [100, 100, 0, 100])
    with_class[0]["vqa"]["scores"]["map_circle"] = 50.0
    for trials in ([with_class, without], [without, with_class]):
        assert "map_circle" not in merge_trials(trials)[0]["vqa"]["scores"]
