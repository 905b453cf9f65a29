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

    `items` are by score the scores of its predictions by their ids, `resamples` by score its values for the resamples
    of the bootstrap, and `details` by id what the report shows of a prediction. report.results.join takes them out.
    """
    known = [p for p in predictions if p.correct is not None]
    items = {
        name: {p.id: item for p, item in zip(score.predictions, score.items, strict=True)}
        for name, score in scores.items()
        if score.items
    }
    kinds = {name: score.kind or kind_of(name) for name, score in scores.items()}
    return {
        "scores": {name: score.value for name, score in scores.items()},
        "intervals": {name: score.interval for name, score in scores.items() if score.interval},
        "counts": {name: score.count or len(score.predictions) for name, score in scores.items()},
        "digits": {name: kind.decimals(scores[name].value) for name, kind in kinds.items()},
        "higher_is_better": {name: kind.higher_is_better for name, kind in kinds.items()},
        "tables": {name: list(score.table) for name, score in scores.items() if score.table},
        "items": items,
        "resamples": {name: score.resamples for name, score in scores.items() if score.resamples is not None},
        "details": dict(details),
        "num_items": len(predictions),
        "num_unscored": len(predictions) - len(known),
        "num_images": len({p.key for p in predictions}),
        "example_context": predictions[0].context if predictions else "",
    }
