"""Batches go in; Lightning's steps: losses while training, predictions and scores in a test."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import MeanMetric

from prefixvlm.batch import IGNORE_INDEX, Batch
from prefixvlm.callbacks.ema import AVERAGED
from prefixvlm.data.collate import Collator
from prefixvlm.distributed.gather import gather_by_id, on_rank_zero
from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.lm.interface import LanguageModel
from prefixvlm.logger.wandb import log_predictions
from prefixvlm.mapper.interface import Mapper
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.model.trained_state import fingerprint, trained_state
from prefixvlm.task.interface import Task
from prefixvlm.task.results.prediction import Prediction, check_references
from prefixvlm.task.rows.loader_rows import PromptRows, TrainingRows
from prefixvlm.training import rng
from prefixvlm.training.checkpoint import KEY, check_identity, check_tensors, lineage, load
from prefixvlm.training.heads import check_tasks, new_heads, without_other_heads
from prefixvlm.training.optim import Optim


class PrefixModule(LightningModule):
    """Trains the mapper (and the encoder, where that is trained) through a frozen language model.

    max_target_length: tokens of a caption or an answer; longer ones are cut. feature_noise, label_smoothing: see
    PrefixLM. config: plain data for the checkpoint; lineage: the checkpoints from which this run's first weights come,
    the oldest first. reports, after a test: what each task's `report` says; predictions: what it was computed from.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        mapper: Mapper,
        lm: LanguageModel,
        task: Mapping[str, Task],
        optim: Optim,
        max_target_length: int | None = 128,
        feature_noise: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.strict_loading = False  # the frozen tensors are not in the file; on_load_checkpoint checks the others
        self.tasks = dict(task)
        if not all(each.has_head for each in self.tasks.values()):
            lm.require_text()
        for name, each in self.tasks.items():
            each.name = name
        sizes = (lm.state_width, lm.width, encoder.feature_width)
        heads = {name: head for name, each in self.tasks.items() if (head := each.head(*sizes)) is not None}
        self.model = PrefixLM(encoder, mapper, lm, heads, feature_noise, label_smoothing)
        self.optim, self.max_target_length = optim, max_target_length
        collate = Collator(
            encoder.transform, lm.tokenizer, mapper.prefix_length, lm.bos_ids, lm.eos_id, lm.pad_id,
            max_target_length=max_target_length, max_positions=lm.max_positions,
            reads_features=encoder.identity is not None, start_ids=lm.start_ids, end_ids=lm.end_ids, chat=lm.chat,
        )  # fmt: skip
        self.train_collate = TrainingRows(self.tasks, collate)
        self.val_collate = TrainingRows(self.tasks, collate, mixed=True)
        self.test_collates = {name: PromptRows(each, collate) for name, each in self.tasks.items()}
        self.config: dict[str, Any] = {}
        self.lineage: list[dict[str, Any]] = []
        self.provenance: dict[str, Any] = {}
        # Every rank loads the same frozen weights, which FrozenGuard makes sure of; DDP would send them to all.
        trained = trained_state(self).keys()
        frozen = (name for named in (self.named_parameters(), self.named_buffers()) for name, _ in named)
        self._ddp_params_and_buffers_to_ignore = [name for name in frozen if name not in trained]
        self.val_loss = MeanMetric()
        self.cut_texts = torch.zeros((), dtype=torch.int64)
        self.predictions: dict[str, list[Prediction]] = {}
        self.reports: dict[str, dict[str, Any]] = {}

    def setup(self, stage: str) -> None:
        for task in self.tasks.values() if stage == "fit" else ():
            task.check(self.model.lm, self.max_target_length)

    def configure_optimizers(self) -> Any:
        return self.optim.build(self.named_parameters(), int(self.trainer.estimated_stepping_batches))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self.tasks[batch.task].losses(self.model, batch)
        total, count = self._over_ranks(losses)
        self.log("train/loss", total / count, prog_bar=True, batch_size=1)
        self._log_reading(batch)
        # DDP averages the ranks' gradients: so it is that of the mean over all tokens, however they are shared out.
        return losses.sum() * (self.trainer.world_size / count) + self._unused()

    def _unused(self) -> Tensor | float:
        """Zero, with a gradient for every trained tensor: DDP waits for each, and a batch of one task has not all."""
        zeros = [0 * p.flatten()[0] for p in self.model.parameters() if p.requires_grad]
        return torch.stack(zeros).sum() if self.model.heads else 0.0

    def _over_ranks(self, losses: Tensor) -> Tensor:
        """float64[2]: the sum and the number of all ranks' losses."""
        found = [losses.detach().sum(dtype=torch.float64), losses.new_tensor(len(losses), dtype=torch.float64)]
        return self.trainer.strategy.reduce(torch.stack(found), reduce_op="sum")

    def _log_reading(self, batch: Batch) -> None:
        """What is lost on the way: the share of padding, and how many texts were cut and samples skipped so far."""
        last = batch.attention_mask.sum(1, keepdim=True) - 1
        ends = batch.labels.gather(1, last)  # a text that is whole ends with EOS
        cut = (ends != self.model.lm.eos_id) & (ends != IGNORE_INDEX)
        self.cut_texts = self.cut_texts.to(cut.device) + cut.sum()  # read when it is logged, so no step waits for it
        self.log("train/cut_texts", self.cut_texts.float(), batch_size=1)
        self.log("train/padding", 1 - batch.attention_mask.float().mean(), batch_size=1)
        data = getattr(self.trainer, "datamodule", None)
        self.log("train/bad_samples", float(getattr(data, "num_bad_samples", 0)), batch_size=1)

    def on_validation_epoch_start(self) -> None:
        self._begin(self._loaders(self.trainer.val_dataloaders)[1:])

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if dataloader_idx:
            self._predict(batch, dataloader_idx - 1)
            return
        for each in batch:
            losses = self.tasks[each.task].losses(self.model, each)
            self.val_loss.update(losses.mean(), weight=len(losses))

    def on_validation_epoch_end(self) -> None:
        # The metric sums over ranks and tokens; a mean of the ranks' means would be wrong where they differ in size.
        loss = self.val_loss.compute()
        if loss.isnan() and not self.val_loss.weight:
            raise ValueError(
                f"no validation sample has what task {', '.join(self.tasks)} is trained on; set the task's options, "
                "task or data.shards to others"
            )
        self.log("val/loss", loss, prog_bar=True)
        self.val_loss.reset()
        trainer = self.trainer
        number = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        self._finish("val", self._loaders(trainer.val_dataloaders)[1:], number[1:])
        log_predictions(self.trainer, self.predictions)

    def on_test_epoch_start(self) -> None:
        self._begin(self._loaders(self.trainer.test_dataloaders))

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._predict(batch, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        self._finish("test", self._loaders(self.trainer.test_dataloaders), self.trainer.num_test_batches)

    def _begin(self, loaders: Sequence[Any]) -> None:
        self.predictions = {name: [] for name in self.tasks}
        for task, loader in zip(self.tasks.values(), loaders, strict=False):
            task.prepare(loader.samples)

    def _predict(self, batch: Any, number: int) -> None:
        name, task = list(self.tasks.items())[number]
        self.predictions[name] += task.predict(self.model, batch) if batch else []

    def _finish(self, stage: str, loaders: Sequence[Any], num_batches: Sequence[float]) -> None:
        """Gather every task's predictions, score them on rank 0, log the scores."""
        for (name, task), loader, number in zip(self.tasks.items(), loaders, num_batches, strict=False):
            whole = number >= len(loader)  # not where the trainer was told to stop early
            counted = whole and task.covers_every_sample
            gathered = gather_by_id(self.predictions[name], loader.num_samples if counted else None)
            gathered = self.predictions[name] = task.finalize(gathered)
            if stage == "test" and whole and task.needs_references:
                on_rank_zero(partial(check_references, gathered, name))
            self.reports[name] = on_rank_zero(partial(task.report, gathered))
            for score, value in self.reports[name]["scores"].items():
                self.log(f"{stage}/{name}_{score}", value)

    @staticmethod
    def _loaders(loaders: Any) -> list[Any]:
        return list(loaders) if isinstance(loaders, list | tuple) else [loaders]

    def identity(self) -> dict[str, str]:
        """Which frozen encoder and language model these are, and which of the encoder's features are read."""
        options = self.config.get("encoder") or {}
        chosen = ", ".join(f"{key}={options[key]}" for key in ("features", "layer", "normalize") if key in options)
        cached = self.model.encoder.identity  # of stored features: the encoder that computed them
        encoder = cached.fingerprint if cached else fingerprint(self.model.encoder)
        return {"encoder": f"{encoder} ({chosen})" if chosen else encoder, "lm": fingerprint(self.model.lm)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = trained_state(self) | checkpoint.pop(AVERAGED, {})  # Ema has put them there
        checkpoint[KEY] = {
            "config": self.config,
            "identity": self.identity(),
            "lineage": self.lineage,
            "provenance": self.provenance,
            "rng": rng.states(),
            "cut_texts": int(self.cut_texts),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_tasks(checkpoint, self.tasks)
        self._check(checkpoint)
        rng.restore(checkpoint[KEY]["rng"], self.global_rank)  # dropout goes on where it was
        self.lineage = checkpoint[KEY]["lineage"]
        self.cut_texts = torch.tensor(checkpoint[KEY].get("cut_texts", 0))

    def load_trained(self, checkpoint: dict[str, Any]) -> None:
        """Take the trained tensors of a loaded checkpoint, of its heads those of our tasks, after every check."""
        checkpoint = without_other_heads(checkpoint, self.tasks)
        self._check(checkpoint)
        self.load_state_dict(checkpoint["state_dict"], strict=False)

    def start_from(self, path: str) -> None:
        """Begin with the trained tensors of another run's checkpoint, and new heads where it has none; remember it."""
        checkpoint = load(path)
        self.load_trained(new_heads(trained_state(self), checkpoint, self.tasks))
        self.lineage = lineage(path, checkpoint)

    def _check(self, checkpoint: dict[str, Any]) -> None:
        if "identity" not in checkpoint.get(KEY, {}):
            raise ValueError("the checkpoint to resume from is not of a mapper that prefixvlm trained")
        check_identity(self.identity(), checkpoint[KEY]["identity"])
        check_tensors(trained_state(self), checkpoint["state_dict"])
