"""Predictions and annotations by question id go in; VQA's table of accuracies comes out, in percent."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from prefixvlm.metrics.pairs import Id, check_ids
from prefixvlm.metrics.vqa.answer_metrics import answer_metric


@dataclass(frozen=True)
class Annotation:
    """The answers that people gave to a question, and what kind of answer and question it is, where that is known."""

    answers: Sequence[str]
    answer_type: str | None = None
    question_type: str | None = None


@dataclass(frozen=True)
class VqaReport(Generic[Id]):
    """All in percent, rounded to two decimals as the official script does, groups in the order of their first item."""

    overall: float
    per_answer_type: dict[str, float]
    per_question_type: dict[str, float]
    per_item: dict[Id, float]
    variant: str


def vqa_report(
    predictions: Mapping[Id, str], annotations: Mapping[Id, Annotation], metric: str = "vqa"
) -> VqaReport[Id]:
    """The means over all questions and over those of each type; a question without a type is in no group.

    Raises ValueError where ids differ, a question has no answer or no `ANSWER_METRICS` has the metric's name.
    """
    chosen = answer_metric(metric)
    check_ids(predictions, {id: annotation.answers for id, annotation in annotations.items()})
    scores = {id: chosen.score(predictions[id], annotation.answers) for id, annotation in annotations.items()}
    return VqaReport(
        overall=_percent(list(scores.values())),
        per_answer_type=_by_type((annotation.answer_type, scores[id]) for id, annotation in annotations.items()),
        per_question_type=_by_type((annotation.question_type, scores[id]) for id, annotation in annotations.items()),
        per_item={id: round(100 * score, 2) for id, score in scores.items()},
        variant=chosen.variant,
    )


def _percent(scores: list[float]) -> float:
    return round(100 * float(sum(scores)) / len(scores), 2)


def _by_type(scores: Iterable[tuple[str | None, float]]) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for kind, score in scores:
        if kind is not None:
            groups.setdefault(kind, []).append(score)
    return {kind: _percent(group) for kind, group in groups.items()}
