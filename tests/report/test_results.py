"""Files of an evaluation, and its hash."""

import copy
import json

import pytest

from prefixvlm.report.results import describe, join, write_results
from prefixvlm.task.results.prediction import Prediction

CONFIG = {"seed": 1, "encoder": {"name": "e"}, "data": {"shards": "x"}, "task": {"vqa": {"prompt": "Q: {question}"}}}
EVALUATION = {"ckpt": "a.ckpt", "out": None, "submission": None, "devices": 1, "limit": 5, "few_shot": {"shots": 2}}


def described(config=(), evaluation=(), checkpoint="a.ckpt"):
    return describe(checkpoint, CONFIG | dict(config), EVALUATION | dict(evaluation), {}, {"evaluation": 1.0})


def test_devices_and_output_folders_do_not_change_the_hash():
    first = described()["config_hash"]
    elsewhere = {"ckpt": "b.ckpt", "out": "other", "submission": "x.json", "devices": 2}
    assert described(evaluation=elsewhere, checkpoint="b.ckpt")["config_hash"] == first
    assert len(first) == 16
    assert described(dict(reversed(CONFIG.items())))["config_hash"] == first


@pytest.mark.parametrize(
    ("config", "evaluation"),
    [
        ({"task": {"vqa": {"prompt": "{question}"}}}, {}),
        ({"seed": 2}, {}),
        ({}, {"limit": 6}),
        ({}, {"few_shot": {"shots": 4}}),
    ],
)
def test_options_that_may_change_a_score_change_the_hash(config, evaluation):
    assert described(config, evaluation)["config_hash"] != described()["config_hash"]


def test_the_description_is_enough_to_repeat_the_evaluation():
    made = described()
    assert made["config"] == CONFIG
    assert made["evaluation"] == {"limit": 5, "few_shot": {"shots": 2}}
    assert (made["seed"], made["model"]["encoder"], made["checkpoint"]) == (1, {"name": "e"}, "a.ckpt")
    assert json.loads(json.dumps(made)) == made
    origin = {"versions": {"torch": "2"}, "git": None, "command": "eval.py"}
    assert describe("a.ckpt", CONFIG, EVALUATION, {}, {}, origin).items() >= origin.items()


def test_each_line_has_scores_groups_and_the_blind_prediction():
    predictions = [
        Prediction("vqa", "k", f"k{n}", "Q", f"text {n}", ("x",), None if n else 1.0, ("g",)) for n in range(2)
    ]
    blind = [Prediction("vqa", "k", "k0", "Q", "nothing", ("x",), 0.0)]
    report = {"variant": "v", "scores": {"accuracy": 100.0}, "items": {"accuracy": {"k0": 100.0}, "accuracy_g": {}},
              "details": {"k0": {"boxes": []}}, "resamples": {}, "num_items": 2, "num_unscored": 1}  # fmt: skip
    black = report | {"scores": {"accuracy": 0.0}, "items": {"accuracy": {"k0": 0.0}}}
    result, lines = join(
        {"vqa": copy.deepcopy(report)}, {"vqa": predictions}, {"blind": ({"vqa": black}, {"vqa": blind})}
    )
    assert result == {"tasks": {"vqa": {
        "variant": "v", "scores": {"accuracy": 100.0}, "num_items": 2, "num_unscored": 1, "blind": {"accuracy": 0.0},
        "differences": {"blind": {"accuracy": {"difference": 100, "interval": [100, 100], "p_value": 1}}},
    }}}  # fmt: skip
    assert [line["scores"] for line in lines] == [{"accuracy": 100.0}, {}]
    assert [line["blind_scores"] for line in lines] == [{"accuracy": 0.0}, {}]
    assert [line["blind_prediction"] for line in lines] == ["nothing", None]
    assert [line["groups"] for line in lines] == [["g"], ["g"]]
    assert "values" not in lines[0]
    assert [line.get("details") for line in lines] == [{"boxes": []}, None]
    result, lines = join({"vqa": copy.deepcopy(report)}, {"vqa": predictions}, {"blind": ({}, {})})
    assert result["tasks"]["vqa"]["blind"] is None
    assert lines[0]["blind_prediction"] is None


def test_three_files_are_written_and_only_shown_images_are_read(tmp_path, result, predictions, examples, png):
    asked = []

    def images(keys):
        asked.extend(keys)
        return dict.fromkeys(keys, png)

    write_results(tmp_path / "eval", result, predictions, {"records": [], "examples": examples}, images)
    assert {path.name for path in (tmp_path / "eval").iterdir()} == {"metrics.json", "predictions.jsonl", "report.html"}
    assert len(asked) == len(set(asked)) < 40
    assert json.loads((tmp_path / "eval" / "metrics.json").read_text()) == result
    assert len((tmp_path / "eval" / "predictions.jsonl").read_text().splitlines()) == len(predictions)
    assert "Predictions while training" in (tmp_path / "eval" / "report.html").read_text()
