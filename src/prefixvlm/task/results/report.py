"""Report of a task for metrics.json: scores with intervals, counts, directions and digits."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefixvlm.metrics.score_kind import ScoreKind
from prefixvlm.task.results.prediction import Prediction, Score


def report_of(
    predictions: Sequence[Prediction],
    scores: Mapping[str, Score],
    kind_of: Callable[[str], ScoreKind],
    details: Mapping[str, Any],
) -> dict[str, Any]:
    """Return scores and counts as plain data. kind_of: returns the kind of a score that has none.

    `items` are the scores of each prediction and `details` its data for the report, both by id. report.results.join
    moves them to predictions.jsonl.
    """
    known = [p for p in predictions if p.correct is not None]
    items: dict[str, dict[str, float]] = {}
    for name, score in scores.items():
        if len(score.predictions) == len(known):
            for p, item in zip(known, score.items, strict=bool(score.items)):
                items.setdefault(p.id, {})[name] = item
    kinds = {name: score.kind or kind_of(name) for name, score in scores.items()}
    return {
        "scores": {name: score.value for name, score in scores.items()},
        "intervals": {name: score.interval for name, score in scores.items() if score.interval},
        "counts": {name: score.count or len(score.predictions) for name, score in scores.items()},
        "digits": {name: kind.decimals(scores[name].value) for name, kind in kinds.items()},
        "higher_is_better": {name: kind.higher_is_better for name, kind in kinds.items()},
        "tables": {name: list(score.table) for name, score in scores.items() if score.table},
        "items": items,
        "details": dict(details),
        "num_items": len(predictions),
        "num_unscored": len(predictions) - len(known),
        "num_images": len({p.key for p in predictions}),
        "example_context": predictions[0].context if predictions else "",
    }
