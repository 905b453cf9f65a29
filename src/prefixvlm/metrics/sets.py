"""Sets of labelled things, predicted and true, go in; precision, recall and F1 of each label and averages come out.

For items of several classes a thing is a class; for tagged texts it is a span with its type, as CoNLL 2000 scores them.
"""

from collections import Counter
from collections.abc import Hashable, Sequence, Set

from prefixvlm.metrics.classification import ClassReport, averaged, scores_of

Thing = tuple[str, Hashable]  # a label, and what tells two things of one label in one item apart


def set_report(predictions: Sequence[Set[Thing]], references: Sequence[Set[Thing]]) -> ClassReport:
    """Labels that occur on neither side are not listed. Raises ValueError where the lengths differ."""
    if len(predictions) != len(references):
        raise ValueError(f"there are {len(predictions)} predictions but {len(references)} references")
    predicted = Counter(label for things in predictions for label, _ in things)
    support = Counter(label for things in references for label, _ in things)
    pairs = zip(predictions, references, strict=True)
    right = Counter(label for guess, truth in pairs for label, _ in guess & truth)
    classes = {
        label: scores_of(right[label], predicted[label], support[label])
        for label in sorted(predicted.keys() | support.keys())
    }
    micro = scores_of(right.total(), predicted.total(), support.total())
    return ClassReport(classes, {"micro": micro, **averaged(classes)})


def spans(tags: Sequence[str]) -> set[Thing]:
    """The spans of a text in BIO: (type, (first word, word after the last)).

    An I- that goes on from nothing begins one, as in CoNLL's own script.
    """
    found: set[Thing] = set()
    start, kind = 0, ""
    for place, tag in enumerate([*tags, "O"]):
        mark, _, name = tag.partition("-")
        if kind and (mark != "I" or name != kind):
            found.add((kind, (start, place)))
            kind = ""
        if mark != "O" and not kind:
            start, kind = place, name
    return found
