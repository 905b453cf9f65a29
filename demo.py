"""Demo: write shards, pretrain a tiny CLIP, train a mapper for a frozen SmolLM2, evaluate, and print a table.

A finished stage is not run again, and an interrupted one resumes. Delete outputs/demo to start over.
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from prefixvlm.resumable_stages import read_json, run_stages, write_json

OUT = Path("outputs/demo")
SHARDS = "data/easy-vqa"
TRAINING = [  # chosen on validation images
    "data.batch_size=8", "task.vqa.questions_per_image=2", "task.vqa.prompt='{question}'", "optim.lr=3e-3",
    "trainer.limit_train_batches=250",
]  # fmt: skip
STAGES = {
    "shards": [sys.executable, "-m", "prefixvlm.cli", "shards", "easy-vqa", "--out", SHARDS],
    "convert_lm": [sys.executable, "-m", "prefixvlm.cli", "convert-lm"],
    "pretrain_clip": [sys.executable, "train.py", "experiment=clip_pretrain", f"hydra.run.dir={OUT}/clip_pretrain"],
    "train": [sys.executable, "train.py", "test=false", *TRAINING, f"hydra.run.dir={OUT}/train"],
    "evaluate": [sys.executable, "eval.py", f"ckpt={OUT}/train/checkpoints/best.ckpt", f"out={OUT}", "limit=300"],
}
BOTH = re.compile(r"an? \w+ (?!shape$)\w+")  # captions with colour and shape, such as "a blue circle"
PREDICTIONS = ("prediction", "blind_prediction")  # with the images, and with black ones


def main() -> None:
    os.chdir(Path(__file__).parent)
    seconds = run_stages(STAGES, OUT, "make demo")
    summary = summarise(seconds)
    write_json(OUT / "summary.json", summary)
    print_table(summary)


def summarise(seconds: dict[str, float]) -> dict[str, Any]:
    """Return the figures of the demo, from the evaluation's metrics.json and predictions.jsonl.

    rows: label, score with the images and score with black images of each line of the table, in percent.
    """
    result = read_json(OUT / "metrics.json")
    captioning, vqa = result["tasks"]["captioning"], result["tasks"]["vqa"]
    lines = [json.loads(line) for line in (OUT / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    # The captions are made from the answers about an image, and not every image has been asked for both.
    both = [p for p in lines if p["task"] == "captioning" and BOTH.fullmatch(p["references"][0])]
    captions = [100 * sum(p[text] in p["references"] for p in both) / len(both) for text in PREDICTIONS]
    answers = [(label, *(vqa[side][score] for side in ("scores", "blind"))) for label, score in answer_rows(vqa)]
    return {
        "rows": [("captions exactly right, where shape and colour are known", *captions), *answers],
        "num_images": captioning["num_images"],
        "num_images_naming_both": len(both),
        "num_questions": vqa["num_items"],
        "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
        "trained_parameters": result["model"]["trained_parameters"],
        "frozen_parameters": result["model"]["frozen_parameters"],
    }


def answer_rows(vqa: dict[str, Any]) -> list[tuple[str, str]]:
    """Return label and name of each score of the answers: of all, then of each first word of the questions."""
    counts = {name: vqa["counts"][name] for name in vqa["scores"] if name.startswith("accuracy_")}
    kinds = [
        (f'  to the {count} that begin with "{name.removeprefix("accuracy_")}"', name) for name, count in counts.items()
    ]
    return [("right answers, all questions", "accuracy"), *kinds]


def print_table(summary: dict[str, Any]) -> None:
    print(f"\n{'On test images that were never trained on:':60}{'images':>9}{'black images':>15}")
    for label, score, blind in summary["rows"]:
        print(f"  {label:58}{score:7.1f} %{blind:13.1f} %")
    print(f"  {summary['num_images']} images, {summary['num_questions']} questions;", end=" ")
    print(f"{summary['trained_parameters'] / 1e6:.2f} M trained, {summary['frozen_parameters'] / 1e6:.2f} M frozen")
    print("  seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in summary["seconds"].items()))
    print(f"Report: {(OUT / 'report.html').resolve()}")


if __name__ == "__main__":
    main()
