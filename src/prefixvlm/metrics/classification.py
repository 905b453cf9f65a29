"""Predicted and true classes go in, as strings; precision, recall, F1 and support of each class come out, and averages.

The classes are all strings that occur on either side, as in scikit-learn: a class that is predicted but never true is
listed with support 0 and counts as a zero in the macro averages. A division by zero gives 0.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

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
        label: _scores(right[label], predicted[label], support[label])
        for label in sorted(predicted.keys() | support.keys())
    }
    averages = {
        "micro": _scores(right.total(), len(predictions), len(references)),
        "macro": _mean(classes, dict.fromkeys(classes, 1.0)),
        "weighted": _mean(classes, {label: scores["support"] for label, scores in classes.items()}),
    }
    return ClassReport(classes, averages)


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


def _check(predictions: Sequence[str], references: Sequence[str]) -> None:
    if len(predictions) != len(references):
        raise ValueError(f"there are {len(predictions)} predictions but {len(references)} true classes")
    if not predictions:
        raise ValueError("there are no predictions to score")


def _scores(right: int, predicted: int, support: int) -> Scores:
    return {
        "precision": right / predicted if predicted else 0.0,
        "recall": right / support if support else 0.0,
        "f1": 2 * right / (predicted + support) if predicted + support else 0.0,
        "support": support,
    }


def _mean(classes: dict[str, Scores], weights: Scores) -> Scores:
    total = sum(weights.values())
    means = {
        name: sum(weights[label] * scores[name] for label, scores in classes.items()) / total
        for name in ("precision", "recall", "f1")
    }
    return means | {"support": sum(scores["support"] for scores in classes.values())}
