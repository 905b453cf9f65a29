"""Decides, before a training, whether to keep the features of its images, and announces their size on disk."""

import hashlib
import inspect
import json
import math
import re
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from prefixvlm.data.datamodule import ShardDataModule
from prefixvlm.data.feature_store import FeatureStore
from prefixvlm.data.image import ImageDecoder
from prefixvlm.data.loading.mixture import find_sources
from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.features.cache import FeatureCache

AUTO_SHARE = 0.1  # of the free space that auto may take
MIN_SAVED = 1000  # encodings that must be saved for auto to write to the disk of a user
MAX_RECORDS = 2  # of an image: its features come again where batches have other numbers of images, as the last one
RANDOM_TRIES = 8  # of a transform; a random flip goes unnoticed in one of 2^8 cases
INSTEAD = "set it to auto or false"


def choose_cache(encoder: ImageEncoder, node: Mapping[str, Any], data: ShardDataModule) -> FeatureCache | None:
    """Return the cache of a training, None if features are not kept. Print what it will take or why it is not used.

    node: the configuration of the encoder. data: the data module, with its trainer.
    Raises ValueError if data.cache_features is true and they cannot be kept.
    """
    must, trainer = data.cache_features is True, data.trainer
    assert trainer is not None
    if data.cache_features is False:
        return None
    obstacle = _obstacle(encoder, data.train_blind)
    if getattr(data.collates.train, "augment", None):
        obstacle = "module.random_crop and module.random_flip change the images in each epoch"
    if obstacle := obstacle or ("data.mode=stream does not count its images" if data.mode == "stream" else ""):
        _refuse(must, f"{obstacle}; {INSTEAD}")
        return None
    images = sum(source.num_samples for source in find_sources(data.shards, "train", data.cache))
    if not must and not _pays(images, data):
        return None
    device = trainer.strategy.root_device
    folder = Path(data.feature_dir).expanduser() / _identity(encoder, node, device, data.decoder)
    store = FeatureStore(folder, encoder.num_features, encoder.feature_width)
    stored = min(images, store.count(data.batch_size))
    needed = (images - stored) * store.record_bytes
    free = shutil.disk_usage(_existing(folder)).free
    sizes = f"{_size(needed)} for {images:,} training images, where {_size(free)} are free ({folder})"
    said = ""
    if not must and device.type != "cpu" and store.record_bytes > _pixel_bytes(encoder):
        said = f"those of an image ({_size(store.record_bytes)}) are larger than its pixels"
    elif needed > free * (1 if must else AUTO_SHARE):
        said = f"they would take {sizes}"
        _refuse(must, f"{said}; {INSTEAD}, or data.feature_dir to another disk")
    if trainer.is_global_zero:
        found = f"; those of {stored:,} are there" if stored else ""
        kept = f"Features are computed once and kept: {sizes}{found}. data.cache_features=false turns it off."
        print(f"Features are computed in every epoch, because {said}." if said else kept)
    limit = MAX_RECORDS * images // trainer.world_size
    return None if said else FeatureCache(encoder, store, must_be_exact=not must, limit=limit)


def _refuse(must: bool, reason: str) -> None:
    if must:
        raise ValueError(f"data.cache_features is true, but {reason}")


def _obstacle(encoder: ImageEncoder, is_blind: bool) -> str:
    """Return why the features of this encoder cannot be kept, "" if they can."""
    if encoder.trained:
        return "the encoder is trained"
    if not type(encoder).__module__.startswith("prefixvlm."):
        # Its code may have changed since features were stored, and no hash of weights and options would show it.
        return "its encoder is not one of prefixvlm's own"
    if encoder.reads_features:
        return "the shards hold features already"
    if is_blind:
        return "data.train_blind=true leaves the images out"
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    first = encoder.loader_transform(noise)
    same = all(torch.equal(encoder.loader_transform(noise), first) for _ in range(RANDOM_TRIES))
    return "" if same else "the transform of the encoder is random"


def _pays(images: int, data: ShardDataModule) -> bool:
    """Return whether a run encodes its images at least twice, and many enough for the disk of a user to be used."""
    trainer: Any = data.trainer
    epochs, steps = (math.inf if limit in (None, -1) else limit for limit in (trainer.max_epochs, trainer.max_steps))
    step = data.batch_size * trainer.world_size * trainer.accumulate_grad_batches
    encodings = min(epochs * (data.epoch_samples or images), steps * step)
    return encodings >= 2 * images and encodings - images >= MIN_SAVED


def _identity(encoder: ImageEncoder, node: Mapping[str, Any], device: torch.device, decoder: ImageDecoder) -> str:
    """Return a hash of all that the bits of features depend on, besides the images and their number in a batch."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    machine: list[object]
    if device.type == "cuda":
        machine = [torch.cuda.get_device_name(device)]
    else:
        machine = [device.type, torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()]
    machine += [torch.get_float32_matmul_precision()]
    machine += [version(name) for name in ("torch", "torchvision", "pillow", "timm", "open_clip_torch")]
    transform = re.sub(r" at 0x[0-9a-f]+", "", repr(encoder.loader_transform))  # addresses differ in each process
    for path in _code():
        digest.update(path.read_bytes())
    digest.update(json.dumps([node, transform, repr(decoder), machine], sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def _code() -> list[Path]:
    """Return the sources of the encoders and of what opens images, which another version of prefixvlm may change."""
    encoders = Path(inspect.getfile(ImageEncoder)).parent
    return [*sorted(encoders.glob("*.py")), Path(inspect.getfile(ImageDecoder))]


def _pixel_bytes(encoder: ImageEncoder) -> int:
    pixels = encoder.loader_transform(Image.new("RGB", (64, 64)))
    return pixels.numel() * pixels.element_size()


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return folder if folder.exists() else _existing(folder.parent)


def _size(num_bytes: float) -> str:
    """Return a number of bytes for people, as 1.2 GB."""
    for unit in ("bytes", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} GB"
