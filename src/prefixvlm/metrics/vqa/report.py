"""VQA's report: accuracy overall, by answer type and by question type."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from prefixvlm.metrics.pairs import Id, check_ids
from prefixvlm.metrics.vqa.answer_metrics import answer_metric


@dataclass(frozen=True)
class Annotation:
    """The answers of people to a question, with the types of answer and question if they are known."""

    answers: Sequence[str]
    answer_type: str | None = None
    question_type: str | None = None


@dataclass(frozen=True)
class VqaReport(Generic[Id]):
    """Accuracies in percent, rounded to two decimals as in the official script; types in order of first occurrence."""

    overall: float
    per_answer_type: dict[str, float]
    per_question_type: dict[str, float]
    per_item: dict[Id, float]
    variant: str


def vqa_report(
    predictions: Mapping[Id, str], annotations: Mapping[Id, Annotation], metric: str = "vqa"
) -> VqaReport[Id]:
    """Return the means over all questions and over the questions of each type.

    metric: a name in ANSWER_METRICS. Raises ValueError if there is no such metric, if ids differ, or if a question has
    no answer.
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
