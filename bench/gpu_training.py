"""Runs of train.py for bench/gpu.py: fed with images and with stored features, as one process of DDP and of FSDP."""

import csv
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from gpu_models import QUICK, SIZES, random_llama, save_lm
from reading import photo
from sides import caption_lengths

from prefixvlm.precision import fast_dtype

ROOT = Path(__file__).parents[1]
PHOTOS = 256  # different ones; the others are links to them
ENCODER = {"encoder.features": "patch", "encoder.layer": "-2", "encoder.pretrained": "random"}


def train_all(device: torch.device, quick: bool) -> dict[str, Any]:
    """Train a mapper to a random language model of 135M parameters in real runs. Returns the statistics of each."""
    size = QUICK["tiny"] if quick else SIZES["135M"]
    count, batch, workers = (16, 4, 1) if quick else (40 * size.batch, size.batch, max(1, (os.cpu_count() or 2) - 2))
    gpu = device.type == "cuda"
    encoder = "clip_vit_b32" if quick else "clip_vit_l14"
    trainers = {"images": "gpu", "features": "gpu", "DDP": "ddp", "FSDP": "fsdp"} if gpu else {"images": "cpu"}
    if quick:
        trainers["features"] = "gpu" if gpu else "cpu"
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_lm(random_llama(size, torch.device("cpu"), torch.float32), folder / "lm")
        write_shards(folder, count, workers)
        start = time.perf_counter()
        encode(folder, encoder, device)
        found["encoding"] = {"images_per_second": (count + batch) / (time.perf_counter() - start)}
        for run, trainer in trainers.items():
            stored = run == "features"
            axes = (
                ["encoder=cached", f"encoder.features_of={folder / 'features'}"] if stored else [f"encoder={encoder}"]
            )
            axes += [] if stored else [f"{key}={value}" for key, value in ENCODER.items()]
            shards = folder / ("features" if stored else "shards")
            found[run] = train(
                folder / run, [*axes, f"trainer={trainer}", f"data.shards={shards}", f"lm.name={folder / 'lm'}"],
                batch, workers,
            )  # fmt: skip
            print(f"train.py, {run}: {found[run]}", flush=True)
    return found


def write_shards(folder: Path, count: int, workers: int) -> None:
    """Write shards of photographs' size with captions as long as real ones, by `prefixvlm shards table`."""
    images, rng = folder / "images", random.Random(0)
    images.mkdir()
    with ProcessPoolExecutor(workers) as pool:
        for number, data in enumerate(pool.map(photo, range(min(PHOTOS, count)))):
            (images / f"{number}.jpg").write_bytes(data)
    lengths = caption_lengths()
    with (folder / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption", "split"])
        for number in range(count):
            if number >= PHOTOS:
                os.link(images / f"{number % PHOTOS}.jpg", images / f"{number}.jpg")
            split = "val" if number < 8 else "train"
            rows.writerow([f"{number}.jpg", "a" * rng.choice(lengths), split])  # a token is a byte
    command = ["shards", "table", "--table", folder / "table.csv", "--images", images, "--out", folder / "shards"]
    prefixvlm(*command, "--samples-per-shard", 256, "--workers", workers)


def encode(folder: Path, encoder: str, device: torch.device) -> None:
    options = [f"{key}={value}" for key, value in ENCODER.items()]
    command = ["shards", "features", "--shards", folder / "shards", "--encoder", encoder, *options]
    prefixvlm(*command, "--out", folder / "features", "--device", device.type)


def prefixvlm(*command: Any) -> None:
    run([sys.executable, "-m", "prefixvlm.cli", *map(str, command)])


def train(run_dir: Path, overrides: list[str], batch: int, workers: int) -> dict[str, float]:
    """Return the medians of a run's statistics, without its first half."""
    start = time.perf_counter()
    run([
        sys.executable, str(ROOT / "train.py"), *overrides, f"hydra.run.dir={run_dir}", "data=shards", "lm=llama",
        "task=captioning", "mapper=llava", "logger=csv", "test=false", f"data.batch_size={batch}",
        f"data.num_workers={workers}", f"lm.dtype={str(fast_dtype()).removeprefix('torch.')}",
        "callbacks.last.every_n_steps=1000",
    ])  # fmt: skip
    seconds = time.perf_counter() - start
    (metrics,) = run_dir.rglob("metrics.csv")
    with metrics.open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/step_seconds")]
    rows = rows[len(rows) // 2 :]
    names = ("samples_per_second", "step_seconds", "data_wait", "memory_gb")
    medians = {name: statistics.median(float(row[f"train/{name}"]) for row in rows) for name in names}
    return {**medians, "loss": float(rows[-1]["train/loss"]), "run_seconds": seconds}


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with code {done.returncode}:\n{done.stderr[-4000:]}")
