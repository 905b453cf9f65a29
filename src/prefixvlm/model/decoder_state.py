"""Decoder state of a batch of prompts: the KV cache, and the logits of the next token."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from prefixvlm.batch import IMAGE_ID, Batch
from prefixvlm.lm.seq2seq import Seq2SeqLM
from prefixvlm.model.kv_cache import DecoderCache, Seq2SeqCache
from prefixvlm.model.prefix_lm import PrefixLM


@dataclass
class DecoderState:
    """State of a frozen language model after the beginnings of S texts.

    cache: keys and values of all positions so far. mask: bool[S, past], False on padding.
    lengths: int[S], number of positions without padding. logits: float32[S, V], of the next token.
    """

    model: PrefixLM
    cache: DecoderCache | Seq2SeqCache
    mask: Tensor
    lengths: Tensor
    logits: Tensor

    @classmethod
    def from_prompts(cls, model: PrefixLM, batch: Batch) -> "DecoderState":
        """Run the model over the prompts of a batch."""
        embeds = model.inputs_embeds(batch)
        mask, lm = batch.attention_mask, model.lm
        if lm.encodes_prompts:
            return Seq2SeqDecoderState.from_embeds(model, embeds, mask)
        lengths = mask.sum(1)
        cache = DecoderCache(lm.model.config)
        prefix_length = model.mapper.prefix_length
        first_rows, shares_prefixes = _rows_of_leading_images(batch, prefix_length)
        start = 0
        # Several questions about an image begin with the same prefix: it is computed once per image, and the cache
        # repeats it for the rows.
        if shares_prefixes:
            start = prefix_length
            positions = torch.arange(start, device=mask.device)[None]
            lm.hidden(
                embeds[first_rows, :start], mask[first_rows, :start], positions.expand(len(first_rows), -1), cache
            )
            cache.reorder(_leading_image_index(batch))
        positions = torch.arange(start, embeds.shape[1], device=mask.device).expand(len(mask), -1)
        hidden = lm.hidden(embeds[:, start:], mask, positions, cache)
        cache.mark_prompt_end(mask)
        # Rows are right-padded: the last position of each prompt is not the last column.
        last = hidden[torch.arange(len(mask), device=mask.device), lengths - 1 - start]
        return cls(model, cache, mask, lengths, lm.logits(last))

    def step(self, ids: Tensor, rows: Tensor) -> None:
        """Keep these rows, as `reorder` does, and append one token to each. ids, rows: int[S']."""
        self.reorder_cache(rows)
        self.check_room(1)
        hidden = self.append(ids[:, None], torch.ones_like(ids[:, None], dtype=torch.bool))
        self.logits = self.model.lm.logits(hidden[:, 0])

    def append(self, ids: Tensor, real: Tensor) -> Tensor:
        """Append tokens and return their hidden states: float[S, n, E'].

        ids: int[S, n]; real: bool[S, n], False on padding. Leaves `logits` as they are.
        """
        self.mask = torch.cat([self.mask, real], 1)
        # Positions go on from each text's own length: padding between prompt and answer takes a place, but no position.
        positions = self.lengths[:, None] + torch.arange(ids.shape[1], device=ids.device)
        self.lengths = self.lengths + real.sum(1)
        return self._hidden(self.model.lm.embed(ids), positions)

    def _hidden(self, embeds: Tensor, positions: Tensor) -> Tensor:
        return self.model.lm.hidden(embeds, self.mask, positions, self.cache)

    def check_room(self, num_tokens: int) -> None:
        """Raise ValueError if a row has no positions left for so many more tokens."""
        limit, window = self.model.lm.max_positions, self.model.lm.window
        # The number of places, padding included, is an upper bound that needs no transfer from the GPU.
        if limit is not None and self.mask.shape[1] + num_tokens > limit:
            # A sliding window counts places; otherwise positions count, and padding takes none.
            needed = (int(self.lengths.max()) if window is None else self.mask.shape[1]) + num_tokens
            if needed > limit:
                raise ValueError(
                    f"a prompt and its answer need {needed} positions, images included, and the language model has "
                    f"{limit}; set few_shot.shots, decoding.max_new_tokens or mapper.prefix_length to less"
                )

    def reorder(self, rows: Tensor) -> None:
        """Keep these rows, in this order; each may be repeated. rows: int[S']."""
        self.reorder_cache(rows)
        self.logits = self.logits[rows]

    def reorder_cache(self, rows: Tensor) -> None:
        """Reorder all but the logits, for callers that append tokens next and compute new ones."""
        self.cache.reorder(rows)
        self.mask, self.lengths = self.mask[rows], self.lengths[rows]


@dataclass
class Seq2SeqDecoderState(DecoderState):
    """State of the decoder of an encoder-decoder; mask and lengths are those of the decoder's texts.

    encoded: float[1, T, E'], used for its shape. prompts: bool[S, T], mask of the encoded prompts.
    """

    encoded: Tensor
    prompts: Tensor

    @classmethod
    def from_embeds(cls, model: PrefixLM, embeds: Tensor, prompts: Tensor) -> "Seq2SeqDecoderState":
        """Encode the prompts and run the decoder on its first id. embeds: float[S, T, E]; prompts: bool[S, T]."""
        lm = _seq2seq(model)
        encoded = lm.encode(embeds, prompts)
        cache = Seq2SeqCache(lm.decoder_config, prompts)
        lengths = prompts.new_zeros(len(prompts), dtype=torch.long)
        # The decoder's text is empty so far; the logits are placeholders until its first id is appended.
        state = cls(model, cache, prompts[:, :0], lengths, encoded[:, 0], encoded, prompts)
        first = torch.full_like(lengths, lm.first_id)[:, None]
        hidden = state.append(first, torch.ones_like(first, dtype=torch.bool))
        cache.mark_prompt_end(state.mask)
        # The cache now has the keys and values of the prompts, so one row of `encoded` is enough for its shape.
        state.logits, state.encoded = lm.logits(hidden[:, 0]), encoded[:1]
        return state

    def _hidden(self, embeds: Tensor, positions: Tensor) -> Tensor:
        encoded = self.encoded.expand(len(embeds), -1, -1)
        return _seq2seq(self.model).decode(embeds, encoded, self.prompts, self.cache)

    def reorder_cache(self, rows: Tensor) -> None:
        super().reorder_cache(rows)
        self.prompts = self.prompts[rows]


def _seq2seq(model: PrefixLM) -> Seq2SeqLM:
    return cast(Seq2SeqLM, model.lm)


def _leading_image_index(batch: Batch) -> Tensor:
    """Return the image that each row begins with: int[S]; valid only if every row begins with one."""
    is_image = batch.input_ids == IMAGE_ID
    runs_before = is_image.sum(1).cumsum(0) - is_image.sum(1)
    run_length = int(is_image.sum()) // max(1, batch.image_index.numel())
    return batch.image_index[runs_before // max(1, run_length)]


def _rows_of_leading_images(batch: Batch, prefix_length: int) -> tuple[Tensor, bool]:
    """Return (for each image a row that begins with it, whether computing the prefixes first saves work)."""
    begins = bool((batch.input_ids[:, 0] == IMAGE_ID).all())
    # Something must follow the prefix in every row: its hidden state gives the logits.
    if not begins or int(batch.attention_mask.sum(1).min()) <= prefix_length:
        return batch.image_index, False
    index = _leading_image_index(batch)
    num_images = len(batch.pixel_values)
    if len(index) <= num_images:
        return index, False
    # An image that no row begins with keeps row 0: its prefix is computed, and not used.
    first = torch.zeros(num_images, dtype=torch.long, device=index.device)
    first.scatter_(0, index, torch.arange(len(index), device=index.device))
    return first, True
