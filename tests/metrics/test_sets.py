"""Compare sets with torchmetrics' multi-label scores, spans with a second reader of BIO tags."""

import random

import pytest
import torch
from torchmetrics.functional.classification import multilabel_f1_score, multilabel_precision, multilabel_recall

from prefixvlm.metrics.sets import set_report, spans

LABELS = ["a", "b", "c", "d"]
THEIRS = {"precision": multilabel_precision, "recall": multilabel_recall, "f1": multilabel_f1_score}


def items(seed, number=30):
    rng = random.Random(seed)
    return [{(label, "") for label in LABELS if rng.random() < 0.4} for _ in range(number)]


@pytest.mark.parametrize("seed", range(5))
def test_averages_equal_torchmetrics(seed):
    predicted, true = items(2 * seed), items(2 * seed + 1)
    ours = set_report(predicted, true)
    tensors = [
        torch.tensor([[int((label, "") in item) for label in LABELS] for item in side]) for side in (predicted, true)
    ]
    for kind in ("micro", "macro", "weighted"):
        for name, theirs in THEIRS.items():
            expected = theirs(*tensors, num_labels=len(LABELS), average=kind).item()
            assert ours.averages[kind][name] == pytest.approx(expected, abs=1e-6)
    for place, label in enumerate(LABELS):
        for name, theirs in THEIRS.items():
            expected = theirs(*tensors, num_labels=len(LABELS), average=None)[place].item()
            assert ours.classes[label][name] == pytest.approx(expected, abs=1e-6)
        assert ours.classes[label]["support"] == tensors[1][:, place].sum()


def naive_spans(tags):
    """Ask at each word what conlleval asks: does a chunk end before it, and does one begin at it?"""
    result, start = set(), None
    for place, tag in enumerate([*tags, "O"]):
        before = tags[place - 1] if place else "O"
        mark, kind = tag[0], tag[2:]
        ends = before != "O" and (mark in "BO" or kind != before[2:])
        if ends and start is not None:
            result.add((before[2:], (start, place)))
            start = None
        if tag != "O" and (mark == "B" or before == "O" or kind != before[2:]):
            start = place
    return result


def test_spans_are_conlls():
    tags = ["O", "B-X", "I-X", "O", "I-Y", "I-X", "B-X"]
    assert spans(tags) == {("X", (1, 3)), ("Y", (4, 5)), ("X", (5, 6)), ("X", (6, 7))}
    rng = random.Random(0)
    for _ in range(2000):
        tags = rng.choices(["O", "B-X", "I-X", "B-Y", "I-Y"], k=rng.randrange(9))
        assert spans(tags) == naive_spans(tags), tags


def test_sides_of_different_length_are_refused():
    with pytest.raises(ValueError, match="there are 1 predictions but 0 references"):
        set_report([set()], [])
