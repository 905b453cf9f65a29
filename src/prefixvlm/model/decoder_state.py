"""A model and a batch of prompts go in; a state of them, which any tokens may follow, comes out."""

from dataclasses import dataclass

import torch
from torch import Tensor

from prefixvlm.batch import IMAGE_ID, Batch
from prefixvlm.lm.seq2seq import Seq2SeqLM
from prefixvlm.model.kv_cache import DecoderCache, Seq2SeqCache
from prefixvlm.model.prefix_lm import PrefixLM


@dataclass
class DecoderState:
    """A frozen language model in the middle of S texts.

    cache: keys and values of what was read; mask: bool[S, past], False on padding; lengths: int[S], positions read;
    logits: float32[S, V], of what comes next.
    """

    model: PrefixLM
    cache: DecoderCache | Seq2SeqCache
    mask: Tensor
    lengths: Tensor
    logits: Tensor

    @classmethod
    def from_prompts(cls, model: PrefixLM, batch: Batch) -> "DecoderState":
        """Read the prompts. Where every row begins with an image, each image's prefix is read once for all its rows."""
        embeds = model.inputs_embeds(batch)
        mask, lm = batch.attention_mask, model.lm
        if isinstance(lm, Seq2SeqLM):
            return Seq2SeqDecoderState.from_encoded(model, lm.encode(embeds, mask), mask)
        lengths = mask.sum(1)
        cache = DecoderCache(lm.model.config)
        prefix_length = model.mapper.prefix_length
        first_run, shared = _leading_images(batch, prefix_length)
        start = 0
        if shared:
            start = prefix_length
            positions = torch.arange(start, device=mask.device)[None]
            lm.hidden(embeds[first_run, :start], mask[first_run, :start], positions.expand(len(first_run), -1), cache)
            cache.reorder(_leading_image_index(batch))
        positions = torch.arange(start, embeds.shape[1], device=mask.device).expand(len(mask), -1)
        hidden = lm.hidden(embeds[:, start:], mask, positions, cache)
        cache.mark_prompt_end(mask)
        last = hidden[torch.arange(len(mask), device=mask.device), lengths - 1 - start]
        return cls(model, cache, mask, lengths, lm.logits(last))

    def step(self, ids: Tensor, rows: Tensor) -> None:
        """Go on with these rows, as `reorder` does, and read one more token in each; ids, rows: int[S']."""
        self.reorder_cache(rows)
        self.check_room(1)
        hidden = self.append(ids[:, None], torch.ones_like(ids[:, None], dtype=torch.bool))
        self.logits = self.model.lm.logits(hidden[:, 0])

    def append(self, ids: Tensor, real: Tensor) -> Tensor:
        """Read on; ids: int[S, n]; real: bool[S, n], False on padding -> hidden states: float[S, n, E']."""
        self.mask = torch.cat([self.mask, real], 1)
        positions = self.lengths[:, None] + torch.arange(ids.shape[1], device=ids.device)
        self.lengths = self.lengths + real.sum(1)
        return self._hidden(self.model.lm.embed(ids), positions)

    def _hidden(self, embeds: Tensor, positions: Tensor) -> Tensor:
        return self.model.lm.hidden(embeds, self.mask, positions, self.cache)

    def check_room(self, num_tokens: int) -> None:
        """Raises ValueError if a row has no room for so many more tokens: the language model has no positions there."""
        limit, window = self.model.lm.max_positions, self.model.lm.window
        if limit is not None and self.mask.shape[1] + num_tokens > limit:  # also padding: then look closer
            needed = (int(self.lengths.max()) if window is None else self.mask.shape[1]) + num_tokens
            if needed > limit:
                raise ValueError(
                    f"a prompt and its answer need {needed} positions, images included, and the language model has "
                    f"{limit}; set few_shot.shots, decoding.max_new_tokens or mapper.prefix_length to less"
                )

    def reorder(self, rows: Tensor) -> None:
        """Go on with these rows, in this order, any number of times each; rows: int[S']."""
        self.reorder_cache(rows)
        self.logits = self.logits[rows]

    def reorder_cache(self, rows: Tensor) -> None:
        """As `reorder`, but the logits stay those of the rows before: for whoever reads on."""
        self.cache.reorder(rows)
        self.mask, self.lengths = self.mask[rows], self.lengths[rows]


@dataclass
class Seq2SeqDecoderState(DecoderState):
    """A decoder in the middle of S texts after encoded prompts; mask and lengths are of what it says.

    encoded: float[1, T, E'], for its shape: what is read of it is in the cache; prompts: bool[S, T], its mask.
    """

    encoded: Tensor
    prompts: Tensor

    @classmethod
    def from_encoded(cls, model: PrefixLM, encoded: Tensor, prompts: Tensor) -> "Seq2SeqDecoderState":
        """Read the first id, and with it the prompts: float[S, T, E'], bool[S, T]."""
        lm = model.lm
        assert isinstance(lm, Seq2SeqLM)
        cache = Seq2SeqCache(lm.decoder_config, prompts)
        lengths = prompts.new_zeros(len(prompts), dtype=torch.long)
        state = cls(model, cache, prompts[:, :0], lengths, encoded[:, 0], encoded, prompts)
        first = torch.full_like(lengths, lm.first_id)[:, None]
        hidden = state.append(first, torch.ones_like(first, dtype=torch.bool))
        cache.mark_prompt_end(state.mask)
        state.logits, state.encoded = lm.logits(hidden[:, 0]), encoded[:1]
        return state

    def _hidden(self, embeds: Tensor, positions: Tensor) -> Tensor:
        assert isinstance(self.model.lm, Seq2SeqLM)
        encoded = self.encoded.expand(len(embeds), -1, -1)
        return self.model.lm.decode(embeds, encoded, self.prompts, self.cache)

    def reorder_cache(self, rows: Tensor) -> None:
        super().reorder_cache(rows)
        self.prompts = self.prompts[rows]


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
