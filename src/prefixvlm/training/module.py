"""LightningModule that trains a mapper between an image encoder and a frozen language model."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import MeanMetric

from prefixvlm.batch import IGNORE_INDEX, Batch
from prefixvlm.data.collates import Collates
from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.lm.interface import LanguageModel
from prefixvlm.mapper.interface import Mapper
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.model.trained_state import fingerprint, trained_state
from prefixvlm.options.ranges import BelowOne, Fraction, NonNegativeFloat, Positive
from prefixvlm.task.interface import Task
from prefixvlm.task.results.prediction import Prediction
from prefixvlm.task.rows.augment import Augment
from prefixvlm.task.rows.loader_rows import collates_of, collator_for
from prefixvlm.training.changes import resumed_lineage
from prefixvlm.training.checkpoint import AVERAGED, KEY, RunRecord, check_identity, check_tensors, lineage
from prefixvlm.training.checkpoint_file import load
from prefixvlm.training.heads import check_tasks, new_heads, without_other_heads
from prefixvlm.training.optim import Optim
from prefixvlm.training.resume import restore_rng, rng_states
from prefixvlm.training.scoring import TaskScoring, as_list
from prefixvlm.training.step_mean import StepMean, scale_gradients, sums_by_task


class PrefixModule(LightningModule):
    """Trains the mapper, and everything else that is not frozen, with the losses of the tasks.

    max_target_length: tokens of a target; longer ones are cut. feature_noise, label_smoothing: see PrefixLM.
    random_crop, random_flip: see Augment. record: for checkpoints. lineage: checkpoints of the initial weights.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        mapper: Mapper,
        lm: LanguageModel,
        task: Mapping[str, Task],
        optim: Optim,
        max_target_length: Positive | None = 128,
        feature_noise: NonNegativeFloat = 0.0,
        label_smoothing: BelowOne = 0.0,
        random_crop: BelowOne = 0.0,
        random_flip: Fraction = 0.0,
        record: RunRecord | None = None,
    ) -> None:
        super().__init__()
        self.strict_loading = False  # checkpoints lack the frozen tensors; on_load_checkpoint checks the others
        self.tasks = {name: each.renamed(name) for name, each in task.items()}
        if not all(each.has_head for each in self.tasks.values()):
            lm.require_text()
        sizes = (lm.state_width, lm.width, encoder.feature_width)
        heads = {name: head for name, each in self.tasks.items() if (head := each.head(*sizes)) is not None}
        self.model = PrefixLM(encoder, mapper, lm, heads, feature_noise, label_smoothing)
        self.optim, self.max_target_length, self.record = optim, max_target_length, record or RunRecord()
        self.collate, self.augment = collator_for(self.model, max_target_length), Augment(random_crop, random_flip)
        self.lineage: list[dict[str, Any]] = []  # the oldest first
        # DDP would broadcast gigabytes of frozen weights that all ranks have loaded. FrozenGuard compares them.
        trained = trained_state(self).keys()
        frozen = (name for named in (self.named_parameters(), self.named_buffers()) for name, _ in named)
        self._ddp_params_and_buffers_to_ignore = [name for name in frozen if name not in trained]
        self.val_loss = MeanMetric("disable")  # NaN counts; by default it would be left out
        self.cut_texts = torch.zeros((), dtype=torch.int64)
        self.scoring, self.step_mean = TaskScoring(self.tasks), StepMean(len(self.tasks), torch.device("cpu"))

    @property
    def predictions(self) -> dict[str, list[Prediction]]:  # of the last validation or test by task, on rank 0
        return self.scoring.predictions

    @property
    def reports(self) -> dict[str, dict[str, Any]]:
        return self.scoring.reports

    @property
    def collates(self) -> Collates:
        """The collate functions for training, for the validation loss, and for the prompts of each task."""
        return collates_of(self.tasks, self.collate, self.augment)

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.augment.check(self.model.encoder.reads_features, self.tasks.values())
            for task in self.tasks.values():
                task.check(self.model.lm, self.max_target_length)

    def configure_optimizers(self) -> Any:
        return self.optim.build(self.named_parameters(), self.trainer.estimated_stepping_batches)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses, task = self.tasks[batch.task].losses(self.model, batch), list(self.tasks).index(batch.task)
        accumulated = self.trainer.accumulate_grad_batches
        if is_first := batch_idx % accumulated == 0:
            self.step_mean = StepMean(len(self.tasks), losses.device)
        sums = self.trainer.strategy.reduce(sums_by_task(losses, task, len(self.tasks)), reduce_op="sum")
        share_before = self.step_mean.add(sums)
        if not is_first:  # Lightning sets the gradients to zero before the first
            scale_gradients(self.parameters(), share_before)
        self.log("train/loss", self.step_mean.value, prog_bar=True, batch_size=1)
        self._log_losses_of_data(batch)
        # DDP averages gradients over ranks, and Lightning over accumulated batches. Times both numbers, and over the
        # number of losses of all of them, that is the gradient of the mean over all losses, however they are spread.
        scale = self.trainer.world_size * accumulated / self.step_mean.divisor(task)
        return losses.sum() * scale + self._zero_of_all_trained()

    def _zero_of_all_trained(self) -> Tensor | float:
        """Return zero with a gradient for every trained tensor. DDP waits for heads that the batch does not use."""
        zeros = [0 * p.flatten()[0] for p in self.model.parameters() if p.requires_grad]
        return torch.stack(zeros).sum() if self.model.heads else 0.0

    def _log_losses_of_data(self, batch: Batch) -> None:
        """Log the share of padding, and how many texts were cut and samples skipped so far."""
        last = batch.attention_mask.sum(1, keepdim=True) - 1
        last_labels = batch.labels.gather(1, last)
        cut = (last_labels != self.model.lm.eos_id) & (last_labels != IGNORE_INDEX)  # an uncut text ends with EOS
        self.cut_texts = self.cut_texts.to(cut.device) + cut.sum()  # a tensor, so that no step waits for the GPU
        self.log("train/cut_texts", self.cut_texts.float(), batch_size=1)
        self.log("train/padding", 1 - batch.attention_mask.float().mean(), batch_size=1)
        data = getattr(self.trainer, "datamodule", None)
        self.log("train/bad_samples", float(getattr(data, "num_bad_samples", 0)), batch_size=1)

    def on_validation_epoch_start(self) -> None:
        self.scoring.start(as_list(self.trainer.val_dataloaders)[1:])

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor | None:
        """Return the sum of the losses of the batch, for callbacks; None for a batch that is predicted."""
        if dataloader_idx:
            self.scoring.predict(self.model, batch, dataloader_idx - 1)
            return None
        total = self.val_loss.weight.new_zeros(())
        for each in batch:
            losses = self.tasks[each.task].losses(self.model, each)
            self.val_loss.update(losses)
            total = total + losses.sum()
        return total

    def on_validation_epoch_end(self) -> None:
        # MeanMetric sums losses and weights over ranks. self.log(sync_dist=True) would take the mean of the means of
        # ranks, which is wrong if they have different numbers of tokens (Lightning #21859).
        loss = self.val_loss.compute()
        if loss.isnan() and not self.val_loss.weight:
            raise ValueError(f"no validation sample has rows for task {', '.join(self.tasks)}; set task or data.shards")
        self.log("val/loss", loss, prog_bar=True)
        self.val_loss.reset()
        trainer = self.trainer
        number = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        loaders = as_list(trainer.val_dataloaders)[1:]
        self.scoring.finish(loaders, number[1:], lambda name, value: self.log(f"val/{name}", value))

    def on_test_epoch_start(self) -> None:
        self.scoring.start(self.trainer.test_dataloaders)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.scoring.predict(self.model, batch, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        trainer, log = self.trainer, lambda name, value: self.log(f"test/{name}", value)
        self.scoring.finish(trainer.test_dataloaders, trainer.num_test_batches, log)

    def identity(self) -> dict[str, str]:
        """Return fingerprints of the frozen encoder, with the options that choose its features, and of the LM."""
        options = self.record.config.get("encoder") or {}
        chosen = ", ".join(f"{key}={options[key]}" for key in ("features", "layer", "normalize") if key in options)
        cached = self.model.encoder.identity  # of the encoder that computed stored features
        encoder = cached.fingerprint if cached else fingerprint(self.model.encoder)
        return {"encoder": f"{encoder} ({chosen})" if chosen else encoder, "lm": fingerprint(self.model.lm)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = trained_state(self) | checkpoint.pop(AVERAGED, {})  # the Ema callback's averages
        checkpoint[KEY] = self.record.content(self.identity(), self.lineage, rng_states(), int(self.cut_texts))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_tasks(checkpoint, self.tasks)
        self._check(checkpoint)
        restore_rng(checkpoint[KEY]["rng"], self.global_rank)  # dropout continues where it stopped
        self.lineage = resumed_lineage(checkpoint, self.record.config)
        self.cut_texts = torch.tensor(checkpoint[KEY].get("cut_texts", 0))

    def load_trained(self, checkpoint: dict[str, Any]) -> None:
        """Check a checkpoint and load its trained tensors, with the heads of this module's tasks only."""
        checkpoint = without_other_heads(checkpoint, self.tasks)
        self._check(checkpoint)
        self.load_state_dict(checkpoint["state_dict"], strict=False)

    def start_from(self, path: str) -> None:
        """Initialise from the checkpoint of another run; heads that it lacks stay as they are."""
        checkpoint = load(path)
        self.load_trained(new_heads(trained_state(self), checkpoint, self.tasks))
        self.lineage = lineage(path, checkpoint)

    def _check(self, checkpoint: dict[str, Any]) -> None:
        if "identity" not in checkpoint.get(KEY, {}):
            raise ValueError("the checkpoint to resume from is not of a mapper that prefixvlm trained")
        check_identity(self.identity(), checkpoint[KEY]["identity"])
        check_tensors(trained_state(self), checkpoint["state_dict"])
