"""Lightning data module: train, validation and test loaders over webdataset shards."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch import LightningDataModule

from prefixvlm.data.collates import Collates
from prefixvlm.data.image import MAX_PIXELS, ImageDecoder
from prefixvlm.data.loading.eval_loader import EvalLoader
from prefixvlm.data.loading.make_batch import Collate
from prefixvlm.data.loading.mixture import Shards, find_sources
from prefixvlm.data.loading.pictures import encoded_images
from prefixvlm.data.loading.shard_source import ShardRef, prefetched_paths
from prefixvlm.data.loading.train_loader import TrainLoader
from prefixvlm.data.shard_cache import DEFAULT_FOLDER, ShardCache
from prefixvlm.options.ranges import Fraction, NonNegative, Positive, PositiveFloat, Seed, Workers, check_value

if TYPE_CHECKING:  # it imports webdataset, which takes 3 s and 200 MB
    from prefixvlm.data.loading.stream_loader import StreamLoader


def _check_mode(mode: str, epoch_samples: int | None, bucket_batches: int) -> None:
    check_value("data.mode", mode, Literal["exact", "stream"])
    if mode == "stream" and epoch_samples is None:
        raise ValueError("data.mode=stream counts no samples: set data.epoch_samples to those of an epoch")
    if mode == "stream" and bucket_batches:
        raise ValueError("data.mode=stream does not know the lengths of texts: set data.bucket_batches=0")


class ShardDataModule(LightningDataModule):
    """Loaders of a folder, a pattern or a URL of shards, or of several by weight (see find_sources).

    batch_size, eval_batch_size: images per batch on each rank; eval_batch_size defaults to batch_size.
    mode: "exact" (TrainLoader) trains on each sample once an epoch; "stream" (StreamLoader) on shards that are drawn at
        random, without counting their samples.
    epoch_samples, shuffle_buffer, bucket_batches: see TrainLoader, and StreamLoader.
    max_bad_fraction: the fraction of an epoch's samples, and of those of the validation loss, that may be bad and are
        skipped. Tests and predictions skip none.
    limit_val, limit_test: use only the first images of the split.
    limit_val_predictions: the number of images, the first of the split, with predictions at each validation.
    test_split: the split to test on.
    background: the colour behind transparent pixels. max_pixels: larger images are bad samples.
    blind: evaluate with black images. train_blind: train and validate with black images.
    cache_dir: where downloaded shards are kept. cache_limit: the size of that folder in GB.
    cache_features: whether a training keeps the features of a frozen encoder in feature_dir; auto where that pays.
    open_feature_cache: takes this data module, with its trainer; see features/choose_cache.py.
    """

    def __init__(
        self,
        shards: Shards,
        batch_size: Positive = 32,
        eval_batch_size: Positive | None = None,
        num_workers: Workers = 0,
        seed: Seed = 0,
        shuffle_buffer: Positive = 4000,
        epoch_samples: Positive | None = None,
        bucket_batches: NonNegative = 0,
        max_bad_fraction: Fraction = 0.001,
        limit_val: Positive | None = None,
        limit_test: Positive | None = None,
        limit_val_predictions: NonNegative = 32,
        test_split: str = "test",
        blind: bool = False,
        train_blind: bool = False,
        background: str = "white",
        max_pixels: Positive = MAX_PIXELS,
        cache_dir: str = DEFAULT_FOLDER,
        cache_limit: PositiveFloat | None = None,
        cache_features: bool | Literal["auto"] = "auto",
        feature_dir: str = "~/.cache/prefixvlm/features",
        collates: Collates | None = None,
        mode: Literal["exact", "stream"] = "exact",
        open_feature_cache: Callable[["ShardDataModule"], Any] | None = None,
    ) -> None:
        super().__init__()
        _check_mode(mode, epoch_samples, bucket_batches)
        self.mode, self.collates = mode, collates or Collates()
        self.shards: Any = shards
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size
        self.num_workers, self.seed, self.shuffle_buffer = num_workers, seed, shuffle_buffer
        self.epoch_samples, self.bucket_batches, self.max_bad_fraction = epoch_samples, bucket_batches, max_bad_fraction
        self.limit_val, self.limit_test, self.blind, self.train_blind = limit_val, limit_test, blind, train_blind
        self.limit_val_predictions, self.test_split = limit_val_predictions, test_split
        self.cache, self.decoder = ShardCache(cache_dir, cache_limit), ImageDecoder(background, max_pixels)
        self.cache_features, self.feature_dir, self.open_feature_cache = cache_features, feature_dir, open_feature_cache
        self._train_loader: TrainLoader | StreamLoader | None = None
        self._train_state: dict[str, Any] = {}

    _feature_cache: Any = None  # of a training, after its setup

    def setup(self, stage: str) -> None:
        """Raise ValueError, before a model is moved or run, if a split of the stage has no shards."""
        for split in {"fit": ("train", "val"), "validate": ("val",)}.get(stage, (self.test_split,)):
            find_sources(self.shards, split, self.cache)
        if stage == "fit" and self.trainer and self.open_feature_cache:
            self._feature_cache = self.open_feature_cache(self)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self._feature_cache.complete(batch) if self._feature_cache else batch

    def train_dataloader(self) -> "TrainLoader | StreamLoader":
        loader = self._new_train_loader()
        if self._train_state:
            loader.load_state_dict(self._train_state)
        self._train_loader = loader
        return loader

    def _new_train_loader(self) -> "TrainLoader | StreamLoader":
        sources = find_sources(self.shards, "train", self.cache)
        options: dict[str, Any] = {
            "shuffle_buffer": self.shuffle_buffer,
            "epoch_samples": self.epoch_samples,
            "max_bad_fraction": self.max_bad_fraction,
            "blind": self.train_blind,
            "decoder": self._training_decoder,
            **self._loader_options(),
        }
        if self.mode == "exact":
            options["bucket_batches"] = self.bucket_batches
            return TrainLoader(sources, self.batch_size, self.collates.train, **options)
        from prefixvlm.data.loading.stream_loader import StreamLoader

        return StreamLoader(sources, self.batch_size, self.collates.train, **options)

    def teardown(self, stage: str) -> None:
        loader = self._train_loader
        if loader is not None and hasattr(loader, "close"):  # the workers of a stream do not end with an epoch
            loader.close()

    @property
    def num_bad_samples(self) -> int:
        """Number of bad training samples: of all ranks up to the last checkpoint, of this rank since then."""
        return len(self._train_loader.bad_samples) if self._train_loader else 0

    # Lightning restores the state of a loader itself, but not of one that was made early, as a learning rate schedule
    # over the number of steps does (Lightning #20550). Every rank calls this, so the ranks can gather bad samples.
    def state_dict(self) -> dict[str, Any]:
        if self._train_loader is None:
            return {}
        self._train_loader.bad_samples.gather()
        return self._train_loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._train_state = state_dict

    def val_dataloader(self) -> list[EvalLoader]:
        """Return the loader for the loss, then one per task for predictions."""
        collates = self.collates.test.values() if self.limit_val_predictions else ()
        blind = self.blind or self.train_blind
        made = partial(self._eval_loader, blind=blind, decoder=self._training_decoder)
        loss = made("val", self.collates.val, self.limit_val, max_bad_fraction=self.max_bad_fraction)
        return [loss, *(made("val", collate, self.limit_val_predictions) for collate in collates)]

    def test_dataloader(self) -> list[EvalLoader]:
        collates = self.collates.test.values()
        made = partial(self._eval_loader, blind=self.blind, decoder=self.decoder)
        return [made(self.test_split, collate, self.limit_test) for collate in collates]

    def paths(self, split: str) -> list[Path]:
        """Return the local paths of the shards of a split, after downloading remote ones."""
        return list(prefetched_paths(self._shard_refs(split)))

    def images(self, keys: Sequence[str], split: str | None = None) -> dict[str, bytes]:
        """Return the encoded images of the samples with these keys, as far as they are found.

        split: test_split unless given.
        """
        return encoded_images(self._shard_refs(split or self.test_split), keys)

    def _shard_refs(self, split: str) -> list[ShardRef]:
        return [shard for source in find_sources(self.shards, split, self.cache) for shard in source.shards]

    def _eval_loader(self, split: str, collate: Collate, limit: int | None, **options: Any) -> EvalLoader:
        sources = find_sources(self.shards, split, self.cache)
        return EvalLoader(sources, self.eval_batch_size, collate, limit, **options, **self._loader_options())

    @property
    def _training_decoder(self) -> Callable[[bytes], Any]:
        return self._feature_cache.decoder(self.decoder) if self._feature_cache else self.decoder

    def _loader_options(self) -> dict[str, Any]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return {
            "num_workers": self.num_workers,
            "seed": self.seed,
            "rank": rank,
            "world": world,
        }
