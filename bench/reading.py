"""Speed and memory of reading shards: images a second of reading, decoding and transforming synthetic photos.

`python bench/reading.py`: our loader beside plain webdataset with open_clip's transform, to 224 and to 336 pixels, from
photos and from shards that were written smaller, on one core; then memory over --minutes, 0 for none.
`python bench/reading.py --table`: interrupted and resumed loaders compared with uninterrupted ones (exactness.py).
`python bench/reading.py --padding`: share of padding in a batch, with and without buckets (padding.py).
"""

import argparse
import io
import json
import os
import platform
import random
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import webdataset
from exactness import table
from open_clip.transform import PreprocessCfg, image_transform_v2
from padding import padding
from PIL import Image, ImageFilter
from reading_memory import stream

from prefixvlm.data.loading.shard_source import ShardRef, ShardSource
from prefixvlm.data.loading.train_loader import TrainLoader
from prefixvlm.data.sample import Sample, decode_image
from prefixvlm.data.shards.read import read_shard
from prefixvlm.data.shards.reencode import ReencodeOptions
from prefixvlm.data.shards.write import write_shards
from prefixvlm.encoder.transforms import open_clip_transform

OUT = Path("outputs/bench/reading.json")
SIZE, BATCH, SHARD = (500, 375), 32, 500
SIZES, QUALITY = (224, 336), 95
Transform = Callable[[Image.Image], torch.Tensor]


def photo(seed: int, size: tuple[int, int] = SIZE) -> bytes:
    """Return a JPEG of smooth colours under fine noise, with about as many bytes as a photo of this size."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    # Without noise the JPEG would be small, and decoding it unusually fast.
    fine = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).filter(ImageFilter.GaussianBlur(1))
    buffer = io.BytesIO()
    Image.blend(coarse, fine, 0.3).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write(folder: Path, count: int) -> list[ShardRef]:
    tars = []
    for first in range(0, count, SHARD):
        path = folder / f"train-{first // SHARD:06d}.tar"
        with tarfile.open(path, "w") as file:
            for number in range(first, min(first + SHARD, count)):
                for extension, data in (("jpg", photo(number)), ("txt", f"photo {number}".encode())):
                    info = tarfile.TarInfo(f"{number:06d}.{extension}")
                    info.size = len(data)
                    file.addfile(info, io.BytesIO(data))
        tars.append(ShardRef(path))
    return tars


class Stacked:
    """Collates the images of samples."""

    def __init__(self, transform: Transform) -> None:
        self.transform = transform

    def __call__(self, samples: list[Sample], rng: random.Random) -> torch.Tensor:
        return torch.stack([self.transform(sample.picture) for sample in samples])


def ours(tars: list[ShardRef], transform: Transform, shuffle_buffer: int = 1000) -> Iterator[torch.Tensor]:
    return iter(TrainLoader([ShardSource(tars)], BATCH, Stacked(transform), shuffle_buffer))


def plain_webdataset(tars: list[ShardRef], transform: Transform) -> Iterator[torch.Tensor]:
    data = webdataset.WebDataset([str(tar.path) for tar in tars], shardshuffle=False).shuffle(1000).decode("pil")
    return (torch.stack([transform(image) for (image,) in batch]) for batch in batches(data.to_tuple("jpg")))


def bare_decode(images: list[bytes]) -> Iterator[torch.Tensor]:
    for data in images:
        decode_image(data)
        yield torch.empty(1)


def batches(items: Any) -> Iterator[list[Any]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == BATCH:
            yield batch
            batch = []


def speed(make: Callable[[], Iterator[torch.Tensor]]) -> float:
    """Return images per second of processor time, which other programs disturb less than time."""
    start = time.process_time()
    count = sum(len(batch) for batch in make())
    return count / (time.process_time() - start)


def sides_of(tars: list[ShardRef], smaller: list[ShardRef], size: int) -> dict[str, Callable[[], Any]]:
    """Return what is compared for one size of pixel_values. The first is the base of the ratios."""
    library = image_transform_v2(PreprocessCfg(size=size), is_train=False)
    fast, exact = (open_clip_transform({"size": size}, exact=each) for each in (False, True))
    return {
        "plain webdataset": partial(plain_webdataset, tars, library),
        "ours": partial(ours, tars, fast.pixels),
        "ours, normalized on this core too": partial(ours, tars, fast),
        "ours, exact_pixels": partial(ours, tars, exact.pixels),
        f"ours, shards of --image-size {size} --image-quality {QUALITY}": partial(ours, smaller, fast.pixels),
    }


def rewritten(tars: list[ShardRef], size: int, folder: Path) -> list[ShardRef]:
    """Return the shards as `prefixvlm shards` writes them with --image-size and --image-quality."""
    samples = {"train": [sample for tar in tars for sample in read_shard(tar.path)]}
    write_shards(samples, folder, "bench", "none", SHARD, encoding=ReencodeOptions(size, QUALITY))
    return [ShardRef(path) for path in sorted(folder.glob("*.tar"))]


def compare(sides: dict[str, Callable[[], Iterator[torch.Tensor]]], rounds: int) -> dict[str, Any]:
    """Return the medians of images per second and of the ratios to the first side, over interleaved rounds."""
    speeds = {name: [] for name in sides}
    for _ in range(rounds):  # interleaved, so that a busy machine is busy for all sides
        for name, make in sides.items():
            speeds[name].append(speed(make))
    base = np.array(next(iter(speeds.values())))
    return {
        name: {
            "images_a_second": round(float(np.median(each)), 1),
            "ratio": round(float(np.median(each / base)), 2),
            "rounds": [round(value, 1) for value in each],
        }
        for name, each in speeds.items()
    }


def measure(count: int, rounds: int, minutes: float) -> dict[str, Any]:
    torch.set_num_threads(1)  # as in the worker processes of a DataLoader
    with tempfile.TemporaryDirectory() as folder:
        tars = write(Path(folder), count)
        images = [data for tar in tars for data in jpegs(tar.path)]
        result: dict[str, Any] = {
            "images": count,
            "kB_an_image": round(sum(map(len, images)) / len(images) / 1e3, 1),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, one used; torch {torch.__version__}",
            "open_clip": open_clip.__version__,
            "decode alone": compare({"decode alone, from memory": partial(bare_decode, images)}, rounds),
        }
        del images  # else they would count in the memory of the stream
        for size in SIZES:
            smaller = rewritten(tars, size, Path(folder) / str(size))
            result[f"to {size}"] = compare(sides_of(tars, smaller, size), rounds)
        if minutes:
            collate = Stacked(open_clip_transform({"size": SIZES[0]}, exact=False).pixels)
            result["memory"] = stream(TrainLoader([ShardSource(tars)], BATCH, collate, 1000), minutes)
        return result


def jpegs(path: Path) -> list[bytes]:
    with tarfile.open(path) as file:
        return [file.extractfile(info).read() for info in file if info.name.endswith("jpg")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the table of exactness instead")
    parser.add_argument("--padding", action="store_true", help="print the share of padding instead")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=1, help="of streaming, for the memory")
    arguments = parser.parse_args()
    if arguments.table:
        warnings.filterwarnings("ignore", "This DataLoader will create")
        table()
    elif arguments.padding:
        print(padding())
    else:
        result = measure(arguments.images, arguments.rounds, arguments.minutes)
        OUT.parent.mkdir(parents=True, exist_ok=True)
        OUT.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
