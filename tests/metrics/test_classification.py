"""Compare the class report with torchmetrics and plain counts, top-k accuracy and ROC AUC with scikit-learn."""

import random

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from prefixvlm.metrics.classification import class_averages, class_report, confusion_matrix, roc_auc, top_k_accuracy

LABELS = ["blue", "circle", "no", "red", "yes"]


def answers(seed: int, size: int = 200) -> tuple[list[str], list[str]]:
    """Draw predictions without "blue" and references without "circle"."""
    rng = random.Random(seed)
    return rng.choices(LABELS[1:], [1, 5, 3, 9], k=size), rng.choices(LABELS, [1, 0, 5, 2, 9], k=size)


@pytest.mark.parametrize("seed", range(3))
def test_report_equals_torchmetrics(seed: int) -> None:
    guesses, truths = answers(seed)
    guess_ids, truth_ids = (torch.tensor([LABELS.index(label) for label in side]) for side in (guesses, truths))
    report = class_report(guesses, truths)
    assert list(report.classes) == LABELS
    references = {"precision": multiclass_precision, "recall": multiclass_recall, "f1": multiclass_f1_score}
    for name, function in references.items():
        each = function(guess_ids, truth_ids, num_classes=5, average="none")
        assert [scores[name] for scores in report.classes.values()] == pytest.approx(each.tolist())
        for average in ("micro", "macro", "weighted"):
            expected = function(guess_ids, truth_ids, num_classes=5, average=average)
            assert report.averages[average][name] == pytest.approx(expected.item()), (name, average)
    names, counts = confusion_matrix(guesses, truths)
    assert names == LABELS
    assert counts == multiclass_confusion_matrix(guess_ids, truth_ids, num_classes=5).tolist()


def test_report_equals_plain_counts() -> None:
    guesses, truths = answers(7)
    report = class_report(guesses, truths)
    for label, scores in report.classes.items():
        pairs = list(zip(guesses, truths, strict=True))
        correct = sum(guess == truth == label for guess, truth in pairs)
        false_positive = sum(guess == label != truth for guess, truth in pairs)
        false_negative = sum(truth == label != guess for guess, truth in pairs)
        assert scores["support"] == correct + false_negative
        assert scores["precision"] == (correct / (correct + false_positive) if correct + false_positive else 0)
        assert scores["recall"] == (correct / (correct + false_negative) if correct + false_negative else 0)


def test_a_class_that_is_never_true_has_support_0_and_lowers_macro() -> None:
    report = class_report(["a", "a", "new"], ["a", "a", "a"])
    assert report.classes["new"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert report.averages["macro"]["recall"] == pytest.approx(1 / 3)
    assert report.averages["weighted"]["recall"] == pytest.approx(2 / 3)
    assert report.averages["micro"] == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "support": 3})


def test_confusion_matrix_sums_classes_that_are_not_listed() -> None:
    names, counts = confusion_matrix(["a", "x", "y", "b"], ["a", "a", "z", "b"], labels=["b", "a"])
    assert names == ["b", "a", "(other)"]
    assert counts == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="1 predictions but 2 true classes"):
        class_report(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="no predictions"):
        confusion_matrix([], [])


def test_top_k_accuracy_equals_scikit_learns() -> None:
    """scikit-learn 1.9.1, top_k_accuracy_score on the same arrays."""
    scores, truths = np.random.RandomState(0).rand(40, 5), np.random.RandomState(1).randint(5, size=40).tolist()
    expected = [17.5, 37.5, 55.0, 80.0, 100.0]
    assert [top_k_accuracy(scores, truths, k) for k in range(1, 6)] == pytest.approx(expected)
    named = [dict(zip("abcde", row.tolist(), strict=True)) for row in scores]
    letters = ["abcde"[truth] for truth in truths]
    assert [top_k_accuracy(named, letters, k) for k in range(1, 6)] == pytest.approx(expected)
    assert top_k_accuracy(named, letters, 9) == 100


def test_top_k_accuracy_is_not_helped_by_ties_or_nan() -> None:
    assert [top_k_accuracy([[0.5] * 4] * 4, [0, 1, 2, 3], k) for k in (1, 3, 4)] == [0, 0, 100]
    assert [top_k_accuracy([{"a": 2, "b": 2, "c": 1}], ["a"], k) for k in (1, 2)] == [0, 100]
    nan = float("nan")
    assert [top_k_accuracy([[nan, 1, 2], [0, 1, nan]], [0, 1], k) for k in (1, 2)] == [0, 50]


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [  # scikit-learn 1.9.1, roc_auc_score
        ([1, 0, 1, 1, 0, 0, 1, 0], [0.9, 0.9, 0.4, 0.7, 0.4, 0.1, 0.4, 0.3], 0.71875),
        ([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 0.75),
        ([True, False, True, False], [0.5] * 4, 0.5),
        ([1, 1, 0, 0], [0.1, 0.2, 0.3, 0.4], 0.0),
        (
            np.random.RandomState(3).randint(2, size=60),
            np.random.RandomState(2).randint(6, size=60),
            0.4810901001112347,
        ),
    ],
)
def test_roc_auc_equals_scikit_learns_and_counted_pairs(labels, scores, expected: float) -> None:
    assert roc_auc(labels, scores) == pytest.approx(expected, abs=1e-12)
    wins = [
        1.0 if high > low else 0.5 if high == low else 0.0
        for high, first in zip(scores, labels, strict=True)
        for low, second in zip(scores, labels, strict=True)
        if first and not second
    ]
    assert roc_auc(labels, scores) == pytest.approx(sum(wins) / len(wins), abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: roc_auc([1, 1], [0.1, 0.2]), "2 true and 0 false items"),
        (lambda: roc_auc([0], [0.1]), "0 true and 1 false items"),
        (lambda: roc_auc([], []), "0 true and 0 false items"),
        (lambda: roc_auc([1, 0], [0.1]), "1 scores but 2 labels"),
        (lambda: roc_auc([1, 2], [0.1, 0.2]), "labels must be 0 or 1"),
        (lambda: roc_auc([1, 0], [0.1, float("nan")]), "scores finite"),
        (lambda: top_k_accuracy([[0.1]], [0], 0), "k is 0"),
        (lambda: top_k_accuracy([[0.1, 0.2]], [-1], 1), "item 0 has no score of its true class, -1"),
        (lambda: top_k_accuracy([{"a": 1}], ["b"], 1), "no score of its true class, 'b'"),
        (lambda: top_k_accuracy([[0.1]], [0, 0], 1), "1 predictions but 2 true classes"),
    ],
)
def test_bad_scores(call, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_averages_of_numbered_classes_equal_the_report():
    rng = np.random.default_rng(0)
    for _ in range(50):
        truths, guesses = rng.integers(4, size=12), rng.integers(5, size=12)
        report = class_report([str(g) for g in guesses], [str(t) for t in truths])
        expected = {
            f"{name}_{part}": 100 * scores[part]
            for name, scores in report.averages.items()
            for part in ("precision", "recall", "f1")
        }
        assert class_averages(guesses, truths) == pytest.approx(expected)
