"""Continual training: a model learns two new shapes from the corrections of its users. What does it forget?

`python examples/continual.py [--ckpt PATH]`, by default with the demo's checkpoint. Users show a model stars and
crosses, which easy-VQA has none of; they ask for captions, shapes and colours, and correct what it says. The
corrections go through `prefixvlm.serve.feedback`, as those of the page of `prefixvlm serve` do. Training goes on from
the checkpoint once with the corrections mixed with old data and once with them alone. A table has the scores of all
three models on old and on new test images. Finished stages are skipped; delete outputs/continual to start over.
"""

import argparse
import io
import json
import math
import os
import random
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

import prefixvlm
from prefixvlm.resumable_stages import read_json, run_stages
from prefixvlm.serve.feedback import record

OUT = Path("outputs/continual")
OLD = "data/easy-vqa"
COLOURS = {
    "black": (0, 0, 0), "blue": (0, 0, 255), "brown": (165, 42, 42), "gray": (128, 128, 128), "green": (0, 255, 0),
    "red": (255, 0, 0), "teal": (0, 128, 128), "yellow": (255, 255, 0),
}  # fmt: skip
SHAPES = ("star", "cross")
SHAPE_QUESTION, COLOUR_QUESTION = "what shape is in the image?", "what color is the shape?"
SIZE = 64
SCORES = ("captions, old", "captions, new", "answers, old", "answers, new")


def main() -> None:
    os.chdir(Path(__file__).parents[1])
    options = parser().parse_args()
    if options.collect:
        collect(prefixvlm.load(options.ckpt), OUT / "corrections", options.images)
        write_test(OUT / "new", options.test_images)
        return
    run_stages(stages(options), OUT, "python examples/continual.py")
    print_table({name: scores(OUT / name) for name in ("before", "mixture", "corrections_only")})


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument(
        "--ckpt", default="outputs/demo/train/checkpoints/best.ckpt", metavar="PATH", help="(%(default)s)"
    )
    result.add_argument("--images", type=int, default=240, help="that users correct (%(default)s)")
    result.add_argument("--test-images", type=int, default=100, help="old ones, and as many new ones (%(default)s)")
    result.add_argument("--steps", type=int, default=40, help="training steps of 32 images (%(default)s)")
    result.add_argument(
        "--lr", type=float, default=2e-3, help="the learning rate, on from that of the checkpoint's run"
    )
    result.add_argument("--collect", action="store_true", help="only draw the images and collect the corrections")
    return result


def stages(options: argparse.Namespace) -> dict[str, list[str]]:
    shards = [sys.executable, "-m", "prefixvlm.cli", "shards"]
    new = ["--table", f"{OUT}/new/table.jsonl", "--images", f"{OUT}/new", "--out", f"{OUT}/new_shards"]
    commands = {
        "collect": [
            sys.executable, "examples/continual.py", "--collect", f"--ckpt={options.ckpt}",
            f"--images={options.images}", f"--test-images={options.test_images}",
        ],
        "feedback": [
            *shards, "feedback", "--source", f"{OUT}/corrections", "--val-share", "0.1", "--out", f"{OUT}/feedback"
        ],
        "new_shards": [*shards, "table", *new],
        **evaluations("before", options.ckpt, options),
    }  # fmt: skip
    mixed = ["data=mixture", f"+data.shards.corrections={{shards: {OUT}/feedback, weight: 1}}"]
    for name, data in (("mixture", mixed), ("corrections_only", ["data=shards", f"data.shards={OUT}/feedback"])):
        commands[f"train_{name}"] = [
            sys.executable, "train.py", f"init_from={options.ckpt}", *data, f"optim.lr={options.lr}", "test=false",
            f"data.epoch_samples={32 * options.steps}", "data.limit_val_predictions=0", f"hydra.run.dir={OUT}/{name}",
        ]  # fmt: skip
        commands |= evaluations(name, f"{OUT}/{name}/checkpoints/last.ckpt", options)
    return commands


def evaluations(name: str, ckpt: str, options: argparse.Namespace) -> dict[str, list[str]]:
    """Return the commands that evaluate a checkpoint on old and on new test images."""
    return {
        f"{name}_{data}": [
            sys.executable, "eval.py", f"ckpt={ckpt}", f"shards={shards}", f"limit={options.test_images}",
            "blind=false", f"out={OUT}/{name}/{data}",
        ]
        for data, shards in (("old", OLD), ("new", f"{OUT}/new_shards"))
    }  # fmt: skip


def draw(rng: random.Random) -> tuple[Image.Image, str, str]:
    """Return an image in the style of easy-VQA, with its colour and shape."""
    colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
    background = tuple(rng.randint(230, 255) for _ in range(3))
    radius = rng.uniform(6, 18)
    x, y = (rng.uniform(radius, SIZE - radius) for _ in "xy")
    image = Image.new("RGB", (SIZE, SIZE), background)
    if shape == "star":
        angles = [math.pi * (number / 5 - 0.5) for number in range(10)]
        radii = [radius * (0.4 if number % 2 else 1) for number in range(10)]
        corners = [(x + r * math.cos(a), y + r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]
        ImageDraw.Draw(image).polygon(corners, COLOURS[colour])
    else:
        arm = radius / 3
        for width, height in ((radius, arm), (arm, radius)):
            ImageDraw.Draw(image).rectangle((x - width, y - height, x + width, y + height), COLOURS[colour])
    return image, colour, shape


def collect(model: Any, folder: Path, num_images: int) -> None:
    """Let simulated users ask a model about new images and record what they correct or confirm.

    Half of them ask for a caption, the others for the shape, and every second of these for the colour, too.
    """
    rng = random.Random(0)
    asked: dict[str, list[tuple[Image.Image, str]]] = {"": [], SHAPE_QUESTION: [], COLOUR_QUESTION: []}
    for _ in range(num_images):
        image, colour, shape = draw(rng)
        if rng.random() < 0.5:
            asked[""].append((image, f"a {colour} {shape}"))
            continue
        asked[SHAPE_QUESTION].append((image, shape))
        if rng.random() < 0.5:
            asked[COLOUR_QUESTION].append((image, colour))
    for question, items in asked.items():
        images = [image for image, _ in items]
        said = model.answer(images, question) if question else model.caption(images)
        for (image, right), prediction in zip(items, said, strict=True):
            record(folder, png(image), prediction, right, question)


def write_test(folder: Path, num_images: int) -> None:
    """Write other new images and a table of them, for `prefixvlm shards table`."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, lines = random.Random(1), []
    for number in range(num_images):
        image, colour, shape = draw(rng)
        name = f"{number:03}.png"
        (folder / name).write_bytes(png(image))
        facts = ({"caption": f"a {colour} {shape}"}, {"question": SHAPE_QUESTION, "answer": shape},
                 {"question": COLOUR_QUESTION, "answer": colour})  # fmt: skip
        lines += [json.dumps({"image": name, "split": "test", **fact}) for fact in facts]
    (folder / "table.jsonl").write_text("\n".join(lines) + "\n")


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def scores(folder: Path) -> list[float]:
    """Return the SCORES of a model in percent: captions exactly right, answers to questions with "what" right."""
    reports = {data: read_json(folder / data / "metrics.json")["tasks"] for data in ("old", "new")}
    captions = [reports[data]["captioning"]["scores"]["exact_match"] for data in ("old", "new")]
    answers = [reports[data]["vqa"]["scores"]["accuracy_what"] for data in ("old", "new")]
    return [*captions, *answers]


def print_table(table: dict[str, list[float]]) -> None:
    print(f"\n| | {' | '.join(SCORES)} |\n{'|---' * (len(SCORES) + 1)}|")
    for name, values in table.items():
        print(f"| {name.replace('_', ' ')} | " + " | ".join(f"{value:.1f}" for value in values) + " |")


if __name__ == "__main__":
    main()
