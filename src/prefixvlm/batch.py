"""The contract between data and model: rows of text and images go in, a batch of tensors comes out.

Letters of the shapes, here and everywhere: B images, S rows of text, T tokens, N features per image, D feature width,
P prefix length, E width of the language model, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

ImageOrFeatures = Image.Image | NDArray[np.floating]  # float[N, D]: what an encoder made of the image, stored
IGNORE_INDEX = -100  # a label that is not supervised; torch's default for cross entropy
IMAGE_ID = -1  # stands in input_ids where a prefix embedding goes; no vocabulary has it
LEARNED_ID = -2  # stands where a task's own learned embedding goes (FROMAGe's [RET])


class NothingToLearnError(ValueError):
    """Samples are sound, but none has what the task is trained on."""


class AssistantTurn(str):
    """A text in a row that the model is to say itself, as its turns in a dialogue: supervised, with EOS after it."""

    __slots__ = ()


class TemplateText(str):
    """A text in a row whose special tokens are read as such: what a chat template puts around what is said."""

    __slots__ = ()


LEARNED = TemplateText()  # in a row: where LEARNED_ID goes
Part = ImageOrFeatures | str


@dataclass(frozen=True)
class Row:
    """One row of text for the language model, with its images where they stand in the reading order.

    prompt: what the model is given. The same image object in several rows is encoded once.
    target: what it should say next; supervised, with EOS after it. "" for nothing that is supervised, Said() for EOS.
    key: the sample's key in its shard. id: unique within a task. references: the true captions or answers.
    choices: what the answer is one of, if that is known. groups: names of the groups it is also scored in.
    context: what stands before the prompt: demonstrations, with their images.
    values: what a head should say of the row. tags: the number of the tag of each text of the prompt, IGNORE_INDEX for
    one that has none.
    paired: an image that is encoded with the row and not read in it.
    """

    prompt: tuple[Part, ...]
    target: str = ""
    key: str = ""
    id: str = ""
    references: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    context: tuple[Part, ...] = ()
    values: tuple[float, ...] = ()
    tags: tuple[int, ...] = ()
    paired: ImageOrFeatures | None = None

    @property
    def text(self) -> str:
        """The prompt without its images."""
        return "".join(part for part in self.prompt if isinstance(part, str))

    @property
    def parts(self) -> tuple[Part, ...]:
        """All that the model is given."""
        return self.context + self.prompt

    def without_images(self) -> "Row":
        """With <image> where one stood in the context."""
        context = "".join(part if isinstance(part, str) else "<image>" for part in self.context)
        return replace(self, prompt=(self.text,), context=(context,) if context else (), paired=None)


@dataclass
class Batch:
    """What a model reads.

    pixel_values: float[B, 3, H, W]; where features are stored (encoder=cached) those, float32[B, N, D].
    input_ids: int[S, T], right-padded; each image is a run of prefix_length times IMAGE_ID.
    attention_mask: bool[S, T], False on padding.
    labels: int[S, T], IGNORE_INDEX where not supervised (images, prompts, padding).
    image_index: int[R], which of the B images fills each run of IMAGE_ID, in reading order over all rows.
    rows: for each of the S rows the Rows, without their images, that it answers: several where they read alike, as
    every image's "what colour is it?" does in a blind evaluation. Empty in training.
    task: whose rows these are; where tasks share a batch, one of them.
    values: float32[S, K], in training: what a head should say of each row. tags: int64[S, T], of the last token of each
    text that has one, IGNORE_INDEX elsewhere. paired: int[S], which of the B images belongs to each row without being
    read in it. All three are None where rows have none.
    """

    pixel_values: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    image_index: Tensor
    rows: list[list[Row]] = field(default_factory=list)
    task: str = ""
    values: Tensor | None = None
    tags: Tensor | None = None
    paired: Tensor | None = None

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        tensors = {name: function(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, rows=self.rows, task=self.task, **tensors)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def split(self, max_rows: int) -> "Iterator[Batch]":
        """Batches of at most max_rows of the rows, in order."""
        for first in range(0, len(self.input_ids), max_rows):
            yield self.of(range(first, min(first + max_rows, len(self.input_ids))))

    def of(self, numbers: Sequence[int]) -> "Batch":
        """These of the S rows, with the images they use and as wide as it must be."""
        runs = self._runs_of_rows()
        chosen = torch.tensor(numbers, device=self.input_ids.device)
        width = int(self.attention_mask[chosen].sum(1).max())
        paired = self.paired[chosen] if self.paired is not None else chosen[:0]
        read = torch.cat([*(runs[number] for number in numbers), paired])
        images, index = read.unique(return_inverse=True)
        return Batch(
            self.pixel_values[images],
            self.input_ids[chosen, :width],
            self.attention_mask[chosen, :width],
            self.labels[chosen, :width],
            index[: len(read) - len(paired)],
            [self.rows[number] for number in numbers] if self.rows else [],
            self.task,
            None if self.values is None else self.values[chosen],
            None if self.tags is None else self.tags[chosen, :width],
            None if self.paired is None else index[len(read) - len(paired) :],
        )

    def _runs_of_rows(self) -> list[Tensor]:
        """image_index, a row."""
        num_ids = (self.input_ids == IMAGE_ID).sum(1)
        run_length = int(num_ids.sum()) // max(1, len(self.image_index))
        return list(self.image_index.split((num_ids // max(1, run_length)).tolist()))

    def pin_memory(self) -> "Batch":
        return self._map(lambda tensor: tensor.pin_memory())
