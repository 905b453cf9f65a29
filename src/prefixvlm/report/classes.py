"""Per-class tables and confusion matrices of a task."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefixvlm.metrics.classification import ClassReport, class_report, confusion_matrix
from prefixvlm.metrics.exact_match import normalise
from prefixvlm.report.gallery import Prediction, is_right
from prefixvlm.report.task_views import has_classes

MAX_TABLE, MAX_MATRIX = 40, 20
OTHER = "(other)"
GUESSED = (
    "The class of an item is its most frequent reference, and a prediction that counts as correct is of that class. "
    "A class with support 0 was predicted but is never true."
)
SPANS = "A span is right if its type and both of its ends are."


@dataclass(frozen=True)
class ClassView:
    """A table of per-class scores and a confusion matrix.

    order: the listed classes, the most frequent first. labels, counts: the confusion matrix, with a row for each true
    class; empty if an item has several classes. thing: the meaning of a row: class, tag or span.
    """

    report: ClassReport
    order: list[str]
    labels: list[str]
    counts: list[list[int]]
    thing: str = "class"
    note: str = ""

    @property
    def num_hidden(self) -> int:
        return len(self.report.classes) - len(self.order)


def class_views(scored: Mapping[str, Any], predictions: Sequence[Prediction]) -> list[ClassView]:
    """Return the tables of a task: those of its report or, without them, one of its references as classes.

    Tasks that predict numbers, boxes or ranks have no tables.
    """
    if "classes" in scored:
        thing = "tag" if "spans" in scored else "class"
        views = [_reported(scored["classes"], thing, scored.get("confusion"))]
        return views + ([_reported(scored["spans"], "span", note=SPANS)] if "spans" in scored else [])
    view = class_view(predictions) if has_classes(scored) else None
    return [view] if view else []


def class_view(predictions: Sequence[Prediction]) -> ClassView | None:
    """Return a table with the references as classes, or None if there are more classes than half of the items.

    The true class of an item is its most frequent reference, and every prediction that the task counts as correct is of
    that class. Items without references are left out.
    """
    predictions = [line for line in predictions if line["references"]]
    truths = [Counter(map(normalise, line["references"])).most_common(1)[0][0] for line in predictions]
    # So many different references, as those of captions, are not classes.
    if not truths or 2 * len(set(truths)) > len(truths):
        return None
    guesses = [
        truth if is_right(line) else normalise(line["prediction"])
        for line, truth in zip(predictions, truths, strict=True)
    ]
    report = class_report(guesses, truths)
    predicted = Counter(guesses)
    order = sorted(report.classes, key=lambda label: (-report.classes[label]["support"], -predicted[label], label))
    labels, counts = confusion_matrix(guesses, truths, order[:MAX_MATRIX])
    return ClassView(report, order[:MAX_TABLE], labels, counts, note=GUESSED)


def _reported(
    reported: Mapping[str, Any], thing: str, confusion: Mapping[str, Any] | None = None, note: str = ""
) -> ClassView:
    classes = {name: scores for name, scores in reported.items() if name != "averages"}
    order = sorted(classes, key=lambda name: (-classes[name]["support"], name))
    labels, counts = _cut(confusion["labels"], confusion["counts"]) if confusion else ([], [])
    return ClassView(ClassReport(classes, reported["averages"]), order[:MAX_TABLE], labels, counts, thing, note)


def _cut(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> tuple[list[str], list[list[int]]]:
    """Return the matrix of the most frequent true classes; all others share the last row and column."""
    if len(labels) <= MAX_MATRIX:
        return list(labels), [list(row) for row in counts]
    frequent = sorted(range(len(labels)), key=lambda place: (-sum(counts[place]), place))[:MAX_MATRIX]
    place = {old: new for new, old in enumerate(sorted(frequent))}
    cut = [[0] * (MAX_MATRIX + 1) for _ in range(MAX_MATRIX + 1)]
    for truth, row in enumerate(counts):
        for guess, count in enumerate(row):
            cut[place.get(truth, MAX_MATRIX)][place.get(guess, MAX_MATRIX)] += count
    return [*(labels[old] for old in sorted(frequent)), OTHER], cut
