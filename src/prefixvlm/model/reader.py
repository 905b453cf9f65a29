"""A model and a batch of prompts go in; a reader of them, which any tokens may follow, comes out."""

from dataclasses import dataclass

import torch
from torch import Tensor

from prefixvlm.batch import IMAGE_ID, Batch
from prefixvlm.model.cache import TextCache
from prefixvlm.model.prefix_lm import PrefixLM


@dataclass
class Reader:
    """A frozen language model in the middle of S texts.

    cache: keys and values of what was read; mask: bool[S, past], False on padding; lengths: int[S], positions read;
    logits: float32[S, V], of what comes next.
    """

    model: PrefixLM
    cache: TextCache
    mask: Tensor
    lengths: Tensor
    logits: Tensor

    @classmethod
    def of_prompts(cls, model: PrefixLM, batch: Batch) -> "Reader":
        """Read the prompts. Where every row begins with an image, each image's prefix is read once for all its rows."""
        embeds = model.inputs_embeds(batch)
        mask, lm = batch.attention_mask, model.lm
        lengths = mask.sum(1)
        cache = TextCache(lm.model.config)
        prefix_length = model.mapper.prefix_length
        first_run, shared = _leading_images(batch, prefix_length)
        start = 0
        if shared:
            start = prefix_length
            positions = torch.arange(start, device=mask.device)[None]
            lm.hidden(embeds[first_run, :start], mask[first_run, :start], positions.expand(len(first_run), -1), cache)
            cache.select(_leading_image_index(batch))
        positions = torch.arange(start, embeds.shape[1], device=mask.device).expand(len(mask), -1)
        hidden = lm.hidden(embeds[:, start:], mask, positions, cache)
        cache.end_prompts(mask)
        last = hidden[torch.arange(len(mask), device=mask.device), lengths - 1 - start]
        return cls(model, cache, mask, lengths, lm.logits(last))

    def read(self, ids: Tensor, rows: Tensor) -> None:
        """Go on with these rows, as `select` does, and read one more token in each; ids, rows: int[S']."""
        self.keep(rows)
        self.check_room(1)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(ids), 1)], 1)
        embeds = self.model.lm.embed(ids[:, None])
        hidden = self.model.lm.hidden(embeds, self.mask, self.lengths[:, None], self.cache)
        self.lengths = self.lengths + 1
        self.logits = self.model.lm.logits(hidden[:, 0])

    def check_room(self, num_tokens: int) -> None:
        """Raises ValueError if a row has no room for so many more tokens: the language model has no positions there."""
        limit = self.model.lm.max_positions
        if limit is not None and self.mask.shape[1] + num_tokens > limit:  # also padding: then look closer
            needed = int(self.lengths.max()) + num_tokens
            if needed > limit:
                raise ValueError(
                    f"a prompt and its answer need {needed} positions, images included, and the language model has "
                    f"{limit}; set few_shot.shots, decoding.max_new_tokens or mapper.prefix_length to less"
                )

    def select(self, rows: Tensor) -> None:
        """Go on with these rows, in this order, any number of times each; rows: int[S']."""
        self.keep(rows)
        self.logits = self.logits[rows]

    def keep(self, rows: Tensor) -> None:
        """As `select`, but the logits stay those of the rows before: for whoever reads on."""
        self.cache.select(rows)
        self.mask, self.lengths = self.mask[rows], self.lengths[rows]


def _leading_image_index(batch: Batch) -> Tensor:
    """Which image each row begins with: int[S]; right only where every row begins with one."""
    is_image = batch.input_ids == IMAGE_ID
    runs_before = is_image.sum(1).cumsum(0) - is_image.sum(1)
    run_length = int(is_image.sum()) // max(1, batch.image_index.numel())
    return batch.image_index[runs_before // max(1, run_length)]


def _leading_images(batch: Batch, prefix_length: int) -> tuple[Tensor, bool]:
    """(for each image a row that begins with it, whether reading the prefixes apart saves work)."""
    begins = bool((batch.input_ids[:, 0] == IMAGE_ID).all())
    if not begins or int(batch.attention_mask.sum(1).min()) <= prefix_length:
        return batch.image_index, False
    index = _leading_image_index(batch)
    num_images = len(batch.pixel_values)
    if len(index) <= num_images:
        return index, False
    first = torch.zeros(num_images, dtype=torch.long, device=index.device)
    first.scatter_(0, index, torch.arange(len(index), device=index.device))
    return first, True
