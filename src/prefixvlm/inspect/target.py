"""The text that is explained: the log-probability of each of its tokens as a function of the image or of its prefix."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from prefixvlm.batch import IGNORE_INDEX, Batch
from prefixvlm.inference.captioner import Captioner
from prefixvlm.inference.images import ImageInput
from prefixvlm.inference.request import Request
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.task.classification_head import ClassificationHead
from prefixvlm.task.interface import Task

Score = Callable[[PrefixLM, Batch], Tensor]  # the log-probabilities of B rows: float32[B, T]
MAX_ROWS = 32  # computed at once


class FromPrefixes(PrefixLM):
    """A model whose pixel_values are prefixes, float[B, P, E]. It has the same weights."""

    def __init__(self, model: PrefixLM) -> None:
        super().__init__(model.encoder, model.mapper, model.lm, model.heads)  # type: ignore[arg-type]
        self.eval()

    def prefix_embeds(self, pixel_values: Tensor) -> Tensor:
        return pixel_values


@dataclass(frozen=True)
class Target:
    """A text about one image, or a class of it.

    tokens: T texts, without the EOS; the name of a class is one. score: their log-probabilities for rows of the model.
    batch: one row with the text. has_text: False for a class, whose log-probability is that of a head.
    """

    model: PrefixLM
    batch: Batch
    text: str
    tokens: list[str]
    score: Score
    has_text: bool = True

    @property
    def pixel_values(self) -> Tensor:
        """float[1, 3, H, W]"""
        return self.batch.pixel_values

    @torch.no_grad()
    def prefix(self) -> Tensor:
        """Return the prefix of the image: float[1, P, E]."""
        return self.model.prefix_embeds(self.pixel_values)

    def log_probs(self, pixel_values: Tensor) -> Tensor:
        """pixel_values: float[B, 3, H, W] -> log-probability of each token: float32[B, T]."""
        return torch.cat([self.score(self.model, self._rows(part)) for part in pixel_values.split(MAX_ROWS)])

    def log_probs_of(self, prefixes: Tensor) -> Tensor:
        """prefixes: float[B, P, E] -> log-probability of each token: float32[B, T]."""
        model = FromPrefixes(self.model)
        return torch.cat([self.score(model, self._rows(part)) for part in prefixes.split(MAX_ROWS)])

    def _rows(self, images: Tensor) -> Batch:
        """Return a batch with the row of text once for each image."""
        batch, number = self.batch, len(images)
        index = torch.arange(number, device=images.device).repeat_interleave(len(batch.image_index))
        width = (number, batch.input_ids.shape[1])
        rows = {name: getattr(batch, name).expand(width) for name in ("input_ids", "attention_mask", "labels")}
        return replace(batch, pixel_values=images, image_index=index, rows=[], keys=[], **rows)


def target_of(
    model: Captioner, image: ImageInput, question: str | None = None, text: str | None = None, task: str | None = None
) -> Target:
    """Return a text as target, by default what the model says.

    text: another caption, answer or class. task: name of the task, if several fit.
    Raises ValueError for a model without images or without texts and classes, and if there is no text.
    """
    if model.module.model.encoder.reads_features:
        raise ValueError(
            "the checkpoint reads stored features, which have no pixels to explain; set encoder in training"
        )
    request = Request(() if question is None else (question,))
    chosen = model.task(request, task)
    if chosen.has_head and not isinstance(chosen, ClassificationHead):
        raise ValueError(f"task {chosen.name} predicts neither a text nor a class, and only these are explained")
    if text is None:
        text = model.answers([image], request, task)[0].prediction.prediction
    if not text.strip():
        raise ValueError("the model says nothing about this image; give the text to explain")
    if isinstance(chosen, ClassificationHead):
        return _class_target(model, image, chosen, text)
    batch = model.batch_of(image, question, text, task)
    _check_images(batch, chosen)
    ids = batch.labels[batch.labels != IGNORE_INDEX].tolist()
    # A text that fills max_target_length has no EOS.
    num_tokens = len(ids) - (ids[-1] == model.module.model.lm.eos_id)
    tokens = model.module.model.lm.tokenizer.batch_decode([[token] for token in ids[:num_tokens]])

    def score(model: PrefixLM, batch: Batch) -> Tensor:
        return -model(batch).view(len(batch.input_ids), -1)[:, :num_tokens]

    return Target(model.module.model, batch, text, tokens, score)


def _class_target(model: Captioner, image: ImageInput, task: ClassificationHead, name: str) -> Target:
    known = [name] if name in task.classes else []
    if task.multi_label:
        known = [each for each in task.classes if each in name.split(", ")]
    if not known:
        raise ValueError(f"the text is {name!r}, but the classes are {', '.join(task.classes)}; give one of these")
    batch = model.batch_of(image, task=task.name)
    _check_images(batch, task)
    columns = [task.classes.index(each) for each in known]

    def score(model: PrefixLM, batch: Batch) -> Tensor:
        return _class_log_probs(task, model.heads[task.name](model, batch))[:, columns]

    return Target(model.module.model, batch, name, known, score, has_text=False)


def _class_log_probs(task: ClassificationHead, outputs: Tensor) -> Tensor:
    """outputs: float[B, K] of the head -> log-probability of each class."""
    if task.multi_label:
        return F.logsigmoid(outputs)
    # A head for two classes has one output: sigmoid(z) is the softmax of (0, z).
    logits = torch.cat([torch.zeros_like(outputs), outputs], 1) if task.binary else outputs
    return logits.log_softmax(1)


def _check_images(batch: Batch, task: Task) -> None:
    if len(batch.pixel_values) != 1:
        raise ValueError(f"task {task.name} reads {len(batch.pixel_values)} images; texts about one are explained")
