"""Rows of text and images go in, a Batch comes out: tokenized, right-padded, each image transformed once."""

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

NO_IMAGE = torch.empty(3, 1, 1)


class Collator:
    """Makes batches for one encoder and one language model.

    transform: a PIL image to float[3, H, W]; where it reads_features, stored ones to float32[N, D].
    tokenizer: a Hugging Face tokenizer. start_ids stand before everything, bos_ids before the first text, end_ids after
    every prompt. chat: makes the turns of a chat of a row's parts.
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
        """Rows to a Batch; supervised=False, for evaluation, leaves targets out and makes one row of those alike.

        Raises ValueError for a prompt that does not fit.
        """
        images: dict[int, tuple[int, ImageOrFeatures]] = {}  # by identity: one encoding for rows that share an image

        def place(image: ImageOrFeatures) -> int:
            return images.setdefault(id(image), (len(images), image))[0]

        alike = {} if supervised else _alike(rows)
        read = rows if supervised else [group[0] for group in alike.values()]
        image_index = [place(part) for row in read for part in row.parts if not isinstance(part, str)]
        texts = [self.tokenize(row, supervised) for row in read]
        target_image_index = [place(row.target_image) for row in read if row.target_image is not None]
        width = max(len(text.ids) for text in texts)
        return Batch(
            pixel_values=torch.stack([self._transformed(image) for _, image in images.values()] or [NO_IMAGE])[
                : len(images)
            ],
            input_ids=_pad([text.ids for text in texts], width, self.pad_id),
            attention_mask=torch.tensor([[at < len(text.ids) for at in range(width)] for text in texts]),
            labels=_pad([text.labels for text in texts], width, IGNORE_INDEX),
            image_index=torch.tensor(image_index, dtype=torch.long),
            rows=[[row.without_images() for row in group] for group in alike.values()],
            task=task,
            head_targets=torch.tensor([row.head_targets for row in read])
            if supervised and read[0].head_targets
            else None,
            tags=_pad([text.tags for text in texts], width, IGNORE_INDEX) if read[0].tags else None,
            target_image_index=torch.tensor(target_image_index) if target_image_index else None,
        )

    def _transformed(self, image: ImageOrFeatures) -> Tensor:
        if isinstance(image, np.ndarray) and not self.reads_features:
            raise ValueError(
                "the shards hold features in the place of images; set encoder=cached, or data.shards to images"
            )
        return self.transform(image)

    def tokenize(self, row: Row, supervised: bool = True) -> "Tokens":
        """The ids of what is given (images as runs of IMAGE_ID) and, where supervised, of the target with its EOS."""
        text = Tokens()
        text.add(self.start_ids)
        bos, last, tags = self.bos_ids, "", iter([IGNORE_INDEX] * len(_texts(row.context)) + list(row.tags))
        for part in self.chat(row.parts) if self.chat else row.parts:
            begun = len(text.ids)
            if not isinstance(part, str):
                if isinstance(last, TemplateText):
                    text.add(said_ids(self.tokenizer, last, ""))  # its space
                text.add([IMAGE_ID] * self.prefix_length)
                last = ""
                continue
            if part is LEARNED:
                text.add([LEARNED_ID])
            elif isinstance(part, AssistantTurn):
                text.add([*said_ids(self.tokenizer, last, part), self.eos_id], supervised=True)
            elif isinstance(part, TemplateText):
                text.add(
                    markup_ids(
                        self.tokenizer, self.tokenizer.eos_token if isinstance(last, AssistantTurn) else last, part
                    )
                )
            elif isinstance(last, TemplateText):
                text.add(said_ids(self.tokenizer, last, part) if part.strip() else [])
            else:
                text.add(bos + token_ids(self.tokenizer, part))
            if not isinstance(part, TemplateText):
                if (tag := next(tags, IGNORE_INDEX)) != IGNORE_INDEX and len(text.ids) == begun:
                    raise ValueError(
                        f"sample {row.key!r}: {part.strip()!r} has a tag, but the tokenizer reads nothing in it"
                    )
                text.tags[-1:] = [tag]
            if part.strip() or not isinstance(last, TemplateText):
                last = part
            bos = []
        text.add(bos + self.end_ids)
        if self.max_positions is not None and len(text.ids) >= self.max_positions:
            raise ValueError(
                f"sample {row.key!r}: the prompt has {len(text.ids)} tokens with its images, and the language "
                f"model reads {self.max_positions}; set mapper.prefix_length, few_shot.shots or the prompt to less"
            )
        if supervised and (row.target or isinstance(row.target, AssistantTurn)):
            room = None if self.max_positions is None else self.max_positions - len(text.ids)
            target = [*said_ids(self.tokenizer, last, row.target), self.eos_id][: self.max_target_length]
            text.add(target[:room], supervised=True)
        return text


class Tokens:
    """A row as ids, with a label and a tag for each, IGNORE_INDEX where it has none."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.labels: list[int] = []
        self.tags: list[int] = []

    def add(self, ids: list[int], supervised: bool = False) -> None:
        self.ids += ids
        self.labels += ids if supervised else [IGNORE_INDEX] * len(ids)
        self.tags += [IGNORE_INDEX] * len(ids)


def _texts(parts: Sequence[Any]) -> list[str]:
    return [part for part in parts if isinstance(part, str) and not isinstance(part, TemplateText)]


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text; one that spells a special token ("<|endoftext|>" in a web caption) stays text."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids


def continuation_ids(tokenizer: Any, text: str, target: str) -> list[int]:
    """The ids of the target as it goes on from the text: SentencePiece puts a space before a text of its own."""
    before, both = token_ids(tokenizer, text), token_ids(tokenizer, text + target)
    return both[len(before) :] if both[: len(before)] == before else token_ids(tokenizer, target)


def said_ids(tokenizer: Any, last: str, text: str) -> list[int]:
    """The ids of a text as it goes on from the last; after markup it begins with the markup's space or none."""
    if not isinstance(last, TemplateText):
        return continuation_ids(tokenizer, last, text)
    before = last.rstrip(" ")
    return continuation_ids(tokenizer, before, last[len(before) :] + text.lstrip())


def markup_ids(tokenizer: Any, last: str, markup: str) -> list[int]:
    """The ids of markup as it goes on from the last text; the spaces at its end go with what is said next."""
    last, markup = last if last.strip() else "", markup.rstrip(" ")
    before = tokenizer(last, add_special_tokens=False).input_ids
    both = tokenizer(last + markup, add_special_tokens=False).input_ids
    if both[: len(before)] == before:
        return both[len(before) :]
    return tokenizer(markup, add_special_tokens=False).input_ids


def _alike(rows: Sequence[Row]) -> dict[Hashable, list[Row]]:
    """The rows by what the model would read and choose from: texts and choices, and images by identity."""
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        read = tuple(part if isinstance(part, str) else id(part) for part in row.parts)
        groups.setdefault((read, row.choices, id(row.target_image)), []).append(row)
    return groups


def _pad(rows: list[list[int]], width: int, value: int) -> Tensor:
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])
