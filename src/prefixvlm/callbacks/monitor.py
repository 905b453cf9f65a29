"""Training statistics beside losses and scores: norms, learning rates, throughput, memory, nearest tokens."""

import resource
import sys
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm

from prefixvlm.batch import Batch
from prefixvlm.callbacks.prefix_statistics import PrefixRecorder, image_keys, nearest_tokens, token_norm
from prefixvlm.callbacks.throughput import Throughput
from prefixvlm.logger.wandb import log_table
from prefixvlm.options.ranges import NonNegative, Positive
from prefixvlm.training.module import PrefixModule


class Monitor(Callback):
    """Logs training statistics every `every_n_steps` steps and the nearest tokens of prefixes at each validation.

    Logged as train/NAME:
    lr_GROUP: learning rates. grad_norm: L2 norm before clipping; grad_norm_PART if several parts are trained.
    samples_per_second on all ranks, step_seconds: since the last time, without validations.
    data_wait: share of that time spent waiting for the loader.
    memory_gb: peak so far, of the GPU or else of the process.
    prefix_norm, token_norm: mean L2 norms of the prefix embeddings and of the language model's token embeddings.

    At each validation, for the first `images` images: the tokens nearest to the prefix embeddings by cosine (ClipCap,
    section 4) as a wandb table and in `nearest`, by image key; their mean cosine is logged as val/prefix_cosine.
    """

    def __init__(self, every_n_steps: Positive = 1, images: NonNegative = 4) -> None:
        self.every_n_steps, self.num_images = every_n_steps, images
        self.nearest: dict[str, list[str]] = {}
        self.values: dict[str, Any] = {}
        self.token_norm: float | None = None
        self.recorder = PrefixRecorder()
        self.throughput = Throughput()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Lightning tells only its profiler when it waits for a batch: build_trainer makes a Throughput that profiler.
        profiler: Any = trainer.profiler  # type: ignore[attr-defined]
        if stage == "fit" and isinstance(profiler, Throughput):
            self.throughput = profiler

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = trainer.global_step
        self.throughput.restart()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._will_log(trainer):
            self._record_prefix(pl_module)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if self._will_log(trainer):
            self.values = dict(learning_rates(optimizer)) | grad_norms(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.recorder.end()
        self.throughput.num_samples += num_samples(batch)
        if trainer.global_step == self.step or trainer.global_step % self.every_n_steps:
            return
        values = self.values | self.throughput.compute(trainer.global_step - self.step, trainer.world_size)
        values["memory_gb"] = memory_gb(pl_module.device)
        prefix = self.recorder.take()
        if prefix is not None and isinstance(pl_module, PrefixModule):
            if self.token_norm is None:  # once: it reads the whole embedding matrix
                self.token_norm = token_norm(pl_module.model.lm)
            values |= {"prefix_norm": prefix.float().norm(dim=-1).mean(), "token_norm": self.token_norm}
        pl_module.log_dict({f"train/{name}": value for name, value in values.items()}, batch_size=1)
        self.step, self.values = trainer.global_step, {}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.throughput.pause()
        self.nearest = {}

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if dataloader_idx == 1 and batch_idx == 0 and self.num_images and not trainer.sanity_checking:
            self._record_prefix(pl_module)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self.recorder.end()
        prefix = self.recorder.take()
        if prefix is not None and isinstance(pl_module, PrefixModule):
            keys = image_keys(batch, min(len(prefix), self.num_images))
            tokens, self.cosine = nearest_tokens(pl_module.model.lm, prefix[: len(keys)])
            self.nearest = dict(zip(keys, tokens, strict=True))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.nearest:
            # Rank 0 reads the first images; a mean over the ranks would be one of other images too.
            pl_module.log("val/prefix_cosine", self.cosine, rank_zero_only=True)
            rows = [[key, " | ".join(tokens)] for key, tokens in self.nearest.items()]
            log_table(trainer, "val/prefix_tokens", ["key", "nearest tokens"], rows)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.throughput.resume()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.recorder.end()

    def _record_prefix(self, pl_module: LightningModule) -> None:
        if isinstance(pl_module, PrefixModule):
            self.recorder.begin(pl_module.model.mapper)

    def _will_log(self, trainer: Trainer) -> bool:
        """Return whether the current step, which global_step does not count yet, is one to log."""
        return (trainer.global_step + 1) % self.every_n_steps == 0


def learning_rates(optimizer: Any) -> Iterator[tuple[str, float]]:
    """Yield lr_NAME and the rate of each parameter group. NAME: without _no_decay, or the index of an unnamed group."""
    for index, group in enumerate(optimizer.param_groups):
        yield f"lr_{str(group.get('name', index)).removesuffix('_no_decay')}", group["lr"]


def grad_norms(module: LightningModule) -> dict[str, Tensor]:
    """Return the L2 norm of all gradients; for a PrefixModule with several trained parts also of each part."""
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            parts.setdefault(name.removeprefix("model.").split(".")[0], []).append(parameter.grad)
    norms = {part: get_total_norm(gradients) for part, gradients in parts.items()}
    if not norms:
        return {}
    total = {"grad_norm": torch.stack(list(norms.values())).norm()}
    several = isinstance(module, PrefixModule) and len(norms) > 1
    return total | ({f"grad_norm_{part}": norm for part, norm in norms.items()} if several else {})


def memory_gb(device: torch.device) -> float:
    """Return the peak memory so far: of tensors on a GPU, or of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS and in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def num_samples(batch: Any) -> int:
    """Return the number of images in a batch of a PrefixModule or a ContrastiveModule."""
    return len(batch.pixel_values if isinstance(batch, Batch) else batch[0])
