"""Shards go in, Lightning's train, validation and test loaders come out."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningDataModule

from prefixvlm.data.loader import ExactLoader, ShardLoader
from prefixvlm.data.manifest import resolve_shards
from prefixvlm.data.reader import Collate
from prefixvlm.data.sample import IMAGE_EXTENSIONS
from prefixvlm.data.shards import read_shard


class ShardDataModule(LightningDataModule):
    """The loaders of one folder or pattern of shards (see resolve_shards).

    batch_size, eval_batch_size: images a batch on each rank; evaluation's is batch_size unless set.
    limit_val, limit_test: only the first so many images.
    limit_val_predictions: images that are also captioned and asked about at each validation, the first of the split.
    test_split: which split a test is of.
    blind: evaluates with black images.

    Whoever builds it sets train_collate, val_collate and test_collates, one test loader a task, in their order.
    """

    train_collate: Collate
    val_collate: Collate
    test_collates: dict[str, Collate]

    def __init__(
        self,
        shards: str,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        shuffle_buffer: int = 2000,
        limit_val: int | None = None,
        limit_test: int | None = None,
        limit_val_predictions: int = 32,
        test_split: str = "test",
        blind: bool = False,
    ) -> None:
        super().__init__()
        self.shards, self.batch_size, self.eval_batch_size = shards, batch_size, eval_batch_size or batch_size
        self.num_workers, self.seed, self.shuffle_buffer = num_workers, seed, shuffle_buffer
        self.limit_val, self.limit_test, self.blind = limit_val, limit_test, blind
        self.limit_val_predictions, self.test_split = limit_val_predictions, test_split
        self._train_loader: ShardLoader | None = None
        self._train_state: dict[str, Any] = {}

    def setup(self, stage: str) -> None:
        """Raises ValueError, before any model is moved or run, if a split of the stage has no shards."""
        for split in {"fit": ("train", "val"), "validate": ("val",)}.get(stage, (self.test_split,)):
            resolve_shards(self.shards, split)

    def train_dataloader(self) -> ShardLoader:
        paths = resolve_shards(self.shards, "train")
        loader = ShardLoader(paths, self.batch_size, self.train_collate, self.shuffle_buffer, **self._common())
        if self._train_state:
            loader.load_state_dict(self._train_state)
        self._train_loader = loader
        return loader

    # Lightning restores a loader's state itself, but not that of one made early, as a schedule over the number of
    # steps makes it (Lightning #20550).
    def state_dict(self) -> dict[str, Any]:
        return self._train_loader.state_dict() if self._train_loader else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._train_state = state_dict

    def val_dataloader(self) -> list[ExactLoader]:
        """The loader for the loss, then one a task for predictions."""
        limit = self.limit_val_predictions
        predicted = [self._exact("val", collate, limit) for collate in self.test_collates.values()] if limit else []
        return [self._exact("val", self.val_collate, self.limit_val), *predicted]

    def test_dataloader(self) -> list[ExactLoader]:
        return [self._exact(self.test_split, collate, self.limit_test) for collate in self.test_collates.values()]

    def images(self, keys: Sequence[str], split: str | None = None) -> dict[str, bytes]:
        """The encoded images of some samples of a split (null: the one that is tested), by key."""
        wanted, found = set(keys), dict[str, bytes]()
        for path in resolve_shards(self.shards, split or self.test_split):
            if len(found) == len(wanted):
                break
            for key, members in read_shard(path):
                if key in wanted:
                    found[key] = next(members[name] for name in members if name in IMAGE_EXTENSIONS)
        return found

    def _exact(self, split: str, collate: Collate, limit: int | None) -> ExactLoader:
        paths = resolve_shards(self.shards, split)
        return ExactLoader(paths, self.eval_batch_size, collate, limit, blind=self.blind, **self._common())

    def _common(self) -> dict[str, Any]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return {"num_workers": self.num_workers, "seed": self.seed, "rank": rank, "world": world}
