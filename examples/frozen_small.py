"""Frozen's experiment at a small scale: training on captions, few-shot evaluation on questions.

`make reproduce-frozen-small`. Three models with several seeds each: Frozen; Frozen trained on black images; and Frozen
with a language model that starts from random weights and is trained, too. Each answers questions about test images
after 0, 1 and 4 demonstrations. Finished stages are skipped; delete outputs/frozen_small to start over.
"""

import argparse
import csv
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from prefixvlm.resumable_stages import read_json, run_stages, write_json

OUT = Path("outputs/frozen_small")
SHARDS = "data/easy-vqa"
SHOTS = (0, 1, 4)
MODELS = {
    "frozen": [],
    "blind": ["data.train_blind=true"],
    "scratch": ["lm.weights=random", "tune=all", "lm.dtype=float32", "optim.lm_lr=1e-3"],
}


def main() -> None:
    os.chdir(Path(__file__).parents[1])
    options = parser().parse_args()
    seconds = run_stages(stages(options), OUT, "make reproduce-frozen-small")
    table = {model: summarise(model, options.seeds) for model in MODELS}
    write_json(OUT / "summary.json", {"models": table, "seconds": {**seconds, "total": sum(seconds.values())}})
    print_table(table, options)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(%(default)s)")
    result.add_argument(
        "--images", type=int, default=50, help="number of test images, with all their questions (%(default)s)"
    )
    result.add_argument("--steps", type=int, default=112, help="training steps of 32 captioned images (%(default)s)")
    return result


def stages(options: argparse.Namespace) -> dict[str, list[str]]:
    commands = {
        "shards": [sys.executable, "-m", "prefixvlm.cli", "shards", "easy-vqa", "--out", SHARDS],
        "convert_lm": [sys.executable, "-m", "prefixvlm.cli", "convert-lm"],
        "pretrain_clip": [sys.executable, "train.py", "experiment=clip_pretrain", f"hydra.run.dir={OUT}/clip_pretrain"],
    }
    for seed in options.seeds:
        for model, changes in MODELS.items():
            name, run = f"{model}_{seed}", OUT / f"{model}_{seed}"
            commands[f"train_{name}"] = [
                sys.executable, "train.py", "experiment=frozen_small", *changes, f"seed={seed}", "test=false",
                f"trainer.max_steps={options.steps}", f"hydra.run.dir={run}",
            ]  # fmt: skip
            for shots in SHOTS:
                commands[f"{name}_{shots}_shots"] = [
                    sys.executable, "eval.py", f"ckpt={run}/checkpoints/last.ckpt", "benchmark=easy_vqa", "task=vqa",
                    f"few_shot.shots={shots}", f"few_shot.seed={seed}", f"limit={options.images}",
                    f"blind={str(model == 'blind' or not shots).lower()}", f"out={run}/{shots}_shots",
                ]  # fmt: skip
    return commands


def summarise(model: str, seeds: list[int]) -> dict[str, Any]:
    """Return the results of a model, each a list over seeds.

    By number of shots: accuracy in percent, of all questions and of those that begin with "what". captions: the last
    exact match of validation captions. 0_shots_black: accuracy on black images.
    """
    result: dict[str, Any] = {"captions": [captions(OUT / f"{model}_{seed}") for seed in seeds]}
    for shots in SHOTS:
        reports = [
            read_json(OUT / f"{model}_{seed}" / f"{shots}_shots" / "metrics.json")["tasks"]["vqa"] for seed in seeds
        ]
        # The model trained on black images is evaluated on them.
        scores = [report["blind" if model == "blind" else "scores"] for report in reports]
        result[f"{shots}_shots"] = [each["accuracy"] for each in scores]
        result[f"{shots}_shots_what"] = [each["accuracy_what"] for each in scores]
        if not shots:
            result["0_shots_black"] = [report["blind"]["accuracy"] for report in reports]
            result["num_questions"] = reports[0]["num_items"]
    return result


def captions(run: Path) -> float:
    with (run / "csv" / "metrics.csv").open() as file:
        cells = [row["val/captioning_exact_match"] for row in csv.DictReader(file)]
    return float([each for each in cells if each][-1])


def print_table(table: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    print(f"\nAccuracy in percent on {table['frozen']['num_questions']} questions about {options.images} test images, "
          f"trained on captions only: mean and standard deviation of seeds {options.seeds}")  # fmt: skip
    shots_of = {shots: f"{shots} shot{'s' * (shots != 1)}" for shots in SHOTS}
    print("| | captions | " + " | ".join(f'{name} | of these "what"' for name in shots_of.values()) + " |")
    print("|---" * (2 + 2 * len(SHOTS)) + "|")
    for model, result in table.items():
        cells = [result["captions"], *(result[f"{shots}_shots{part}"] for shots in SHOTS for part in ("", "_what"))]
        print(f"| {model} | " + " | ".join(map(spread, cells)) + " |")


def spread(values: list[float]) -> str:
    deviation = f" +- {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{deviation}"


if __name__ == "__main__":
    main()
