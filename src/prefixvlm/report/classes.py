"""The predictions of a task go in; its per-class table and confusion matrix come out, where its references repeat."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from prefixvlm.metrics.classification import ClassReport, class_report, confusion_matrix
from prefixvlm.metrics.exact_match import normalise
from prefixvlm.report.gallery import Prediction, is_right

MAX_TABLE, MAX_MATRIX = 40, 20


@dataclass(frozen=True)
class ClassView:
    """order: the classes to list, the most frequent first. labels, counts: the confusion matrix, a row a true class."""

    report: ClassReport
    order: list[str]
    labels: list[str]
    counts: list[list[int]]

    @property
    def num_hidden(self) -> int:
        return len(self.report.classes) - len(self.order)


def class_view(predictions: Sequence[Prediction]) -> ClassView | None:
    """None if there are too many different references for classes to mean anything (more than one in two items).

    The true class of an item is its most frequent reference. What counts as correct for the task counts as that class.
    Items without references are left out.
    """
    predictions = [line for line in predictions if line["references"]]
    truths = [Counter(map(normalise, line["references"])).most_common(1)[0][0] for line in predictions]
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
    return ClassView(report, order[:MAX_TABLE], labels, counts)
