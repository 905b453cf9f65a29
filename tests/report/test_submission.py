"""Submission files of each test server."""

import json

import pytest

from prefixvlm.metrics.vqa.answer_metrics import answer_metric
from prefixvlm.report.submission import write_submission


def written(path, task, variant, *lines):
    named = [dict(zip(("key", "id", "prediction"), line, strict=True)) for line in lines]
    write_submission(path, {"tasks": {task: {"variant": variant}}}, named)
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("metric", "entry"),
    [
        ("vqa", {"question_id": 7, "answer": "zwei Hünde"}),
        ("okvqa", {"question_id": 7, "answer": "zwei Hünde"}),
        ("exact_match", {"question_id": 7, "answer": "zwei Hünde"}),
        ("gqa", {"questionId": "7", "prediction": "zwei Hünde"}),
        ("vizwiz", {"image": "VizWiz_val_03.jpg", "answer": "zwei Hünde"}),
    ],
)
def test_answers(tmp_path, metric, entry):
    variant = answer_metric(metric).variant
    assert written(tmp_path / "new" / "x.json", "vqa", variant, ("VizWiz_val_03", "7", "zwei Hünde")) == [entry]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.json"]


def test_captions_and_ids_that_are_not_numbers(tmp_path):
    lines = [("000042", "000042", "a dog"), ("test-1", "test-1", "")]
    assert written(tmp_path / "x.json", "captioning", "x", *lines) == [
        {"image_id": 42, "caption": "a dog"}, {"image_id": "test-1", "caption": ""}
    ]  # fmt: skip


@pytest.mark.parametrize("tasks", [{}, {"captioning": {}, "vqa": {}}])
def test_a_submission_is_of_one_task(tmp_path, tasks):
    with pytest.raises(ValueError, match="a submission is of one task.*set task or benchmark"):
        write_submission(tmp_path / "x.json", {"tasks": tasks}, [])
    assert not list(tmp_path.iterdir())
