"""What the model said to each row goes in; scores over all of it, each with its interval, come out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefixvlm.metrics.bootstrap import bootstrap_interval, bootstrap_intervals


@dataclass(frozen=True)
class Prediction:
    """What the model said to one row.

    correct: 0 to 1, None without references. groups: what it is also scored in.
    values: what a task needs besides the text, such as the likelihood of each class; not written to files.
    context: what stood before the prompt; of a task only one is written, as an example.
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
        written = {name: value for name, value in vars(self).items() if name not in ("values", "context")}
        return {**written, "references": list(self.references), "groups": list(self.groups)}


@dataclass(frozen=True)
class Score:
    """A figure over predictions. items: one for each of them, whose mean it is; none for a score of the whole set.

    count: of how many things, if not of the predictions. interval: 95 %, by the bootstrap. Questions about one image
    are right and wrong together, so it draws images.
    """

    value: float
    predictions: Sequence[Prediction]
    items: Sequence[float] = ()
    interval: tuple[float, float] | None = None
    count: int | None = None


def check_references(predictions: Sequence[Prediction], task: str) -> None:
    """Raises ValueError if none of all predictions has what it is scored by."""
    if not any(p.references for p in predictions):
        raise ValueError(
            f"no tested sample has what task {task} is scored by; set the shards or task.{task} to others, or in "
            "training test=false"
        )


def item_mean_score(predictions: Sequence[Prediction], items: Sequence[float]) -> Score:
    interval = bootstrap_interval(items, [p.key for p in predictions])
    return Score(sum(items) / len(items), predictions, items, interval)


def corpus_score(
    predictions: Sequence[Prediction], statistic: Callable[[NDArray[np.int64]], Mapping[str, float]]
) -> dict[str, Score]:
    """Scores of the whole set. statistic: from the numbers of some of the predictions to the scores of those."""
    values = statistic(np.arange(len(predictions)))
    intervals = bootstrap_intervals(lambda draw: list(statistic(draw).values()), [p.key for p in predictions])
    pairs = zip(values.items(), intervals, strict=True)
    return {name: Score(value, predictions, interval=interval) for (name, value), interval in pairs}


def by_group(predictions: Sequence[Prediction]) -> dict[str, list[Prediction]]:
    """The predictions of each group, by name, in alphabetical order."""
    groups: dict[str, list[Prediction]] = {}
    for p in predictions:
        for name in p.groups:
            groups.setdefault(name, []).append(p)
    return dict(sorted(groups.items()))


def group_names(groups: dict[str, str] | Any) -> tuple[str, ...]:
    """{"answer_type": "yes/no"} as ("answer_type_yes/no",)."""
    return tuple(f"{name}_{value.replace(' ', '_')}" for name, value in groups.items())
