"""Classification metrics: precision, recall and F1 by class, confusion matrix, top-k accuracy and ROC AUC.

The classes of a report are all labels that occur in predictions or references, as in scikit-learn: a class that is
predicted but never true has support 0 and counts as zero in the macro averages. A division by zero gives 0.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = dict[str, float]  # precision, recall, f1 (0 to 1) and support


@dataclass(frozen=True)
class ClassReport:
    """classes: scores by label, in alphabetical order. averages: micro, macro and weighted (by support)."""

    classes: dict[str, Scores]
    averages: dict[str, Scores]


def class_report(predictions: Sequence[str], references: Sequence[str]) -> ClassReport:
    """Return the scores of single-label classification."""
    _check(predictions, references)
    predicted, support = Counter(predictions), Counter(references)
    correct = Counter(truth for guess, truth in zip(predictions, references, strict=True) if guess == truth)
    classes = {
        label: precision_recall_f1(correct[label], predicted[label], support[label])
        for label in sorted(predicted.keys() | support.keys())
    }
    # With one label per item the totals of predictions and references agree: all micro averages are the accuracy.
    micro = precision_recall_f1(correct.total(), len(predictions), len(references))
    return ClassReport(classes, {"micro": micro, **macro_and_weighted(classes)})


def precision_recall_f1(correct: int, predicted: int, support: int) -> Scores:
    """Return the scores from the counts of correct, predicted and true elements."""
    return {
        "precision": correct / predicted if predicted else 0.0,
        "recall": correct / support if support else 0.0,
        # The harmonic mean as one fraction: it needs no case for precision and recall that are both 0.
        "f1": 2 * correct / (predicted + support) if predicted + support else 0.0,
        "support": support,
    }


def macro_and_weighted(classes: dict[str, Scores]) -> dict[str, Scores]:
    """Return the macro average and the average weighted by support."""
    return {
        "macro": _mean(classes, dict.fromkeys(classes, 1.0)),
        "weighted": _mean(classes, {label: scores["support"] for label, scores in classes.items()}),
    }


def _mean(classes: dict[str, Scores], weights: Scores) -> Scores:
    total = sum(weights.values())
    means = {
        name: sum(weights[label] * scores[name] for label, scores in classes.items()) / total if total else 0.0
        for name in ("precision", "recall", "f1")
    }
    return means | {"support": sum(scores["support"] for scores in classes.values())}


def class_averages(guesses: NDArray[np.int64], truths: NDArray[np.int64]) -> dict[str, float]:
    """Return `micro_precision` ... `weighted_f1` of `class_report` in percent, for classes given as numbers."""
    # Vectorized, unlike class_report: the bootstrap calls it once per resample.
    size = int(max(guesses.max(), truths.max())) + 1
    correct = np.bincount(truths[guesses == truths], minlength=size)
    predicted, support = np.bincount(guesses, minlength=size), np.bincount(truths, minlength=size)
    present = predicted + support > 0
    by_class = {
        # Where a count is 0, so are the correct ones, and dividing by 1 gives the 0 of a division by zero.
        "precision": correct[present] / np.maximum(predicted[present], 1),
        "recall": correct[present] / np.maximum(support[present], 1),
        "f1": 2 * correct[present] / (predicted + support)[present],
    }
    micro = float(correct.sum() / len(truths))
    averages = {f"micro_{name}": micro for name in by_class}
    averages |= {f"macro_{name}": float(values.mean()) for name, values in by_class.items()}
    averages |= {
        f"weighted_{name}": float(values @ support[present] / len(truths)) for name, values in by_class.items()
    }
    return {name: 100 * value for name, value in averages.items()}


def confusion_matrix(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str] | None = None
) -> tuple[list[str], list[list[int]]]:
    """Return the labels, and for each true class a row with the number of predictions of each class.

    labels: classes to show, in this order; all others share a last row and column, "(other)", if any occur.
    """
    _check(predictions, references)
    names = list(labels) if labels is not None else sorted({*predictions, *references})
    index = {label: place for place, label in enumerate(names)}
    if not index.keys() >= {*predictions, *references}:
        names.append("(other)")
    counts = [[0] * len(names) for _ in names]
    for guess, truth in zip(predictions, references, strict=True):
        counts[index.get(truth, len(names) - 1)][index.get(guess, len(names) - 1)] += 1
    return names, counts


def top_k_accuracy(
    scores: Sequence[Mapping[Hashable, float] | Sequence[float]], references: Sequence[Any], k: int
) -> float:
    """Return the percentage of items with the true class among the k classes of the highest score.

    scores: for each item the score of each class, by name or by index. references: the true names or indices.
    Raises ValueError if an item has no score of its true class.
    """
    _check(scores, references)
    if k < 1:
        raise ValueError(f"k is {k}, but it must be at least 1")
    correct = 0
    for item, (row, truth) in enumerate(zip(scores, references, strict=True)):
        by_class = row if isinstance(row, Mapping) else dict(enumerate(row))
        if truth not in by_class:
            raise ValueError(f"item {item} has no score of its true class, {truth!r}")
        # Ties count against the system, or constant scores would be right everywhere. `not <` counts NaN as a tie, and
        # the true class itself.
        correct += sum(not score < by_class[truth] for score in by_class.values()) <= k
    return 100.0 * correct / len(scores)


def roc_auc(labels: Sequence[bool], scores: Sequence[float]) -> float:
    """Return the area under the ROC curve, 0 to 1: the probability that a true item scores higher than a false one.

    labels: true or false (1 or 0), each at least once; scores: finite. Raises ValueError otherwise.
    """
    truths, values = np.asarray(labels), np.asarray(scores, dtype=float)
    if len(truths) != len(values):
        raise ValueError(f"there are {len(values)} scores but {len(truths)} labels")
    if not np.isin(truths, (0, 1)).all() or not np.isfinite(values).all():
        raise ValueError("labels must be 0 or 1 and scores finite")
    positive = truths == 1
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative:
        raise ValueError(f"there are {num_positive} true and {num_negative} false items, but both kinds are needed")
    # Mann and Whitney's U from the rank sum, in place of comparing all pairs. Equal scores share the mean of their
    # ranks, so that a tie counts one half.
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = ranks[place][positive].sum()
    return float((rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def _check(predictions: Sequence[Any], references: Sequence[Any]) -> None:
    if len(predictions) != len(references):
        raise ValueError(f"there are {len(predictions)} predictions but {len(references)} true classes")
    if not len(predictions):  # not `if not predictions`, which an array refuses
        raise ValueError("there are no predictions to score")
