"""The shuffled baseline: the model's own outputs, each given to another image, and scored again."""

from collections.abc import Mapping, Sequence
from typing import Any

from prefixvlm.metrics.score_kind import kind_of
from prefixvlm.task.interface import Scorer, Task
from prefixvlm.task.results.prediction import Prediction
from prefixvlm.task.results.shuffle import donors, shares


def shuffled_trial(
    tasks: Mapping[str, Task],
    predictions: Mapping[str, Sequence[Prediction]],
    extra_scorers: Mapping[str, Sequence[Scorer]],
    seed: int,
) -> tuple[dict[str, dict[str, Any]], dict[str, Sequence[Prediction]]]:
    """Return a report and predictions for each task that has this baseline, from the model's predictions.

    A report has besides the entries of Task.report `sources`, by id the id of the prediction whose output it has, and
    `shuffled_within`, how many of those are of the same text. It lacks scores that a shuffle cannot change.
    """
    reports: dict[str, dict[str, Any]] = {}
    shuffled: dict[str, Sequence[Prediction]] = {}
    for name, task in tasks.items():
        known = [p for p in predictions[name] if p.correct is not None]
        groups = [task.shuffle_group(p) for p in known]
        chosen = donors(known, groups, seed) if None not in groups else []
        if not chosen:
            continue
        pairs = zip(known, chosen, strict=True)
        shuffled[name] = task.finalize([task.with_output(p, known[other]) for p, other in pairs])
        reports[name] = _of_images(task, task.report(shuffled[name], extra_scorers.get(name, ())))
        reports[name]["sources"] = {p.id: known[other].id for p, other in zip(known, chosen, strict=True)}
        reports[name]["shuffled_within"] = shares(known, groups, chosen)
    return reports, shuffled


def _of_images(task: Task, report: dict[str, Any]) -> dict[str, Any]:
    kinds = {name: kind_of(name, task.score_kinds) for name in report["scores"]}
    scores = {name: value for name, value in report["scores"].items() if not (kind := kinds[name]) or kind.of_images}
    return report | {"scores": scores}
