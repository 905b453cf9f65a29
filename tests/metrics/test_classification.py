"""The per-class report against torchmetrics and against plain counting."""

import random

import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from prefixvlm.metrics.classification import class_report, confusion_matrix

LABELS = ["blue", "circle", "no", "red", "yes"]


def answers(seed: int, size: int = 200) -> tuple[list[str], list[str]]:
    """References never hold "circle", predictions never "blue"."""
    rng = random.Random(seed)
    return rng.choices(LABELS[1:], [1, 5, 3, 9], k=size), rng.choices(LABELS, [1, 0, 5, 2, 9], k=size)


@pytest.mark.parametrize("seed", range(3))
def test_report_is_that_of_torchmetrics(seed: int) -> None:
    guesses, truths = answers(seed)
    guess_ids, truth_ids = (torch.tensor([LABELS.index(label) for label in side]) for side in (guesses, truths))
    report = class_report(guesses, truths)
    assert list(report.classes) == LABELS
    outside = {"precision": multiclass_precision, "recall": multiclass_recall, "f1": multiclass_f1_score}
    for name, function in outside.items():
        each = function(guess_ids, truth_ids, num_classes=5, average="none")
        assert [scores[name] for scores in report.classes.values()] == pytest.approx(each.tolist())
        for average in ("micro", "macro", "weighted"):
            expected = function(guess_ids, truth_ids, num_classes=5, average=average)
            assert report.averages[average][name] == pytest.approx(expected.item()), (name, average)
    names, counts = confusion_matrix(guesses, truths)
    assert names == LABELS
    assert counts == multiclass_confusion_matrix(guess_ids, truth_ids, num_classes=5).tolist()


def test_report_is_that_of_plain_counting() -> None:
    guesses, truths = answers(7)
    report = class_report(guesses, truths)
    for label, scores in report.classes.items():
        pairs = list(zip(guesses, truths, strict=True))
        hit = sum(guess == truth == label for guess, truth in pairs)
        false_alarm = sum(guess == label != truth for guess, truth in pairs)
        miss = sum(truth == label != guess for guess, truth in pairs)
        assert scores["support"] == hit + miss
        assert scores["precision"] == (hit / (hit + false_alarm) if hit + false_alarm else 0)
        assert scores["recall"] == (hit / (hit + miss) if hit + miss else 0)


def test_a_class_that_is_never_true_has_support_0_and_lowers_macro() -> None:
    report = class_report(["a", "a", "new"], ["a", "a", "a"])
    assert report.classes["new"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert report.averages["macro"]["recall"] == pytest.approx(1 / 3)
    assert report.averages["weighted"]["recall"] == pytest.approx(2 / 3)
    assert report.averages["micro"] == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "support": 3})


def test_confusion_matrix_gathers_what_is_not_listed() -> None:
    names, counts = confusion_matrix(["a", "x", "y", "b"], ["a", "a", "z", "b"], labels=["b", "a"])
    assert names == ["b", "a", "(other)"]
    assert counts == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="1 predictions but 2 true classes"):
        class_report(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="no predictions"):
        confusion_matrix([], [])
