"""Predicted and true classes go in; precision, recall, F1 and support of each class and what sums them up come out.

The classes of a report are all strings that occur on either side, as in scikit-learn: a class that is predicted but
never true is listed with support 0 and counts as a zero in the macro averages. A division by zero gives 0.
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
    """classes: in alphabetical order. averages: micro, macro, weighted (by support)."""

    classes: dict[str, Scores]
    averages: dict[str, Scores]


def class_report(predictions: Sequence[str], references: Sequence[str]) -> ClassReport:
    """One prediction and one true class an item, so that the micro averages all equal the accuracy."""
    _check(predictions, references)
    predicted, support = Counter(predictions), Counter(references)
    right = Counter(truth for guess, truth in zip(predictions, references, strict=True) if guess == truth)
    classes = {
        label: scores_of(right[label], predicted[label], support[label])
        for label in sorted(predicted.keys() | support.keys())
    }
    micro = scores_of(right.total(), len(predictions), len(references))
    return ClassReport(classes, {"micro": micro, **averaged(classes)})


def averaged(classes: dict[str, Scores]) -> dict[str, Scores]:
    """The macro and the weighted average."""
    return {
        "macro": _mean(classes, dict.fromkeys(classes, 1.0)),
        "weighted": _mean(classes, {label: scores["support"] for label, scores in classes.items()}),
    }


def confusion_matrix(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str] | None = None
) -> tuple[list[str], list[list[int]]]:
    """The labels and, for each true class a row, how often each class was predicted.

    labels: which classes to show and in which order; all others share a last row and column, "(other)", if any occur.
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
    """The percentage of items whose true class is among the k best.

    scores: for each item the score of each class, by its name or its place. references: the true names or places.
    Ties count against the system: a wrong class with the true one's score, or NaN, comes before it. Raises ValueError
    if an item has no score of its true class.
    """
    _check(scores, references)
    if k < 1:
        raise ValueError(f"k is {k}, but at least the best class must count")
    right = 0
    for item, (row, truth) in enumerate(zip(scores, references, strict=True)):
        named = row if isinstance(row, Mapping) else dict(enumerate(row))
        if truth not in named:
            raise ValueError(f"item {item} has no score of its true class, {truth!r}")
        right += sum(not score < named[truth] for score in named.values()) <= k  # the true class is one of them
    return 100.0 * right / len(scores)


def roc_auc(labels: Sequence[bool], scores: Sequence[float]) -> float:
    """How likely a true item scores higher than a false one, 0 to 1, ties at half (Mann-Whitney's U over all pairs).

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
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # items with one score share the mean of their ranks
    rank_sum = ranks[place][positive].sum()
    return float((rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def class_averages(guesses: NDArray[np.int64], truths: NDArray[np.int64]) -> dict[str, float]:
    """`micro_precision` ... `weighted_f1` in percent, as `class_report` has them, of classes given as numbers."""
    size = int(max(guesses.max(), truths.max())) + 1
    right = np.bincount(truths[guesses == truths], minlength=size)
    predicted, support = np.bincount(guesses, minlength=size), np.bincount(truths, minlength=size)
    known = predicted + support > 0
    found = {
        "precision": right[known] / np.maximum(predicted[known], 1),
        "recall": right[known] / np.maximum(support[known], 1),
        "f1": 2 * right[known] / (predicted + support)[known],
    }
    micro = float(right.sum() / len(truths))
    averages = {f"micro_{name}": micro for name in found}
    averages |= {f"macro_{name}": float(values.mean()) for name, values in found.items()}
    averages |= {f"weighted_{name}": float(values @ support[known] / len(truths)) for name, values in found.items()}
    return {name: 100 * value for name, value in averages.items()}


def _check(predictions: Sequence[Any], references: Sequence[Any]) -> None:
    if len(predictions) != len(references):
        raise ValueError(f"there are {len(predictions)} predictions but {len(references)} true classes")
    if not len(predictions):  # may be an array
        raise ValueError("there are no predictions to score")


def scores_of(right: int, predicted: int, support: int) -> Scores:
    return {
        "precision": right / predicted if predicted else 0.0,
        "recall": right / support if support else 0.0,
        "f1": 2 * right / (predicted + support) if predicted + support else 0.0,
        "support": support,
    }


def _mean(classes: dict[str, Scores], weights: Scores) -> Scores:
    total = sum(weights.values())
    means = {
        name: sum(weights[label] * scores[name] for label, scores in classes.items()) / total if total else 0.0
        for name in ("precision", "recall", "f1")
    }
    return means | {"support": sum(scores["support"] for scores in classes.values())}
