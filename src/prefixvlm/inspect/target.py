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
from prefixvlm.task.classification_head import SEPARATOR, ClassificationHead
from prefixvlm.task.interface import Task

Score = Callable[[PrefixLM, Batch], Tensor]  # the log-probabilities of B rows: float32[B, T]
MAX_POSITIONS = 2048  # of rows that are computed at once


class NothingSaidError(ValueError):
    """There is no text to explain: the model's own is empty."""


class FromPrefixes(PrefixLM):
    """A model whose pixel_values are prefixes, float[B, P, E]. It has the same weights."""

    def __init__(self, model: PrefixLM) -> None:
        super().__init__(model.encoder, model.mapper, model.lm, model.heads)  # type: ignore[arg-type]
        self.training = False  # without label smoothing; not eval(), which reaches into the modules that are shared

    def prefix_embeds(self, pixel_values: Tensor) -> Tensor:
        return pixel_values


@dataclass(frozen=True)
class Target:
    """A text about one image, or a class of it.

    batch: one row with the text. prompt: the row without it. task: what predicts texts from prompts.
    tokens: T texts, without the EOS; the name of a class is one. score: their log-probabilities for rows of the model.
    has_text: False for a class, whose log-probability is that of a head.
    """

    model: PrefixLM
    task: Task
    prompt: Batch
    batch: Batch
    text: str
    tokens: list[str]
    score: Score
    has_text: bool = True

    @property
    def pixel_values(self) -> Tensor:
        """float[1, 3, H, W]"""
        return self.batch.pixel_values

    @property
    def blank(self) -> Tensor:
        """What a missing pixel is: the mean colour of the image, float[1, 3, 1, 1]."""
        # Not 0, the mean colour of the encoder's training images: a grey hole in a drawing is an object of its own.
        return self.pixel_values.mean((2, 3), keepdim=True)

    @torch.no_grad()
    def prefix(self) -> Tensor:
        """Return the prefix of the image: float[1, P, E]."""
        return self.model.prefix_embeds(self.pixel_values)

    def log_probs(self, pixel_values: Tensor) -> Tensor:
        """pixel_values: float[B, 3, H, W] -> log-probability of each token: float32[B, T]."""
        parts = pixel_values.split(self.rows_of(MAX_POSITIONS))
        return torch.cat([self.score(self.model, _repeated(self.batch, part)) for part in parts])

    def log_probs_of(self, prefixes: Tensor) -> Tensor:
        """prefixes: float[B, P, E] -> log-probability of each token: float32[B, T]."""
        model, parts = FromPrefixes(self.model), prefixes.split(self.rows_of(MAX_POSITIONS))
        return torch.cat([self.score(model, _repeated(self.batch, part)) for part in parts])

    def rows_of(self, positions: int) -> int:
        """Return how many rows have so many positions, at least 1."""
        return max(1, positions // self.batch.input_ids.shape[1])

    def say(self, prefixes: Tensor) -> list[str]:
        """Return what the model says with each prefix: float[B, P, E]."""
        (row,) = self.prompt.rows[0]
        batch = _repeated(self.prompt, prefixes)
        batch = replace(batch, rows=[[replace(row, id=str(number))] for number in range(len(prefixes))])
        return [each.prediction for each in self.task.predict(FromPrefixes(self.model), batch)]


def _repeated(batch: Batch, images: Tensor) -> Batch:
    """Return a batch with the only row of another once for each image, in the place of its own."""
    number = len(images)
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
    check_pixels(model)
    request = Request(() if question is None else (question,))
    chosen = model.task(request, task)
    check_task(chosen)
    if text is None:
        text = model.answers([image], request, task)[0].prediction.prediction
    if not text.strip():
        raise NothingSaidError("the model says nothing about this image; give the text to explain")
    prompt = _normalized(model, model.batch_of(image, question, task=task))
    if len(prompt.pixel_values) != 1 or not prompt.image_index.numel():
        raise ValueError(f"task {chosen.name} reads {len(prompt.pixel_values)} images; texts about one are explained")
    if isinstance(chosen, ClassificationHead):
        return _class_target(model.module.model, chosen, prompt, text)
    batch = _normalized(model, model.batch_of(image, question, text, task))
    ids = batch.labels[batch.labels != IGNORE_INDEX].tolist()
    # A text that fills the context of the language model has no EOS.
    num_tokens = len(ids) - (ids[-1] == model.module.model.lm.eos_id)
    tokens = model.module.model.lm.tokenizer.batch_decode([[token] for token in ids[:num_tokens]])

    def score(model: PrefixLM, batch: Batch) -> Tensor:
        return -model(batch).view(len(batch.input_ids), -1)[:, :num_tokens]

    return Target(model.module.model, chosen, prompt, batch, text, tokens, score)


def _normalized(model: Captioner, batch: Batch) -> Batch:
    """Return the batch with pixel values of which there are gradients and means."""
    return replace(batch, pixel_values=model.module.model.encoder.normalized(batch.pixel_values))


def check_pixels(model: Captioner) -> None:
    """Raise ValueError for a model that reads no images."""
    if model.module.model.encoder.reads_features:
        raise ValueError("the checkpoint reads stored features, which have no pixels to explain; give it its encoder")


def check_task(task: Task) -> None:
    """Raise ValueError for a task without texts and classes."""
    if task.has_head and not isinstance(task, ClassificationHead):
        raise ValueError(f"task {task.name} predicts neither a text nor a class, and only these are explained")


def _class_target(model: PrefixLM, task: ClassificationHead, prompt: Batch, text: str) -> Target:
    names = text.split(SEPARATOR) if task.multi_label else [text]
    if unknown := set(names) - set(task.classes):
        raise ValueError(
            f"the text is {min(unknown)!r}, but the classes are {', '.join(task.classes)}; give one of them"
        )
    columns = [task.classes.index(each) for each in names]

    def score(model: PrefixLM, batch: Batch) -> Tensor:
        return _class_log_probs(task, model.heads[task.name](model, batch))[:, columns]

    return Target(model, task, prompt, prompt, text, names, score, has_text=False)


def _class_log_probs(task: ClassificationHead, outputs: Tensor) -> Tensor:
    """outputs: float[B, K] of the head -> log-probability of each class."""
    if task.multi_label:
        return F.logsigmoid(outputs)
    # A head for two classes has one output: sigmoid(z) is the softmax of (0, z).
    logits = torch.cat([torch.zeros_like(outputs), outputs], 1) if task.binary else outputs
    return logits.log_softmax(1)
