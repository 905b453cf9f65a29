"""Contrastive pretraining of an open_clip model, saved as a folder that `encoder=clip_tiny` reads."""

import json
import math
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
import torch
from lightning.pytorch import LightningModule
from open_clip.loss import ClipLoss
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.torch import save
from torch import Tensor
from torchmetrics import MeanMetric

from prefixvlm.atomic import replacing_folder
from prefixvlm.data.collates import Collates
from prefixvlm.data.sample import Sample
from prefixvlm.metrics.score_kind import PERCENT
from prefixvlm.training.checkpoint import KEY, RunRecord
from prefixvlm.training.optim import Optim

CONFIG_NAME, WEIGHTS_NAME = "open_clip_config.json", "open_clip_model.safetensors"
MAX_LOGIT_SCALE = math.log(100)  # the CLIP paper found this bound necessary against unstable training


class PairCollate:
    """Collates samples to (pixel_values float[B, 3, H, W], tokens int[B, T], classes int[B]). Picklable.

    classes: captions of the zero-shot classes. The class of an image is the index of its first caption among them, or
    -1 if it has none.
    """

    def __init__(self, transform: Any, tokenizer: Any, classes: tuple[str, ...]) -> None:
        self.transform, self.tokenizer, self.classes = transform, tokenizer, classes

    def __call__(self, samples: list[Sample], rng: random.Random) -> tuple[Tensor, Tensor, Tensor]:
        """Collate one caption of each sample, drawn by rng. Raises ValueError for a sample without captions."""
        for sample in samples:
            if not sample.captions:
                raise ValueError(
                    f"sample {sample.key} has no caption, which contrastive training needs: set data.shards to others"
                )
        # Two captions of an image in a batch would be each other's negatives, so each image has one.
        own = [next((self.classes.index(c) for c in s.captions if c in self.classes), -1) for s in samples]
        return (
            torch.stack([self.transform(sample.picture) for sample in samples]),
            self.tokenizer([rng.choice(sample.captions) for sample in samples]),
            torch.tensor(own),
        )


class ContrastiveModule(LightningModule):
    """Trains an open_clip model from scratch with open_clip's contrastive loss, and saves it when the fit ends.

    model: open_clip's model_cfg (embed_dim, vision_cfg, text_cfg).
    out: folder that is written, or replaced if it is an open_clip folder.
    classes: captions for val/zero_shot_accuracy, the percentage of images whose own caption is the most similar one.
    record: description of the run for its checkpoints.
    """

    score_kinds = {"val/zero_shot_accuracy": PERCENT}  # noqa: RUF012

    def __init__(
        self,
        model: dict[str, Any],
        out: str,
        optim: Optim,
        classes: list[str] | None = None,
        record: RunRecord | None = None,
    ) -> None:
        super().__init__()
        self.out = Path(out)
        if self.out.exists() and not (self.out / CONFIG_NAME).is_file():
            raise ValueError(f"module.out is {out}, which exists and is no open_clip folder: set module.out to another")
        self.model_cfg, self.optim, self.record = model, optim, record or RunRecord()
        self.model = build_clip(model)
        self.preprocess = PreprocessCfg(size=self.model.visual.image_size)
        tokenizer = open_clip.SimpleTokenizer(context_length=self.model.context_length)
        self.classes = tuple(classes or ())
        self.class_tokens = tokenizer(list(self.classes)) if self.classes else None
        transform = image_transform_v2(self.preprocess, is_train=False)
        collate = PairCollate(transform, tokenizer, self.classes)
        self.collates = Collates(collate, collate)
        # NaN counts; by default it would be left out.
        self.val_loss, self.zero_shot_accuracy = MeanMetric("disable"), MeanMetric("disable")

    def setup(self, stage: str) -> None:
        # local_loss: a rank compares its own samples with those of all ranks, in place of all with all. Its gradients
        # are right only with gather_with_grad.
        self.loss = ClipLoss(
            rank=self.global_rank, world_size=self.trainer.world_size, local_loss=True, gather_with_grad=True
        )

    def configure_optimizers(self) -> Any:
        return self.optim.build(self.named_parameters(), self.trainer.estimated_stepping_batches)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        pixel_values, tokens, _ = batch
        loss = self.loss(*self.model(pixel_values, tokens))
        self.log("train/loss", loss, prog_bar=True, batch_size=len(tokens))
        return loss

    def on_train_batch_end(self, *_args: Any) -> None:
        # After the step, as in open_clip: a clamp in the forward pass has no gradient beyond its bound.
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)

    def on_validation_epoch_start(self) -> None:
        if self.class_tokens is not None:  # encoded again, because the text encoder has been trained since
            self.class_features = self.model.encode_text(self.class_tokens.to(self.device), normalize=True)

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        pixel_values, tokens, classes = batch
        image_features, text_features, logit_scale = self.model(pixel_values, tokens)
        # Ranks may have different numbers of validation batches, so that a gathering loss would wait forever.
        loss = ClipLoss()(image_features, text_features, logit_scale)
        self.val_loss.update(loss.expand(len(tokens)))  # without its option for NaN, MeanMetric ignores a weight
        if self.classes:
            is_right = (image_features @ self.class_features.T).argmax(-1) == classes
            self.zero_shot_accuracy.update(is_right[classes >= 0].float())

    def on_validation_epoch_end(self) -> None:
        self.log("val/loss", self.val_loss.compute(), prog_bar=True)
        if self.classes:
            accuracy = 100 * self.zero_shot_accuracy.compute()
            if accuracy.isnan():
                raise ValueError(f"no validation image has one of module.classes ({self.classes[0]}, ...) as a caption")
            self.log("val/zero_shot_accuracy", accuracy, prog_bar=True)
        self.val_loss.reset()
        self.zero_shot_accuracy.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = {"config": self.record.config, "provenance": self.record.provenance}

    def on_fit_end(self) -> None:
        if self.global_rank == 0:  # DDP keeps the weights of all ranks the same
            save_folder(self.model, self.model_cfg, asdict(self.preprocess), self.out)


def build_clip(model_cfg: dict[str, Any]) -> Any:
    """Build an open_clip model. Raises ValueError if open_clip does not accept the configuration."""
    keywords = dict(model_cfg)
    # Not by open_clip.create_model, which takes the name of a model and not a model_cfg.
    kind = CustomTextCLIP if keywords.pop("custom_text", False) else CLIP
    try:
        return kind(**keywords)
    except (TypeError, AssertionError, KeyError) as error:
        raise ValueError(
            f"module.model is not an open_clip model_cfg ({error}): see open_clip's model_configs"
        ) from error


def save_folder(model: torch.nn.Module, model_cfg: dict[str, Any], preprocess_cfg: dict[str, Any], out: Path) -> None:
    """Write or replace a folder that open_clip reads as `local-dir:`."""
    # safetensors refuses tensors that are not contiguous.
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    with replacing_folder(out) as folder:
        (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n")
        (folder / WEIGHTS_NAME).write_bytes(save(state))
