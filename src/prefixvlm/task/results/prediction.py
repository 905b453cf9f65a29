"""Predictions of a task, and scores with bootstrap intervals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefixvlm.metrics.bootstrap import bootstrap_interval, bootstrap_values, percentile_interval
from prefixvlm.metrics.score_kind import ScoreKind


@dataclass(frozen=True)
class Prediction:
    """Prediction of a task for one row.

    key: key of the sample. id: unique within the task. correct: 0 to 1, None without references.
    groups: names of the groups in which the prediction is also scored.
    values: numbers that the scores need besides the text, such as the likelihood of each class; not written to files.
    context: text before the prompt; written for the first prediction of a task only, as an example.
    """

    task: str
    key: str
    id: str
    prompt: str
    prediction: str
    references: tuple[str, ...]
    correct: float | None
    groups: tuple[str, ...] = ()
    values: Sequence[float] | None = field(default=None, compare=False)
    context: str = field(default="", compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of a line of predictions.jsonl."""
        fields = {name: value for name, value in vars(self).items() if name not in ("values", "context")}
        return {**fields, "references": list(self.references), "groups": list(self.groups)}


@dataclass(frozen=True)
class Score:
    """A score of a set of predictions.

    items: the score of each prediction, of which the value is the mean; empty for a score of the whole set.
    interval: 95 % bootstrap interval over images, because predictions for one image are not independent.
    resamples: of a score of the whole set, its values for the resamples of the bootstrap.
    count: number of scored elements, if it is not len(predictions).
    kind: direction and digits; None for those in Task.score_kinds.
    table: row and column of the score in a table of the report.
    """

    value: float
    predictions: Sequence[Prediction]
    items: Sequence[float] = ()
    interval: tuple[float, float] | None = None
    resamples: NDArray[np.float64] | None = field(default=None, compare=False)
    count: int | None = None
    kind: ScoreKind | None = None
    table: tuple[str, str] | None = None


def check_references(predictions: Sequence[Prediction], task: str) -> None:
    """Raise ValueError if no prediction has references."""
    if not any(p.references for p in predictions):
        raise ValueError(
            f"no tested sample has references for task {task}; set other shards or options of task.{task}, or in "
            "training test=false"
        )


def item_mean_score(predictions: Sequence[Prediction], items: Sequence[float], kind: ScoreKind | None = None) -> Score:
    """Return the mean of one value per prediction as a Score."""
    interval = bootstrap_interval(items, [p.key for p in predictions])
    return Score(sum(items) / len(items), predictions, items, interval, kind=kind)


def corpus_score(
    predictions: Sequence[Prediction],
    statistic: Callable[[NDArray[np.int64]], Mapping[str, float]],
    kind: ScoreKind | None = None,
) -> dict[str, Score]:
    """Return scores that are not means over items. statistic: returns the scores of the predictions at indices."""
    values = statistic(np.arange(len(predictions)))
    resamples = bootstrap_values(lambda draw: list(statistic(draw).values()), [p.key for p in predictions])
    return {
        name: Score(value, predictions, interval=percentile_interval(column), resamples=column, kind=kind)
        for (name, value), column in zip(values.items(), resamples.T, strict=True)
    }


def by_group(predictions: Sequence[Prediction]) -> dict[str, list[Prediction]]:
    """Return the predictions of each group by its name, in alphabetical order."""
    groups: dict[str, list[Prediction]] = {}
    for p in predictions:
        for name in p.groups:
            groups.setdefault(name, []).append(p)
    return dict(sorted(groups.items()))


def group_names(groups: Mapping[str, str]) -> tuple[str, ...]:
    """Return names of groups: {"answer_type": "yes/no"} gives ("answer_type_yes/no",)."""
    return tuple(f"{name}_{value.replace(' ', '_')}" for name, value in groups.items())
