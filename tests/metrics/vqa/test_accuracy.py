"""Compare VQA accuracy with scores of the official code (golden.json) and on hand-made cases."""

import hashlib
import json
from pathlib import Path

import pytest

from prefixvlm.metrics.vqa.accuracy import vqa_accuracy
from prefixvlm.metrics.vqa.contractions import CONTRACTIONS
from prefixvlm.metrics.vqa.normalise import normalise
from prefixvlm.metrics.vqa.report import Annotation, vqa_report

# 300 generated items. `expected` holds the output of the evaluators themselves on Python 3.11: `vqa` the VQAEval of
# open_flamingo 0.0.2 (there the official one, reformatted: compared with GT-Vision-Lab's), `vqa_normalise_both` that of
# open_flamingo 2.0.1, `vqa_lavis` that of salesforce-lavis 1.0.2, `vizwiz` the accuracy loop of VizWiz's vqaEval.py.
GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())


@pytest.mark.parametrize("metric", GOLDEN["expected"])
def test_reports_equal_the_public_evaluators(metric: str) -> None:
    expected = GOLDEN["expected"][metric]
    items = dict(enumerate(GOLDEN["items"]))
    report = vqa_report(
        {id: item["prediction"] for id, item in items.items()},
        {id: Annotation(item["answers"], item["answer_type"], item["question_type"]) for id, item in items.items()},
        metric,
    )
    assert [report.per_item[id] for id in items] == expected["per_item"]
    assert report.overall == expected["overall"]
    if metric != "vizwiz":  # which has no question types, and whose answer types are others
        assert report.per_answer_type == expected["per_answer_type"]
        assert report.per_question_type == expected["per_question_type"]


def test_the_table_is_the_official_one() -> None:
    table = json.dumps(sorted(CONTRACTIONS.items()))
    assert hashlib.sha256(table.encode()).hexdigest()[:16] == "3e5960526f62912d"


@pytest.mark.parametrize(("matches", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_matches_of_ten(matches: int, score: float) -> None:
    assert vqa_accuracy("red", ["red"] * matches + ["blue"] * (10 - matches)) == pytest.approx(score)


@pytest.mark.parametrize(
    ("prediction", "answers", "score"),
    [
        ("Yes.", ["yes"] * 10, 0),  # unanimous: nothing is normalised
        ("\tyes\n", ["yes "] * 5 + [" yes"] * 5, 1),  # but for white space, and that decides who is unanimous
        ("a b", ["a\tb"] * 10, 1),
        ("a b", ["a\nb"] * 10, 1),
        ("Yes.", ["yes"] * 9 + ["no"], 1),
        ("a", ["a"] * 10, 1),
        ("the", ["a"] * 9 + ["b"], 1),  # two articles are two empty answers
        ("", ["a"] * 4 + ["b"] * 6, 1),
        ("", ["yes"] * 9 + ["no"], 0),
        ("none", ["0"] * 9 + ["1"], 1),
        ("none", ["0"] * 10, 0),
        ("red", ["red"], 0),  # there is no other
        ("red", ["red"] * 3 + ["blue"], 0.75),  # (2/3 + 2/3 + 2/3 + 1) / 4
    ],
)
def test_hand_made_cases(prediction: str, answers: list[str], score: float) -> None:
    assert vqa_accuracy(prediction, answers) == pytest.approx(score)


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("left/right", "left right"),
        ("left /right", "left right"),
        ("a-b -c", "ab c"),  # one sign beside a space takes the spaces from all of its kind
        ("x/-y-z", "x y z"),  # a space that took a sign's place does not count
        ("1,000-2", "10002"),  # a comma in a number from all signs
        ("10, 5", "10 5"),
        ("3.5 vs. 3.", "3.5 vs 3"),
        ("x" + "." * 40, "x" + "." * 8),
        ("5:30 o'clock", "5:30 o'clock"),
        ("oclock DONT somebody'd", "o'clock don't somebodyd"),
        ("couldntve couldnt've", "couldntve couldn't've"),
        ("Im", "im"),
        ("An apple the Two", "apple 2"),
        ("none zero ten eleven", "0 0 10 eleven"),
        ("Caf\u00c9", "caf\u00e9"),
    ],
)
def test_normalise(text: str, normalised: str) -> None:
    assert normalise(text) == normalised


def test_a_report_leaves_untyped_questions_out_of_the_groups() -> None:
    annotations = {7: Annotation(["a dog", "dog"], "other"), 3: Annotation(["no"], "yes/no"), 5: Annotation(["1"])}
    report = vqa_report({3: "No", 5: "one", 7: "cat"}, annotations, "exact_match")
    assert report.per_item == {7: 0, 3: 100, 5: 100}
    assert (report.overall, report.per_answer_type) == (66.67, {"other": 0, "yes/no": 100})
    assert (report.per_question_type, report.variant) == ({}, "exact_match_normalised")


def test_a_report_needs_a_prediction_for_each_question() -> None:
    with pytest.raises(ValueError, match="1 without a prediction \\(2\\)"):
        vqa_report({1: "a"}, {1: Annotation(["a"]), 2: Annotation(["a"])})
    with pytest.raises(ValueError, match="no answer metric 'x'"):
        vqa_report({1: "a"}, {1: Annotation(["a"])}, "x")
