"""Collate rows of text and images into a Batch: tokenized, right-padded, each image transformed once."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefixvlm.batch import (
    IGNORE_INDEX,
    IMAGE_ID,
    LEARNED,
    LEARNED_ID,
    AssistantTurn,
    Batch,
    ImageOrFeatures,
    Part,
    Row,
    TemplateText,
)
from prefixvlm.data.feature_store import KeyedImage
from prefixvlm.data.tokenization import TokenizedRow, template_ids, text_ids, token_ids

NO_IMAGE = torch.empty(3, 1, 1)


class Collator:
    """Makes batches for one encoder and one language model.

    transform: a PIL image to float[3, H, W] or uint8; with reads_features, stored features to float32[N, D].
    tokenizer: a Hugging Face tokenizer.
    start_ids: begin every row. bos_ids: stand before the first text of a row. end_ids: end every prompt.
    chat: puts the chat template around the parts of a row.
    max_target_length: longer targets are truncated and lose their EOS.
    max_positions: the context length of the language model, images included. Targets are truncated to fit; a prompt
        that does not fit is an error.
    """

    def __init__(
        self,
        transform: Callable[[Any], Tensor],
        tokenizer: Any,
        prefix_length: int,
        bos_ids: Sequence[int],
        eos_id: int,
        pad_id: int,
        max_target_length: int | None = None,
        max_positions: int | None = None,
        reads_features: bool = False,
        start_ids: Sequence[int] = (),
        end_ids: Sequence[int] = (),
        chat: Callable[[Sequence[Part]], Sequence[Part]] | None = None,
    ) -> None:
        self.transform, self.reads_features = transform, reads_features
        self.tokenizer = tokenizer
        self.prefix_length = prefix_length
        self.bos_ids = list(bos_ids)
        self.start_ids, self.end_ids = list(start_ids), list(end_ids)
        self.chat = chat
        self.eos_id = eos_id
        self.pad_id = pad_id
        self.max_target_length = max_target_length
        self.max_positions = max_positions

    def __call__(self, rows: Sequence[Row], supervised: bool = True, task: str = "") -> Batch:
        """Collate rows into a Batch.

        supervised: False, for evaluation, leaves the targets out and merges rows with the same input.
        Raises ValueError for a prompt that does not fit.
        """
        images: dict[int, tuple[int, ImageOrFeatures]] = {}  # by identity: rows that share an image share its encoding

        def index_of(image: ImageOrFeatures) -> int:
            return images.setdefault(id(image), (len(images), image))[0]

        groups = {} if supervised else _group_by_input(rows)
        unique = rows if supervised else [group[0] for group in groups.values()]
        image_index = [index_of(part) for row in unique for part in row.parts if not isinstance(part, str)]
        tokens = [self.tokenize(row, supervised) for row in unique]
        target_image_index = [index_of(row.target_image) for row in unique if row.target_image is not None]
        width = max(len(row.ids) for row in tokens)
        head_targets = [row.head_targets for row in unique] if supervised and unique[0].head_targets else None
        return Batch(
            **self._images([image for _, image in images.values()]),
            input_ids=_pad([row.ids for row in tokens], width, self.pad_id),
            attention_mask=torch.tensor([[place < len(row.ids) for place in range(width)] for row in tokens]),
            labels=_pad([row.labels for row in tokens], width, IGNORE_INDEX),
            image_index=torch.tensor(image_index, dtype=torch.long),
            rows=[[row.without_images() for row in group] for group in groups.values()],
            task=task,
            head_targets=None if head_targets is None else torch.tensor(head_targets),
            tags=_pad([row.tags for row in tokens], width, IGNORE_INDEX) if unique[0].tags else None,
            target_image_index=torch.tensor(target_image_index) if target_image_index else None,
            keys=[row.key for row in rows] if supervised else [],
        )

    def _images(self, images: Sequence[ImageOrFeatures]) -> dict[str, Any]:
        """Return the fields of a Batch that hold images: their pixels, or where there are any their stored features."""
        if not any(isinstance(image, KeyedImage) for image in images):
            return {"pixel_values": self._pixel_values(images)}
        stored = [image.features(len(images)) if isinstance(image, KeyedImage) else None for image in images]
        known = [number for number, features in enumerate(stored) if features is not None]
        others = [number for number, features in enumerate(stored) if features is None]
        found = [torch.tensor(features) for features in stored if features is not None]
        keyed = [images[number] for number in others]
        return {
            "pixel_values": self._pixel_values([e.image if isinstance(e, KeyedImage) else e for e in keyed]),
            "features": torch.stack(found) if found else None,
            "features_index": torch.tensor(known + others).argsort(),
            "image_keys": [each.key(len(images)) if isinstance(each, KeyedImage) else b"" for each in keyed],
        }

    def _pixel_values(self, images: Sequence[ImageOrFeatures]) -> Tensor:
        if any(isinstance(image, np.ndarray) for image in images) and not self.reads_features:
            raise ValueError("the shards hold features and not images; set encoder=cached, or data.shards to images")
        if not images:
            return NO_IMAGE[None][:0]
        return torch.stack([self.transform(image) for image in images])

    def tokenize(self, row: Row, supervised: bool = True) -> TokenizedRow:
        """Return the ids of the prompt, with images as runs of IMAGE_ID, and if supervised of the target and its EOS.

        Raises ValueError if the prompt does not fit, or a text with a tag has no tokens.
        """
        tokens = TokenizedRow()
        tokens.add(self.start_ids)
        last = self._add_prompt(tokens, row)
        if self.max_positions is not None and len(tokens.ids) >= self.max_positions:
            raise ValueError(
                f"sample {row.key!r}: the prompt has {len(tokens.ids)} tokens with its images, and the language model "
                f"reads {self.max_positions}; set mapper.prefix_length, few_shot.shots or the prompt to less"
            )
        if supervised and (row.target or isinstance(row.target, AssistantTurn)):
            room = None if self.max_positions is None else self.max_positions - len(tokens.ids)
            target = [*text_ids(self.tokenizer, last, row.target), self.eos_id][: self.max_target_length]
            tokens.add(target[:room], supervised=True)
        return tokens

    def _add_prompt(self, tokens: TokenizedRow, row: Row) -> str:
        """Add the ids of context and prompt. Return the last text, which the target continues, "" after an image."""
        bos, last = self.bos_ids, ""
        num_context_texts = sum(isinstance(part, str) and not isinstance(part, TemplateText) for part in row.context)
        tags = iter([IGNORE_INDEX] * num_context_texts + list(row.tags))
        for part in self.chat(row.parts) if self.chat else row.parts:
            if not isinstance(part, str):
                if isinstance(last, TemplateText):
                    tokens.add(text_ids(self.tokenizer, last, ""))  # the space that ends the template
                tokens.add([IMAGE_ID] * self.prefix_length)
                last = ""
                continue
            start = len(tokens.ids)
            self._add_text(tokens, last, part, bos)
            if not isinstance(part, TemplateText):
                if (tag := next(tags, IGNORE_INDEX)) != IGNORE_INDEX and len(tokens.ids) == start:
                    raise ValueError(
                        f"sample {row.key!r}: {part.strip()!r} has a tag, but the tokenizer reads nothing in it"
                    )
                tokens.tags[-1:] = [tag]
            if part.strip() or not isinstance(last, TemplateText):
                last = part
            bos = []
        tokens.add(bos + self.end_ids)
        return last

    def _add_text(self, tokens: TokenizedRow, last: str, part: str, bos: list[int]) -> None:
        if part is LEARNED:
            tokens.add([LEARNED_ID])
        elif isinstance(part, AssistantTurn):
            tokens.add([*text_ids(self.tokenizer, last, part), self.eos_id], supervised=True)
        elif isinstance(part, TemplateText):
            # The EOS of a turn is in the row already; the template is tokenized as what stands after it.
            previous = self.tokenizer.eos_token if isinstance(last, AssistantTurn) else last
            tokens.add(template_ids(self.tokenizer, previous, part))
        elif isinstance(last, TemplateText):
            tokens.add(text_ids(self.tokenizer, last, part) if part.strip() else [])
        else:
            tokens.add(bos + token_ids(self.tokenizer, part))


def _group_by_input(rows: Sequence[Row]) -> dict[Hashable, list[Row]]:
    """Group the rows by what the model reads and chooses from: texts, choices, and images by identity."""
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        parts = tuple(part if isinstance(part, str) else id(part) for part in row.parts)
        groups.setdefault((parts, row.choices, id(row.target_image)), []).append(row)
    return groups


def _pad(rows: list[list[int]], width: int, value: int) -> Tensor:
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])
