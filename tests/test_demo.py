"""The demo's table: each kind of question beside black images, and captions where shape and colour are known."""

import importlib.util
import json
from pathlib import Path

from prefixvlm.config import compose_run

SPEC = importlib.util.spec_from_file_location("demo", Path(__file__).parents[1] / "demo.py")
demo = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(demo)


def test_the_training_composes():
    cfg = compose_run(demo.STAGES["train"][2:])
    assert cfg.task.vqa.prompt == "{question}"
    assert (cfg.data.batch_size, cfg.task.vqa.questions_per_image, cfg.trainer.limit_train_batches) == (8, 2, 250)


def caption(reference, prediction, blind):
    return {"task": "captioning", "references": [reference], "prediction": prediction, "blind_prediction": blind}


def test_the_table_has_each_kind_of_question_beside_black_images(tmp_path, monkeypatch, capsys):
    vqa = {
        "scores": {"accuracy": 80.0, "accuracy_is": 90.0, "accuracy_what": 70.0},
        "blind": {"accuracy": 60.0, "accuracy_is": 85.0, "accuracy_what": 20.0},
        "counts": {"accuracy": 30, "accuracy_is": 20, "accuracy_what": 10},
        "num_items": 30,
    }
    metrics = {
        "tasks": {"captioning": {"num_images": 4}, "vqa": vqa},
        "model": {"trained_parameters": 2_000_000, "frozen_parameters": 9},
    }
    lines = [
        caption("a blue circle", "a blue circle", "a red circle"),
        caption("a red circle", "a blue circle", "a red circle"),
        caption("a teal shape", "a teal circle", "a red circle"),  # fuller than its reference, which names no shape
        caption("a green triangle", "a green triangle", "a red circle"),
        {"task": "vqa", "references": ["yes"], "prediction": "yes", "blind_prediction": "yes"},
    ]
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(demo, "OUT", tmp_path)
    summary = demo.summarise({"train": 2.0, "evaluate": 1.5})
    scores = [[round(value) for value in row[1:]] for row in summary["rows"]]
    assert scores == [[67, 33], [80, 60], [90, 85], [70, 20]]
    assert (summary["num_images_naming_both"], summary["seconds"]["total"]) == (3, 3.5)
    demo.print_table(summary)
    table = capsys.readouterr().out.splitlines()
    assert table[3].split() == ["right", "answers,", "all", "questions", "80.0", "%", "60.0", "%"]
    assert " ".join(table[4].split()) == 'to the 20 that begin with "is" 90.0 % 85.0 %'
