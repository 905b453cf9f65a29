"""Choose the demonstrations of a few-shot evaluation from the training split, at random or by image similarity."""

from collections.abc import Iterable, Iterator
from typing import Any

from prefixvlm.batch import ImageOrFeatures
from prefixvlm.data.datamodule import ShardDataModule
from prefixvlm.data.loading.demonstration_pool import DemonstrationPool
from prefixvlm.data.sample import BLACK_IMAGE, Sample
from prefixvlm.encoder.mean_features import mean_features
from prefixvlm.task.rows.few_shot import NUM_SPARE, Demonstrations, FewShot


def draw_demonstrations(module: Any, data: ShardDataModule, few_shot: FewShot) -> Demonstrations:
    """Read the pool of demonstrations and, for few_shot.choice=nearest, find the nearest ones of each test image.

    In a blind evaluation the images of the pool are black and the choice is always random. Raises ValueError for a task
    with a head, which reads no demonstrations.
    """
    heads = [name for name, task in module.tasks.items() if task.has_head]
    if heads and (few_shot.shots or few_shot.induction):
        raise ValueError(f"task {heads[0]} has a head and takes no demonstrations; set task, or few_shot.shots=0")
    if not few_shot.shots:
        return Demonstrations(few_shot)
    pool = DemonstrationPool(
        data.paths("train"), few_shot.pool_size, few_shot.seed, BLACK_IMAGE if data.blind else None, data.decoder
    )
    # Black images are all equally near; and a choice by the real images would give the model a hint of them.
    if few_shot.choice != "nearest" or data.blind or len(pool) <= few_shot.shots:
        return Demonstrations(few_shot, pool)
    encoder = module.model.encoder
    what = "encoding images for the nearest demonstrations"
    pool_features = mean_features(encoder, (pool[number].image for number in range(len(pool))), len(pool), what)
    loader = data.test_dataloader()[0]  # its samples are the same for every task
    keys: list[str] = []
    test_features = mean_features(encoder, images_of(loader.samples(images=True), keys), loader.num_samples, what)
    # Spare candidates take the place of samples that have no row of the task.
    num_candidates = min(len(pool), NUM_SPARE * few_shot.shots + NUM_SPARE)
    order = (test_features @ pool_features.T).topk(num_candidates).indices.tolist()
    return Demonstrations(few_shot, pool, dict(zip(keys, order, strict=True)))


def images_of(samples: Iterable[Sample], keys: list[str]) -> Iterator[ImageOrFeatures]:
    """Yield the images of samples, and append their keys."""
    for sample in samples:
        keys.append(sample.key)
        yield sample.image
