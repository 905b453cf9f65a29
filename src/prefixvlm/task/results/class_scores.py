"""Scores and per-class reports of classification tasks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefixvlm.metrics.classification import class_averages, class_report, confusion_matrix, roc_auc, top_k_accuracy
from prefixvlm.metrics.score_kind import PERCENT, ScoreKind
from prefixvlm.task.results.prediction import Prediction, Score, corpus_score, item_mean_score

AVERAGES = "averages"  # key beside the names of the classes in a report
CLASS_KINDS: Mapping[str, ScoreKind] = dict.fromkeys(
    (
        "accuracy",
        "roc_auc",
        *(f"{average}_{name}" for average in ("micro", "macro", "weighted") for name in ("precision", "recall", "f1")),
    ),
    PERCENT,
)


def check_classes(key: str, classes: Sequence[str], least: int = 2) -> None:
    """Raise ValueError unless the classes are at least `least` different texts."""
    if not classes or len(set(classes)) < least or len(set(classes)) < len(classes):
        raise ValueError(f"{key}.classes is {classes!r}; give {least} or more, each once")
    # YAML reads an unquoted no as false, and 1 as a number.
    if wrong := [name for name in classes if not isinstance(name, str)]:
        raise ValueError(f"{key}.classes has {wrong[0]!r}, which is no text; put it in quotes")
    if wrong := [name for name in classes if not name or name == AVERAGES]:
        raise ValueError(f"{key}.classes has {wrong[0]!r}; a class has another name")


def class_scores(classes: Sequence[str], predictions: Sequence[Prediction]) -> dict[str, Score]:
    """Return averages over classes, top-5 accuracy, and for two classes the area under the ROC curve, in percent.

    The values of a prediction are the scores of all classes.
    """
    place = {name: number for number, name in enumerate(classes)}
    values = np.array([p.values for p in predictions])
    truths = np.array([place[p.references[0]] for p in predictions])
    guesses = np.array([place[p.prediction] for p in predictions])
    scores = {}
    if len(classes) > 5:  # the right class is always among the first five of five
        top = [top_k_accuracy([row], [truth], 5) for row, truth in zip(values, truths, strict=True)]
        scores["accuracy_top_5"] = item_mean_score(predictions, top)
    scores |= corpus_score(predictions, lambda draw: class_averages(guesses[draw], truths[draw]))
    # The area needs an item of each class.
    if len(classes) == 2 and len(set(truths.tolist())) == 2:
        second = values[:, 1] - values[:, 0]
        scores |= corpus_score(predictions, lambda draw: {"roc_auc": _roc_auc(truths[draw], second[draw])})
    return scores


def class_details(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Return `classes` (precision, recall, F1 and support of each class, and averages) and `confusion`."""
    known = [p for p in predictions if p.references]
    if not known:
        return {}
    guesses, truths = [p.prediction for p in known], [p.references[0] for p in known]
    report = class_report(guesses, truths)
    labels, counts = confusion_matrix(guesses, truths)
    return {
        "classes": {**report.classes, AVERAGES: report.averages},
        "confusion": {"labels": labels, "counts": counts},
    }


def _roc_auc(truths: NDArray[Any], scores: NDArray[Any]) -> float:
    """Return the area in percent; NaN for a bootstrap sample with one class only."""
    return 100 * roc_auc((truths == 1).tolist(), scores.tolist()) if 0 < truths.sum() < len(truths) else float("nan")
