"""Rows of text and images go in, a Batch comes out: tokenized, right-padded, each image transformed once."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefixvlm.batch import IGNORE_INDEX, IMAGE_ID, Batch, ImageOrFeatures, Row


class Collator:
    """Makes batches for one encoder and one language model.

    transform: a PIL image to float[3, H, W]; where it reads_features, stored ones to float32[N, D].
    tokenizer: a Hugging Face tokenizer. bos_ids stand before the first text.
    max_target_length: longer targets are cut, and lose their EOS. max_positions: what the language model can read,
    images included; a target is cut to fit, a prompt that does not fit is an error.
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
    ) -> None:
        self.transform, self.reads_features = transform, reads_features
        self.tokenizer = tokenizer
        self.prefix_length = prefix_length
        self.bos_ids = list(bos_ids)
        self.eos_id = eos_id
        self.pad_id = pad_id
        self.max_target_length = max_target_length
        self.max_positions = max_positions

    def __call__(self, rows: Sequence[Row], supervised: bool = True) -> Batch:
        """Rows to a Batch; supervised=False, for evaluation, leaves targets out and makes one row of those alike.

        Raises ValueError for a prompt that does not fit.
        """
        images: dict[int, tuple[int, ImageOrFeatures]] = {}  # by identity: one encoding for rows that share an image
        image_index, all_ids, all_labels = [], [], []
        alike = {} if supervised else _alike(rows)
        for row in rows if supervised else [group[0] for group in alike.values()]:
            for part in row.parts:
                if not isinstance(part, str):
                    image_index.append(images.setdefault(id(part), (len(images), part))[0])
            prompt_ids, target_ids = self.tokenize(row)
            if not supervised:
                target_ids = []
            all_ids.append(prompt_ids + target_ids)
            all_labels.append([IGNORE_INDEX] * len(prompt_ids) + target_ids)
        if not images:
            raise ValueError("a batch needs at least one image; none of its rows has one")
        width = max(map(len, all_ids))
        return Batch(
            pixel_values=torch.stack([self._transformed(image) for _, image in images.values()]),
            input_ids=_pad(all_ids, width, self.pad_id),
            attention_mask=torch.tensor([[True] * len(ids) + [False] * (width - len(ids)) for ids in all_ids]),
            labels=_pad(all_labels, width, IGNORE_INDEX),
            image_index=torch.tensor(image_index),
            rows=[[row.without_images() for row in group] for group in alike.values()],
        )

    def _transformed(self, image: ImageOrFeatures) -> Tensor:
        if isinstance(image, np.ndarray) and not self.reads_features:
            raise ValueError(
                "the shards hold features in the place of images; set encoder=cached, or data.shards to images"
            )
        return self.transform(image)

    def tokenize(self, row: Row) -> tuple[list[int], list[int]]:
        """The ids of the prompt (images as runs of IMAGE_ID) and of the target with its EOS."""
        prompt_ids: list[int] = []
        bos = self.bos_ids
        last_text = ""
        for part in row.parts:
            if isinstance(part, str):
                prompt_ids += bos + self._ids(part)
                bos, last_text = [], part
            else:
                prompt_ids += [IMAGE_ID] * self.prefix_length
                last_text = ""
        if bos:
            prompt_ids += bos
        target_ids = [*continuation_ids(self.tokenizer, last_text, row.target), self.eos_id]
        target_ids = target_ids[: self.max_target_length]
        if self.max_positions is not None:
            if len(prompt_ids) >= self.max_positions:
                raise ValueError(
                    f"sample {row.key!r}: the prompt has {len(prompt_ids)} tokens with its images, and the language "
                    f"model reads {self.max_positions}; set mapper.prefix_length, few_shot.shots or the prompt to less"
                )
            target_ids = target_ids[: self.max_positions - len(prompt_ids)]
        return prompt_ids, target_ids

    def _ids(self, text: str) -> list[int]:
        return token_ids(self.tokenizer, text)


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text; one that spells a special token ("<|endoftext|>" in a web caption) stays text."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids


def continuation_ids(tokenizer: Any, text: str, target: str) -> list[int]:
    """The ids of the target as it goes on from the text: SentencePiece puts a space before a text of its own."""
    before, both = token_ids(tokenizer, text), token_ids(tokenizer, text + target)
    return both[len(before) :] if both[: len(before)] == before else token_ids(tokenizer, target)


def _alike(rows: Sequence[Row]) -> dict[Hashable, list[Row]]:
    """The rows by what the model would read and choose from: their texts, their choices, their images by identity."""
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        read = tuple(part if isinstance(part, str) else id(part) for part in row.parts)
        groups.setdefault((read, row.choices), []).append(row)
    return groups


def _pad(rows: list[list[int]], width: int, value: int) -> Tensor:
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])
