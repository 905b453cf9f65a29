"""A module, its data and a few-shot set-up go in; the module's prompts begin with demonstrations from then on."""

from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from prefixvlm.batch import ImageOrFeatures
from prefixvlm.data.datamodule import ShardDataModule
from prefixvlm.data.loading.demonstration_pool import DemonstrationPool
from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.task.rows.few_shot import SPARE, FewShot

BATCH = 32


def set_demonstrations(module: Any, data: ShardDataModule, few_shot: FewShot) -> None:
    """Draw the pool from the training split and, for the nearest, look at every image once.

    In a blind evaluation the pool's images are black too, and the nearest give way to random ones.
    """
    heads = [name for name, task in module.tasks.items() if task.has_head]
    if heads and (few_shot.shots or few_shot.induction):
        raise ValueError(f"task {heads[0]} has a head and takes no demonstrations; set task, or few_shot.shots=0")
    black = Image.new("RGB", (64, 64)) if data.blind else None
    shards = data.paths("train") if few_shot.shots else []
    pool = DemonstrationPool(shards, few_shot.pool_size, few_shot.seed, black)
    nearest = None
    if few_shot.choice == "nearest" and few_shot.shots and not data.blind:
        pooled = _features(module.model.encoder, (pool[number].image for number in range(len(pool))), len(pool))
        loader = data.test_dataloader()[0]
        keys: list[str] = []
        found = _features(module.model.encoder, _images(loader.samples(images=True), keys), loader.num_samples)
        order = (found @ pooled.T).topk(min(len(pool), SPARE * few_shot.shots + SPARE)).indices.tolist()
        nearest = dict(zip(keys, order, strict=True))
    if few_shot.shots:
        few_shot.set_pool(pool.keys, pool.__getitem__, nearest)
    for collate in module.test_collates.values():
        collate.few_shot = few_shot


def _images(samples: Iterable[Any], keys: list[str]) -> Iterable[ImageOrFeatures]:
    for sample in samples:
        keys.append(sample.key)
        yield sample.image


@torch.no_grad()
def _features(encoder: ImageEncoder, images: Iterable[ImageOrFeatures], total: int) -> Tensor:
    """The mean of each image's features, normalised: float32[B, D]."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder.to(device)
    found = []
    waiting = iter(tqdm(images, desc="looking for the nearest images", total=total, delay=2))
    while batch := list(islice(waiting, BATCH)):
        pixel_values = torch.stack([encoder.transform(image) for image in batch]).to(device)
        found.append(encoder(pixel_values).float().mean(1).cpu())
    return torch.nn.functional.normalize(torch.cat(found), dim=-1)
