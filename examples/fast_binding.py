"""Frozen's fast binding at a small scale: why examples in a prompt do not help by being seen, one cause at a time.

`make reproduce-fast-binding`. Models are trained on captions of easy-VQA, one image a row, and then read episodes: an
image of each of two kinds with an invented name, and a further image to name. Finished parts are skipped; delete
outputs/fast_binding to start over.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import prefixvlm
from prefixvlm.batch import Row
from prefixvlm.data.sample import BLACK_IMAGE, Sample, decode
from prefixvlm.data.sources import episodes
from prefixvlm.inference.captioner import Captioner
from prefixvlm.metrics.bootstrap import bootstrap_interval
from prefixvlm.resumable_stages import read_json, run_stages, write_json
from prefixvlm.task.fast_binding import FastBinding
from prefixvlm.task.rows.closed_set import likelihoods
from prefixvlm.task.rows.few_shot import join_texts

OUT = Path("outputs/fast_binding")
SHARDS = Path("data/easy-vqa")
BATCH_SIZE = 16
# What stands at the place of an image, and how often the support is shown.
CONDITIONS = {
    "text": (1, 3),  # "a red circle": can the language model do it at all?
    "images": (1, 3),
    "token_norm": (3,),  # prefix embeddings as long as the average token embedding
    "untrained": (3,),  # by a mapper with random weights
    "black": (3,),
}
Results = dict[str, list[float]]  # percent right of each episode, by score


def main() -> None:
    os.chdir(Path(__file__).parents[1])
    options = parser().parse_args()
    if options.checkpoint is None:
        run_stages(stages(options.seeds), OUT, "make reproduce-fast-binding")
    else:
        options.seeds = options.seeds[:1]
    made = [decode(key, dict(members), options.split) for key, members in draw(options)]
    path = OUT / f"{options.split}_{options.episodes}.json"
    results = read_json(path) if options.checkpoint is None else {}
    for seed in options.seeds:
        for condition in options.conditions:
            for shown in CONDITIONS[condition]:
                name = f"{condition} x{shown} seed {seed}"
                if name not in results and (condition != "text" or seed == options.seeds[0]):  # text needs no mapper
                    results[name] = measure(options.checkpoint or checkpoint(seed), condition, shown, made, name)
                    if options.checkpoint is None:
                        write_json(path, results)
    print_table(results, options)
    print_leads(results, options.seeds)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(%(default)s)")
    result.add_argument("--episodes", type=int, default=96, help="a multiple of 4 (%(default)s)")
    result.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS), help="(all)")
    result.add_argument("--checkpoint", type=Path, help="of another run, as that of make demo; nothing is trained then")
    result.add_argument("--split", choices=episodes.SPLITS, default="test", help="split of the images (%(default)s)")
    return result


def stages(seeds: Sequence[int]) -> dict[str, list[str]]:
    cli = [sys.executable, "-m", "prefixvlm.cli"]
    commands = {
        "shards": [*cli, "shards", "easy-vqa", "--out", str(SHARDS)],
        "convert_lm": [*cli, "convert-lm"],
        "pretrain_clip": [sys.executable, "train.py", "experiment=clip_pretrain", f"hydra.run.dir={OUT}/clip_pretrain"],
    }
    for seed in seeds:
        commands[f"train_{seed}"] = [
            sys.executable, "train.py", "experiment=frozen_small", f"seed={seed}", "test=false",
            "trainer.max_steps=112", f"hydra.run.dir={checkpoint(seed).parents[1]}",
        ]  # fmt: skip
    return commands


def checkpoint(seed: int) -> Path:
    return OUT / f"seed_{seed}" / "checkpoints" / "last.ckpt"


def draw(options: argparse.Namespace) -> Any:
    return episodes.samples(options.split, SHARDS, "color,shape", episodes=options.episodes)


def measure(path: Path, condition: str, shown: int, made: Sequence[Sample], name: str) -> Results:
    """Return the results of the episodes under a condition. shown: how often the whole support is shown."""
    model = prefixvlm.load(path)
    task = FastBinding(" This is a", induction="", repeats=shown - 1, calibrate=True, decoding={"max_new_tokens": 4})
    change_mapper(model, condition)
    found: Results = {"ranking": [], "calibrated": []}
    for first in tqdm(range(0, len(made), BATCH_SIZE), desc=name):
        part = made[first : first + BATCH_SIZE]
        if condition == "text":
            values = rank_texts(model, task, part)
        else:
            rows = [task.prompt_rows(blacken(each) if condition == "black" else each) for each in part]
            given = [each.values or [] for each in model.predict(task, rows)]
            values = [[each[1], float(each[5] == each[4])] for each in given]  # see FastBinding.predict
        for each in values:
            for score, value in zip(found, each, strict=True):
                found[score].append(100 * value)
    return found


def change_mapper(model: Captioner, condition: str) -> None:
    mapper, lm = model.module.model.mapper, model.module.model.lm
    if condition == "untrained":
        torch.manual_seed(0)
        for layer in mapper.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
    if condition == "token_norm":
        length = float(lm.model.get_input_embeddings().weight.norm(dim=-1).mean())
        mapper.register_forward_hook(lambda _, args, prefix: length * prefix / prefix.norm(dim=-1, keepdim=True))


def blacken(sample: Sample) -> Sample:
    return replace(sample, image=BLACK_IMAGE, support=tuple((BLACK_IMAGE, text) for _, text in sample.support))


def rank_texts(model: Captioner, task: FastBinding, samples: Sequence[Sample]) -> list[list[float]]:
    """Return ranking and calibrated of each sample with the kinds as text in place of the images."""
    result = []
    for sample in samples:
        kinds = [f"a {kind}" for kind in sample.label_sets["kinds"]]
        support = tuple((kind, text) for kind, (_, text) in zip(kinds, sample.support, strict=True))
        (question,) = sample.questions
        asked = [f"a {sample.labels['kind']}", *dict.fromkeys(kinds)]
        rows = [task.prompt_rows(replace(sample, image=kind, support=support))[0] for kind in asked]  # type: ignore[arg-type]
        texts = [Row(tuple(join_texts(row.parts))) for row in rows]
        scores = likelihoods(model.module.model, model.batch(texts), question.choices, task.prompt)
        answer = question.choices.index(question.answers[0])
        result.append([right(scores[0], answer), right(scores[0] - scores[1:].mean(0), answer)])
    return result


def right(scores: Tensor, answer: int) -> float:
    return float(int(scores.argmax()) == answer)


def print_table(results: dict[str, Results], options: argparse.Namespace) -> None:
    print(f"\nRight in percent of {options.episodes} episodes of {options.split} images, chance 50: mean over seeds, "
          "95 % interval over episodes, and calibrated of each seed")  # fmt: skip
    print("| in place of an image | times shown | ranking | calibrated | of each seed |\n" + "|---" * 5 + "|")
    for condition, times in CONDITIONS.items():
        for shown in times:
            runs = [results[name] for seed in options.seeds if (name := f"{condition} x{shown} seed {seed}") in results]
            if runs:
                cells = [spread([run[score] for run in runs]) for score in ("ranking", "calibrated")]
                each = ", ".join(f"{statistics.fmean(run['calibrated']):.1f}" for run in runs)
                print(f"| {condition} | {shown} | {cells[0]} | {cells[1]} | {each} |")


def print_leads(results: dict[str, Results], seeds: Sequence[int]) -> None:
    """Print what images lead by, calibrated and shown 3 times: episode by episode, with its interval."""
    for other in ("black", "untrained"):
        pairs = [[results.get(f"{condition} x3 seed {seed}") for condition in ("images", other)] for seed in seeds]
        leads = [
            [one - two for one, two in zip(images["calibrated"], others["calibrated"], strict=True)]
            for images, others in pairs
            if images and others
        ]
        if leads:
            print(f"images x3, calibrated, over {other}: {spread(leads)}")


def spread(runs: Sequence[Sequence[float]]) -> str:
    """Return the mean over seeds and episodes with its interval; the seeds have the same episodes."""
    means = [statistics.fmean(values) for values in zip(*runs, strict=True)]
    low, high = bootstrap_interval(means)
    return f"{statistics.fmean(means):.1f} ({low:.1f} to {high:.1f})"


if __name__ == "__main__":
    main()
