"""Compare VizWiz's accuracy with hand-made cases, average precision with scikit-learn and a plain loop."""

import hashlib
import json

import numpy as np
import pytest

from prefixvlm.metrics.vqa import vizwiz
from prefixvlm.metrics.vqa.vizwiz import average_precision, vizwiz_accuracy


@pytest.mark.parametrize(
    ("prediction", "answers", "score"),
    [
        ("Unanswerable.", ["unanswerable"] * 10, 1),  # the prediction is normalised where all agree
        ("red", ["Red"] * 5 + ["blue"] * 5, 0),  # an answer never is
        ("1,000", ["1,000"] * 5 + ["1"] * 5, 0),
        ("dont", ["don't"] * 5 + ["no"] * 5, 0),
        ("dont", ["don\u2019t"] * 5 + ["no"] * 5, 1),
        ("cant", ["can't"] * 5 + ["no"] * 5, 1),
        ("red", ["red"] + ["blue"] * 9, 0.3),
    ],
)
def test_accuracy(prediction: str, answers: list[str], score: float) -> None:
    assert vizwiz_accuracy(prediction, answers) == pytest.approx(score)


def test_the_table_is_that_of_vizwiz() -> None:
    table = json.dumps(sorted(vizwiz._CONTRACTIONS.items()))
    assert hashlib.sha256(table.encode()).hexdigest()[:16] == "6c17b211141803cb"


# Figures of sklearn.metrics.average_precision_score, scikit-learn 1.9.1.
@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        ([1, 0, 1, 1, 0], [0.9, 0.8, 0.7, 0.7, 0.1], 0.8333333333333333),
        ([0, 0, 1], [0.5, 0.5, 0.5], 0.3333333333333333),
        ([1, 1, 0], [0.1, 0.2, 0.9], 0.5833333333333333),
        ([1], [0.0], 1.0),
        ([0, 1, 0, 1, 0, 0, 1, 0], [0.3, 0.3, 0.3, 0.9, 0.9, 0.1, 0.1, 0.1], 0.42499999999999993),
    ],
)
def test_average_precision_equals_scikit_learns(labels, scores, expected) -> None:  # type: ignore[no-untyped-def]
    assert average_precision(labels, scores) == pytest.approx(expected, rel=1e-12)


def test_average_precision_with_many_ties() -> None:
    generator = np.random.default_rng(0)
    labels = generator.random(400) < 0.3
    scores = np.round(generator.random(400) * 0.6 + labels * 0.3, 2)
    expected, recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        taken = scores >= threshold
        hits = float(labels[taken].sum())
        expected += (hits / labels.sum() - recall) * hits / taken.sum()
        recall = hits / labels.sum()
    assert average_precision(labels.tolist(), scores.tolist()) == pytest.approx(expected, rel=1e-12)
    assert expected == pytest.approx(0.8040919123155801, rel=1e-12)  # scikit-learn's


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([True], [0.1, 0.2], "1 labels but 2 scores"),
        ([False], [0.1], "no label is positive"),
        ([], [], "no label is positive"),
        ([True], [float("nan")], "not a finite number"),
    ],
)
def test_undefined_average_precision_is_an_error(labels: list[bool], scores: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        average_precision(labels, scores)
