"""Precision, recall and F1 of sets of labelled elements, for multi-label classification and tagging.

An element is a label of an item with several labels, or a span with its type in a tagged text, as in CoNLL 2000.
"""

from collections import Counter
from collections.abc import Hashable, Sequence, Set

from prefixvlm.metrics.classification import ClassReport, macro_and_weighted, precision_recall_f1

Thing = tuple[str, Hashable]  # a label, and a key that distinguishes elements of one label in one item


def set_report(predictions: Sequence[Set[Thing]], references: Sequence[Set[Thing]]) -> ClassReport:
    """Return the scores of each label in predictions or references. Raises ValueError if the lengths differ."""
    if len(predictions) != len(references):
        raise ValueError(f"there are {len(predictions)} predictions but {len(references)} references")
    predicted = Counter(label for elements in predictions for label, _ in elements)
    support = Counter(label for elements in references for label, _ in elements)
    pairs = zip(predictions, references, strict=True)
    correct = Counter(label for guess, truth in pairs for label, _ in guess & truth)
    classes = {
        label: precision_recall_f1(correct[label], predicted[label], support[label])
        for label in sorted(predicted.keys() | support.keys())
    }
    # Unlike with one label per item, precision and recall differ here: the totals of the two sides do.
    micro = precision_recall_f1(correct.total(), predicted.total(), support.total())
    return ClassReport(classes, {"micro": micro, **macro_and_weighted(classes)})


def spans(tags: Sequence[str]) -> set[Thing]:
    """Return the spans of a text in BIO tags: (type, (index of the first word, index after the last word))."""
    result: set[Thing] = set()
    start, kind = 0, ""
    for place, tag in enumerate([*tags, "O"]):  # the last "O" ends a span at the end of the text
        mark, _, name = tag.partition("-")
        if kind and (mark != "I" or name != kind):
            result.add((kind, (start, place)))
            kind = ""
        # An I- without a span of its type before it begins one, as in CoNLL's conlleval script.
        if mark != "O" and not kind:
            start, kind = place, name
    return result
