"""Speed and memory of reading shards: images per second of reading, decoding and transforming synthetic photos.

`python bench/reading.py`: our loader, plain webdataset and decoding alone, on one core; then memory over --minutes.
`python bench/reading.py --table`: interrupted and resumed loaders compared with uninterrupted ones (exactness.py).
`python bench/reading.py --padding`: share of padding in a batch, with and without buckets (padding.py).
"""

import argparse
import io
import json
import os
import platform
import random
import resource
import tarfile
import tempfile
import threading
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

from prefixvlm.data.loading.shard_source import ShardRef, ShardSource
from prefixvlm.data.loading.train_loader import TrainLoader
from prefixvlm.data.sample import Sample, decode_image

OUT = Path("outputs/bench/reading.json")
SIZE, BATCH, SHARD = (500, 375), 32, 500
TRANSFORM = image_transform_v2(PreprocessCfg(size=224), is_train=False)


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


def transformed(samples: list[Sample], rng: random.Random) -> torch.Tensor:
    return torch.stack([TRANSFORM(sample.picture) for sample in samples])


def ours(tars: list[ShardRef], shuffle_buffer: int = 1000) -> Iterator[torch.Tensor]:
    return iter(TrainLoader([ShardSource(tars)], BATCH, transformed, shuffle_buffer))


def plain_webdataset(tars: list[ShardRef]) -> Iterator[torch.Tensor]:
    data = webdataset.WebDataset([str(tar.path) for tar in tars], shardshuffle=False).shuffle(1000).decode("pil")
    return (torch.stack([TRANSFORM(image) for (image,) in batch]) for batch in batches(data.to_tuple("jpg")))


def bare(images: list[bytes]) -> Iterator[torch.Tensor]:
    return (torch.stack([TRANSFORM(decode_image(data)) for data in batch]) for batch in batches(images))


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
    """Return images per second."""
    start = time.perf_counter()
    count = sum(len(batch) for batch in make())
    return count / (time.perf_counter() - start)


def resident() -> float:
    """Return the resident memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def stream(tars: list[ShardRef], minutes: float) -> dict[str, Any]:
    """Iterate over epochs of the loader; memory is sampled every second."""
    memory, stop = [resident()], threading.Event()

    def sample() -> None:
        while not stop.wait(1):
            memory.append(resident())

    watcher = threading.Thread(target=sample)
    watcher.start()
    loader, images, end = TrainLoader([ShardSource(tars)], BATCH, transformed, 1000), 0, time.monotonic() + 60 * minutes
    try:
        while time.monotonic() < end:
            for batch in loader:
                images += len(batch)
                if time.monotonic() > end:
                    break
    finally:
        stop.set()
        watcher.join()
    tenth = max(1, len(memory) // 10)
    return {
        "minutes": minutes,
        "images": images,
        "epochs": loader.epoch + 1,
        "mb_at_start": round(memory[0]),
        "mb_after_a_tenth": round(memory[tenth]),
        "mb_at_end": round(memory[-1]),
        "mb_peak": round(max(memory)),
        "mb_peak_of_the_process": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6),
    }


def measure(count: int, rounds: int, minutes: float) -> dict[str, Any]:
    torch.set_num_threads(1)  # as in the worker processes of a DataLoader
    with tempfile.TemporaryDirectory() as folder:
        tars = write(Path(folder), count)
        images = [data for tar in tars for data in jpegs(tar.path)]
        sides = {
            "ours": partial(ours, tars),
            "plain webdataset": partial(plain_webdataset, tars),
            "decode and transform, from memory": partial(bare, images),
            "decode alone, from memory": partial(bare_decode, images),
        }
        speeds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(rounds):  # interleaved, so that a busy machine is busy for all sides
            for name, make in sides.items():
                speeds[name].append(speed(make))
        result = {
            "images": count,
            "kB_an_image": round(sum(map(len, images)) / len(images) / 1e3, 1),
            "images_a_second": {name: round(float(np.median(values)), 1) for name, values in speeds.items()},
            "rounds": {name: [round(value, 1) for value in values] for name, values in speeds.items()},
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, one used; torch {torch.__version__}",
            "open_clip": open_clip.__version__,
        }
        del images  # else they would count in the memory of the stream
        return result | {"memory": stream(tars, minutes)}


def jpegs(path: Path) -> list[bytes]:
    with tarfile.open(path) as file:
        return [file.extractfile(info).read() for info in file if info.name.endswith("jpg")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the table of exactness instead")
    parser.add_argument("--padding", action="store_true", help="print the share of padding instead")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
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
