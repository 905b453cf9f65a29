"""Captions of photographs by a model that was trained without one: `make demo-photos`.

A mapper learns the names of the classes of an ImageNet classifier, and then captions scikit-image's sample photographs.
A finished stage is not run again; delete outputs/demo_photos to start over.
"""

import csv
import json
import os
import sys
from pathlib import Path

import skimage.data
from PIL import Image

from prefixvlm.resumable_stages import run_stages

OUT = Path("outputs/demo_photos")
PHOTOS = {  # of the package scikit-image, with references written for this demo
    "astronaut": "a woman in an orange spacesuit in front of a flag",
    "brick": "a brick wall",
    "camera": "a man with a camera on a tripod",
    "cat": "a tabby cat",
    "clock": "a blurred clock on a wall",
    "coffee": "a cup of espresso on a saucer",
    "coins": "rows of old coins",
    "grass": "a lawn of dry grass",
    "gravel": "a ground of gravel",
    "hubble_deep_field": "galaxies in a dark sky",
    "moon": "craters on the moon",
    "page": "a printed page of text",
    "rocket": "a rocket on its launch pad",
}
CLI = [sys.executable, "-m", "prefixvlm.cli"]
STAGES = {
    "photographs": [*CLI, "shards", "table", "--table", f"{OUT}/photos.csv", "--images", f"{OUT}/photos",
                    "--out", f"{OUT}/shards"],
    "class_names": [*CLI, "shards", "features", "--class-names", "--encoder",
                    "efficientnet_lite0_classes", "--out", f"{OUT}/class-names"],
    "convert_lm": [*CLI, "convert-lm"],
    "train": [sys.executable, "train.py", "experiment=class_names", "encoder=cached",
              f"data.shards={OUT}/class-names", f"hydra.run.dir={OUT}/train"],
    "evaluate": [sys.executable, "eval.py", f"ckpt={OUT}/train/checkpoints/last.ckpt", f"shards={OUT}/shards",
                 f"out={OUT}"],
}  # fmt: skip


def main() -> None:
    os.chdir(Path(__file__).parents[1])
    write_photos()
    seconds = run_stages(STAGES, OUT, "make demo-photos")
    print("\nThe model never saw a photograph in training:")
    for line in (OUT / "predictions.jsonl").read_text(encoding="utf-8").splitlines():
        prediction = json.loads(line)
        print(f"  {prediction['key']:20}{prediction['prediction']:36}({prediction['references'][0]})")
    print(f"  {sum(seconds.values()):.0f} seconds\nPage: {(OUT / 'report.html').resolve()}")


def write_photos() -> None:
    """Write the photographs as PNG files, with a table of their captions."""
    folder = OUT / "photos"
    folder.mkdir(parents=True, exist_ok=True)
    for name in PHOTOS:
        Image.fromarray(getattr(skimage.data, name)()).convert("RGB").save(folder / f"{name}.png")
    with (OUT / "photos.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption", "split"])
        table.writerows([f"{name}.png", caption, "test"] for name, caption in PHOTOS.items())


if __name__ == "__main__":
    main()
