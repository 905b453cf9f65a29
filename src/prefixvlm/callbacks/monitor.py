"""A run goes in as it trains; what tells whether it is well comes out beside its losses and scores."""

import resource
import sys
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import PassThroughProfiler
from torch import Tensor
from torch.nn.utils import get_total_norm

from prefixvlm.batch import Batch
from prefixvlm.callbacks.prefix_statistics import PrefixRecorder, keys_of_images, nearest_tokens, token_norm
from prefixvlm.callbacks.throughput import Clock
from prefixvlm.logger.wandb import log_table
from prefixvlm.training.module import PrefixModule


class Monitor(Callback):
    """Logs, every so many steps, `train/` and:

    lr_GROUP; grad_norm before clipping (and grad_norm_PART where several parts are trained); samples_per_second on all
    ranks and step_seconds since the last time, without validations; data_wait, the share of that time spent waiting
    for the loader; memory_gb, the most so far, of the GPU or else of the process; prefix_norm beside token_norm, the
    mean L2 norms of the prefix embeddings and of the language model's token embeddings.

    At each validation, of the first `images` images, which tokens the prefix embeddings are nearest to by the cosine
    (ClipCap, section 4): a table, and `nearest`, by the image's key. val/prefix_cosine is the mean of those cosines.
    """

    def __init__(self, every_n_steps: int = 1, images: int = 4) -> None:
        self.every_n_steps, self.num_images = every_n_steps, images
        self.nearest: dict[str, list[str]] = {}
        self.values: dict[str, Any] = {}
        self.token_norm: float | None = None
        self.watch = PrefixRecorder()
        self.clock = Clock()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and type(trainer.profiler) is PassThroughProfiler:  # type: ignore[attr-defined]
            trainer.profiler = self.clock  # type: ignore[attr-defined]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = trainer.global_step
        self.clock.restart()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._logs_next(trainer):
            self._begin(pl_module)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if self._logs_next(trainer):
            self.values = dict(learning_rates(optimizer)) | grad_norms(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.watch.end()
        self.clock.samples += num_samples(batch)
        if trainer.global_step == self.step or trainer.global_step % self.every_n_steps:
            return
        values = self.values | self.clock.read(trainer.global_step - self.step, trainer.world_size)
        values["memory_gb"] = memory_gb(pl_module.device)
        prefix = self.watch.take()
        if prefix is not None and isinstance(pl_module, PrefixModule):
            if self.token_norm is None:
                self.token_norm = token_norm(pl_module.model.lm)
            values |= {"prefix_norm": prefix.float().norm(dim=-1).mean(), "token_norm": self.token_norm}
        pl_module.log_dict({f"train/{name}": value for name, value in values.items()}, batch_size=1)
        self.step, self.values = trainer.global_step, {}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.clock.pause()
        self.nearest = {}

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if dataloader_idx == 1 and batch_idx == 0 and self.num_images and not trainer.sanity_checking:
            self._begin(pl_module)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self.watch.end()
        prefix = self.watch.take()
        if prefix is not None and isinstance(pl_module, PrefixModule):
            keys = keys_of_images(batch, min(len(prefix), self.num_images))
            tokens, self.cosine = nearest_tokens(pl_module.model.lm, prefix[: len(keys)])
            self.nearest = dict(zip(keys, tokens, strict=True))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.nearest:
            pl_module.log("val/prefix_cosine", self.cosine, rank_zero_only=True)
            rows = [[key, " | ".join(tokens)] for key, tokens in self.nearest.items()]
            log_table(trainer, "val/prefix_tokens", ["key", "nearest tokens"], rows)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.clock.go_on()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.watch.end()

    def _begin(self, pl_module: LightningModule) -> None:
        if isinstance(pl_module, PrefixModule):
            self.watch.begin(pl_module.model.mapper)

    def _logs_next(self, trainer: Trainer) -> bool:
        """Whether the step that is being made is one to log."""
        return (trainer.global_step + 1) % self.every_n_steps == 0


def learning_rates(optimizer: Any) -> Iterator[tuple[str, float]]:
    """Of each part by its name, whether its groups decay or not; a group without a name has its number."""
    for number, group in enumerate(optimizer.param_groups):
        yield f"lr_{str(group.get('name', number)).removesuffix('_no_decay')}", group["lr"]


def grad_norms(module: LightningModule) -> dict[str, Tensor]:
    """L2 norm of all gradients together; and of each part of a PrefixModule, where several have any."""
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
    """The most that was used so far: of the GPU by tensors, elsewhere by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def num_samples(batch: Any) -> int:
    """Images of a batch."""
    return len(batch.pixel_values if isinstance(batch, Batch) else batch[0])
