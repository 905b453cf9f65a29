"""Keys and values of S texts go in as a language model reads on; those of any selection of the texts come out."""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM = 32  # positions to spare in a new buffer


class BufferedLayer(DynamicLayer):
    """A layer's keys and values in buffers with room to spare: for a new token the others are not copied.

    keys, values: what is in use of the buffers, float[S, heads, past, width]; transformers reads them.
    """

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        past, num = self.get_seq_length(), key_states.shape[2]
        states = (key_states, value_states)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.buffers = [_buffer(new, len(new), num) for new in states]
        elif past + num > self.buffers[0].shape[2]:
            old = self.buffers
            self.buffers = [_buffer(new, len(new), past + num) for new in states]
            for buffer, values in zip(self.buffers, old, strict=True):
                buffer[:, :, :past] = values[: len(buffer), :, :past]
        for buffer, new in zip(self.buffers, states, strict=True):
            buffer[: len(new), :, past : past + num] = new
        return self._use(len(key_states), past + num)

    def reorder(self, rows: Tensor, whole: Tensor, tail: Tensor, shared: int) -> None:
        """Put rows[i] at place i for the places in `whole`, and its positions from `shared` on for those in `tail`."""
        if not self.is_initialized:
            return
        past = self.get_seq_length()
        for i, old in enumerate(self.buffers):
            all_past, new_past = old[rows[whole], :, :past], old[rows[tail], :, shared:past]
            new = old if len(rows) <= len(old) else _buffer(old, len(rows), past)
            new[whole, :, :past] = all_past
            new[tail, :, shared:past] = new_past
            self.buffers[i] = new
        self._use(len(rows), past)

    def _use(self, num_rows: int, past: int) -> tuple[Tensor, Tensor]:
        keys, values = (buffer[:num_rows, :, :past] for buffer in self.buffers)
        self.keys, self.values = keys, values
        return keys, values


def _buffer(like: Tensor, num_rows: int, num_positions: int) -> Tensor:
    return like.new_empty(num_rows, like.shape[1], num_positions + ROOM, like.shape[3])


class DecoderCache(DynamicCache):
    """The cache of a language model that can drop, repeat and reorder its texts.

    Texts that stem from one prompt hold the same keys and values for it, so where they change places (beams do at every
    step) only what came after the prompt is copied.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config=config)
        # Layers of other kinds (sliding windows, linear attention) stay transformers' own.
        self.layers = [BufferedLayer() if type(layer) is DynamicLayer else layer for layer in self.layers]
        self.shared = 0
        self.prompts: Tensor | None = None

    def mark_prompt_end(self, prompts: Tensor) -> None:
        """What was read so far are the prompts; prompts: bool[S, T], their mask."""
        self.shared = prompts.shape[1]
        self.prompts = torch.arange(len(prompts), device=prompts.device)

    def reorder(self, rows: Tensor) -> None:
        """Go on with these rows, in this order, any number of times each; rows: int[S']."""
        places = torch.arange(len(rows), device=rows.device)
        if self.prompts is None or len(rows) > len(self.prompts):
            whole, tail = places, places[:0]
        else:
            moved, strange = rows != places, self.prompts[rows] != self.prompts[: len(rows)]
            whole, tail = places[moved & strange], places[moved & ~strange]
        if self.prompts is not None:
            self.prompts = self.prompts[rows]
        for layer in self.layers:
            if isinstance(layer, BufferedLayer):
                layer.reorder(rows, whole, tail, self.shared)
            else:
                layer.reorder_cache(rows)  # type: ignore[arg-type]


class Seq2SeqCache(EncoderDecoderCache):
    """The cache of a decoder: of the texts that it says, and of the prompts that an encoder read for it."""

    self_attention_cache: DecoderCache
    cross_attention_cache: DecoderCache

    def __init__(self, config: PreTrainedConfig, prompts: Tensor) -> None:
        """prompts: bool[S, T], their mask."""
        super().__init__(DecoderCache(config), DecoderCache(config))
        self.cross_attention_cache.mark_prompt_end(prompts)

    def mark_prompt_end(self, first: Tensor) -> None:
        """What was read so far is what every text begins with; first: bool[S, n]."""
        self.self_attention_cache.mark_prompt_end(first)

    def reorder(self, rows: Tensor) -> None:
        """As that of DecoderCache; texts of one prompt change places without a copy of it."""
        self.self_attention_cache.reorder(rows)
        self.cross_attention_cache.reorder(rows)
