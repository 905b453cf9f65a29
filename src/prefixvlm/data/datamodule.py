"""Shards go in, Lightning's train, validation and test loaders come out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule

from prefixvlm.data.loading.eval_loader import EvalLoader
from prefixvlm.data.loading.mixture import Shards, find_sources
from prefixvlm.data.loading.planned_batches import Collate
from prefixvlm.data.loading.shard_source import ShardRef, prefetched_paths
from prefixvlm.data.loading.train_loader import TrainLoader
from prefixvlm.data.sample import IMAGE_EXTENSIONS
from prefixvlm.data.shard_cache import DEFAULT_FOLDER, ShardCache
from prefixvlm.data.shards.read import read_shard


class ShardDataModule(LightningDataModule):
    """The loaders of a folder, a pattern or a URL of shards, or of several by weight (see find_sources).

    batch_size, eval_batch_size: images a batch on each rank; evaluation's is batch_size unless set.
    epoch_samples, shuffle_buffer, bucket_batches: see ShardLoader.
    max_bad_fraction: of an epoch's samples, and of the validation loss's, how many may be bad and are skipped. Tests
    and predictions skip none.
    limit_val, limit_test: only the first so many images.
    limit_val_predictions: images that are also captioned and asked about at each validation, the first of the split.
    test_split: which split a test is of.
    blind: evaluates with black images. train_blind: trains and validates with them.
    cache_dir: where shards of a URL are kept; cache_limit: how many GB of them.

    Whoever builds it sets train_collate, val_collate and test_collates, one test loader a task, in their order.
    """

    train_collate: Collate
    val_collate: Collate
    test_collates: dict[str, Collate]

    def __init__(
        self,
        shards: Shards,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        shuffle_buffer: int = 2000,
        epoch_samples: int | None = None,
        bucket_batches: int = 0,
        max_bad_fraction: float = 0.001,
        limit_val: int | None = None,
        limit_test: int | None = None,
        limit_val_predictions: int = 32,
        test_split: str = "test",
        blind: bool = False,
        train_blind: bool = False,
        cache_dir: str = DEFAULT_FOLDER,
        cache_limit: float | None = None,
    ) -> None:
        super().__init__()
        self.shards: Any = shards
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size
        self.num_workers, self.seed, self.shuffle_buffer = num_workers, seed, shuffle_buffer
        self.epoch_samples, self.bucket_batches, self.max_bad_fraction = epoch_samples, bucket_batches, max_bad_fraction
        self.limit_val, self.limit_test, self.blind = limit_val, limit_test, blind
        self.train_blind = train_blind
        self.limit_val_predictions, self.test_split = limit_val_predictions, test_split
        self.cache = ShardCache(cache_dir, cache_limit)
        self._train_loader: TrainLoader | None = None
        self._train_state: dict[str, Any] = {}

    def setup(self, stage: str) -> None:
        """Raises ValueError, before any model is moved or run, if a split of the stage has no shards."""
        for split in {"fit": ("train", "val"), "validate": ("val",)}.get(stage, (self.test_split,)):
            find_sources(self.shards, split, self.cache)

    def train_dataloader(self) -> TrainLoader:
        loader = TrainLoader(
            find_sources(self.shards, "train", self.cache),
            self.batch_size,
            self.train_collate,
            self.shuffle_buffer,
            self.epoch_samples,
            self.bucket_batches,
            self.max_bad_fraction,
            blind=self.train_blind,
            **self._common(),
        )
        if self._train_state:
            loader.load_state_dict(self._train_state)
        self._train_loader = loader
        return loader

    @property
    def num_bad_samples(self) -> int:
        """Of the training samples, on this rank since the last checkpoint and on all before it."""
        return len(self._train_loader.budget) if self._train_loader else 0

    # Lightning restores a loader's state itself, but not that of one made early, as a schedule over the number of
    # steps makes it (Lightning #20550). It asks every rank for the state, so they tell each other what was bad here.
    def state_dict(self) -> dict[str, Any]:
        if self._train_loader is None:
            return {}
        self._train_loader.budget.gather()
        return self._train_loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._train_state = state_dict

    def val_dataloader(self) -> list[EvalLoader]:
        """The loader for the loss, then one a task for predictions."""
        collates = self.test_collates.values() if self.limit_val_predictions else ()
        blind = self.blind or self.train_blind
        loss = self._exact("val", self.val_collate, self.limit_val, blind, self.max_bad_fraction)
        return [loss, *(self._exact("val", collate, self.limit_val_predictions, blind) for collate in collates)]

    def test_dataloader(self) -> list[EvalLoader]:
        collates = self.test_collates.values()
        return [self._exact(self.test_split, collate, self.limit_test, self.blind) for collate in collates]

    def paths(self, split: str) -> list[Path]:
        """The shards of a split, all of them fetched."""
        return list(prefetched_paths(self._tars(split)))

    def images(self, keys: Sequence[str], split: str | None = None) -> dict[str, bytes]:
        """The encoded images of some samples of a split (null: the one that is tested), by key."""
        wanted, found = set(keys), dict[str, bytes]()
        tars = self._tars(split or self.test_split) if wanted else []
        for tar, path in zip(tars, prefetched_paths(tars), strict=True):
            for key, members in read_shard(path):
                image = next((members[name] for name in members if name in IMAGE_EXTENSIONS), None)
                if image is not None and tar.prefix + key in wanted:
                    found[tar.prefix + key] = image
            if len(found) == len(wanted):
                break
        return found

    def _tars(self, split: str) -> list[ShardRef]:
        return [tar for source in find_sources(self.shards, split, self.cache) for tar in source.tars]

    def _exact(
        self, split: str, collate: Collate, limit: int | None, blind: bool, max_bad_fraction: float | None = None
    ) -> EvalLoader:
        sources = find_sources(self.shards, split, self.cache)
        return EvalLoader(
            sources, self.eval_batch_size, collate, limit, max_bad_fraction, blind=blind, **self._common()
        )

    def _common(self) -> dict[str, Any]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return {"num_workers": self.num_workers, "seed": self.seed, "rank": rank, "world": world}
