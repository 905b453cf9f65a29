"""Predictions of a task, and scores over them with bootstrap intervals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefixvlm.metrics.bootstrap import bootstrap_interval, bootstrap_intervals
from prefixvlm.metrics.score_kind import ScoreKind


@dataclass(frozen=True)
class Prediction:
    """The model's output for one row.

    correct: 0 to 1, None without references. groups: names of the groups it is also scored in.
    values: what a task needs besides the text, such as the likelihood of each class; not written to files.
    context: what stood before the prompt; only that of a task's first prediction is written, as an example.
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
        """The JSON object of a line of predictions.jsonl."""
        written = {name: value for name, value in vars(self).items() if name not in ("values", "context")}
        return {**written, "references": list(self.references), "groups": list(self.groups)}


@dataclass(frozen=True)
class Score:
    """A value over predictions.

    items: each prediction's part, whose mean the value is; empty for a score of the whole set.
    interval: 95 %, by the bootstrap over images, because questions about one image are right and wrong together.
    count: number of scored elements, where it is not len(predictions).
    kind: direction and digits; None for what the task says of the score's name.
    table: row and column of the report's table that shows the score too.
    """

    value: float
    predictions: Sequence[Prediction]
    items: Sequence[float] = ()
    interval: tuple[float, float] | None = None
    count: int | None = None
    kind: ScoreKind | None = None
    table: tuple[str, str] | None = None


def check_references(predictions: Sequence[Prediction], task: str) -> None:
    """Raise ValueError if no prediction has references."""
    if not any(p.references for p in predictions):
        raise ValueError(
            f"no tested sample has what task {task} is scored by; set the shards or task.{task} to others, or in "
            "training test=false"
        )


def item_mean_score(predictions: Sequence[Prediction], items: Sequence[float], kind: ScoreKind | None = None) -> Score:
    """The mean of one value per prediction."""
    interval = bootstrap_interval(items, [p.key for p in predictions])
    return Score(sum(items) / len(items), predictions, items, interval, kind=kind)


def corpus_score(
    predictions: Sequence[Prediction],
    statistic: Callable[[NDArray[np.int64]], Mapping[str, float]],
    kind: ScoreKind | None = None,
) -> dict[str, Score]:
    """Scores of the whole set. statistic: from the indices of some predictions to the scores of these."""
    values = statistic(np.arange(len(predictions)))
    intervals = bootstrap_intervals(lambda draw: list(statistic(draw).values()), [p.key for p in predictions])
    pairs = zip(values.items(), intervals, strict=True)
    return {name: Score(value, predictions, interval=interval, kind=kind) for (name, value), interval in pairs}


def by_group(predictions: Sequence[Prediction]) -> dict[str, list[Prediction]]:
    """The predictions of each group by its name, in alphabetical order."""
    groups: dict[str, list[Prediction]] = {}
    for p in predictions:
        for name in p.groups:
            groups.setdefault(name, []).append(p)
    return dict(sorted(groups.items()))


def group_names(groups: Mapping[str, str]) -> tuple[str, ...]:
    """Names of groups from a sample's fields: {"answer_type": "yes/no"} gives ("answer_type_yes/no",)."""
    return tuple(f"{name}_{value.replace(' ', '_')}" for name, value in groups.items())
