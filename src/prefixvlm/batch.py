"""The interface between data and model: rows of text and images, and the batches of tensors made from them.

Letters of the shapes, here and everywhere: B images, S rows of text, T tokens, N features per image, D feature width,
P prefix length, E width of the language model, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

ImageOrFeatures = Image.Image | NDArray[np.floating]  # float[N, D]: stored features of an image
IGNORE_INDEX = -100  # label of a token without supervision; the default of torch's cross entropy
# Placeholders in input_ids are negative, so that they cannot collide with an id of any vocabulary.
IMAGE_ID = -1  # position of a prefix embedding
LEARNED_ID = -2  # position of a task's own learned embedding (FROMAGe's [RET])


class NothingToLearnError(ValueError):
    """Raised for valid samples without the labels that a task trains on."""


class AssistantTurn(str):
    """Text in a row that the model learns to generate, such as its turns in a dialogue; EOS follows it."""

    __slots__ = ()


class TemplateText(str):
    """Text of a chat template; special tokens spelled in it are tokenized as special tokens."""

    __slots__ = ()


LEARNED = TemplateText()  # marks the place of LEARNED_ID in a row
Part = ImageOrFeatures | str


@dataclass(frozen=True)
class Row:
    """One row of text for the language model, with images at their positions in the text.

    prompt: input of the model. An image object that several rows share is encoded once.
    target: supervised continuation, followed by EOS. "" for no supervision, AssistantTurn() to supervise EOS alone.
    key: key of the sample in its shard. id: unique within a task. references: reference captions or answers.
    choices: the accepted answers, if they are a closed set. groups: names of the groups with scores of their own.
    context: few-shot demonstrations before the prompt, with their images.
    head_targets: regression or classification targets of a head. tags: tag of each text of the prompt, IGNORE_INDEX for
    a text without one.
    target_image: image that is encoded with the row but is not part of its text (contrastive learning).
    """

    prompt: tuple[Part, ...]
    target: str = ""
    key: str = ""
    id: str = ""
    references: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    context: tuple[Part, ...] = ()
    head_targets: tuple[float, ...] = ()
    tags: tuple[int, ...] = ()
    target_image: ImageOrFeatures | None = None

    @property
    def text(self) -> str:
        """The prompt without its images."""
        return "".join(part for part in self.prompt if isinstance(part, str))

    @property
    def parts(self) -> tuple[Part, ...]:
        """Context and prompt."""
        return self.context + self.prompt

    def without_images(self) -> "Row":
        """Return a copy without images; each image of the context becomes the text <image>."""
        context = "".join(part if isinstance(part, str) else "<image>" for part in self.context)
        return replace(self, prompt=(self.text,), context=(context,) if context else (), target_image=None)


@dataclass
class Batch:
    """Input of a model.

    pixel_values: float[B, 3, H, W], or uint8 before the encoder normalizes them; or features, float32[B, N, D].
    input_ids: int[S, T], right-padded; each image is a run of prefix_length times IMAGE_ID.
    attention_mask: bool[S, T], False on padding.
    labels: int[S, T], IGNORE_INDEX where not supervised (images, prompts, padding).
    image_index: int[R], the image of each run of IMAGE_ID, in reading order over all rows.
    rows: in evaluation, the Rows of each of the S rows of tensors, without their images. Rows with equal input share
    one, such as "what colour is it?" about every image of a blind evaluation. Empty in training.
    keys: in training, the key of each row's sample.
    task: name of the rows' task; of one of the tasks if several share the batch.
    head_targets: float32[S, K], in training. tags: int64[S, T], at the last token of each tagged text, IGNORE_INDEX
    elsewhere. target_image_index: int[S], which of the B images is the target image of each row. All three are None if
    the rows have none.
    features, features_index, image_keys: with data.cache_features, until features/cache.py has completed the batch:
    pixel_values has only the M images without stored features, image_keys the key of each, b"" for one that is not to
    be stored; features are those of the others, float32[B - M, N, D]; features_index: int64[B], the place of each image
    in features and, after them, pixel_values.
    """

    pixel_values: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    image_index: Tensor
    rows: list[list[Row]] = field(default_factory=list)
    task: str = ""
    head_targets: Tensor | None = None
    tags: Tensor | None = None
    target_image_index: Tensor | None = None
    keys: list[str] = field(default_factory=list)
    features: Tensor | None = None
    features_index: Tensor | None = None
    image_keys: list[bytes] = field(default_factory=list)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        tensors: dict[str, Any] = {
            name: function(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **tensors)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        return self._map(lambda tensor: tensor.pin_memory())

    def split(self, max_rows: int) -> "Iterator[Batch]":
        """Yield batches of at most max_rows rows, in order."""
        for first in range(0, len(self.input_ids), max_rows):
            yield self.of(range(first, min(first + max_rows, len(self.input_ids))))

    def of(self, rows: Sequence[int]) -> "Batch":
        """Return a batch of the rows with these numbers, with their images alone and without needless padding."""
        runs = self.runs_of_rows()
        chosen = torch.tensor(rows, device=self.input_ids.device)
        width = int(self.attention_mask[chosen].sum(1).max())
        targets = self.target_image_index[chosen] if self.target_image_index is not None else chosen[:0]
        used = torch.cat([*(runs[row] for row in rows), targets])
        images, index = used.unique(return_inverse=True)
        num_runs = len(used) - len(targets)
        return Batch(
            self.pixel_values[images],
            self.input_ids[chosen, :width],
            self.attention_mask[chosen, :width],
            self.labels[chosen, :width],
            index[:num_runs],
            [self.rows[row] for row in rows] if self.rows else [],
            self.task,
            None if self.head_targets is None else self.head_targets[chosen],
            None if self.tags is None else self.tags[chosen, :width],
            None if self.target_image_index is None else index[num_runs:],
            [self.keys[row] for row in rows] if self.keys else [],
        )

    def runs_of_rows(self) -> list[Tensor]:
        """Return image_index split by row: the images of each row in reading order."""
        num_ids = (self.input_ids == IMAGE_ID).sum(1)
        # Every run has the same length, which the number of runs gives: a batch need not know its prefix_length.
        run_length = int(num_ids.sum()) // max(1, len(self.image_index))
        return list(self.image_index.split((num_ids // max(1, run_length)).tolist()))
