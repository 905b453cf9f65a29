"""KV caches that drop, repeat and reorder their texts with little copying."""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM = 32  # spare positions of a new buffer; decoding copies the past once per ROOM tokens


class BufferedLayer(DynamicLayer):
    """Keys and values of a layer, in buffers with spare positions.

    keys, values: views of the used part of the buffers, float[S, heads, past, width]; read by transformers.
    """

    # DynamicLayer concatenates for each token, which copies all keys and values so far.

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
                buffer[:, :, :past] = values[: len(buffer), :, :past]  # a buffer may have rows of dropped texts
        for buffer, new in zip(self.buffers, states, strict=True):
            buffer[: len(new), :, past : past + num] = new
        return self._use(len(key_states), past + num)

    def reorder(self, rows: Tensor, whole: Tensor, tail: Tensor, shared: int) -> None:
        """Copy text rows[i] to place i: all positions for the places in `whole`, those from `shared` on for `tail`."""
        if not self.is_initialized:
            return
        past = self.get_seq_length()
        for i, old in enumerate(self.buffers):
            # Indexing copies, so the sources are complete before the first write to the same buffer.
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
    """KV cache of a decoder."""

    # Texts of one prompt have equal keys and values for it: where they swap places, as beams do at every step, only
    # what follows the prompt is copied.

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config=config)
        # Layers of other kinds (sliding windows, linear attention) stay those of transformers.
        self.layers = [BufferedLayer() if type(layer) is DynamicLayer else layer for layer in self.layers]
        self.shared = 0
        self.prompts: Tensor | None = None

    def mark_prompt_end(self, prompts: Tensor) -> None:
        """Declare all positions so far to be the prompts. prompts: bool[S, T], their mask."""
        self.shared = prompts.shape[1]
        self.prompts = torch.arange(len(prompts), device=prompts.device)

    def reorder(self, rows: Tensor) -> None:
        """Keep these texts, in this order; each may be repeated. rows: int[S']."""
        places = torch.arange(len(rows), device=rows.device)
        if self.prompts is None or len(rows) > len(self.prompts):
            whole, tail = places, places[:0]
        else:
            moved, other_prompt = rows != places, self.prompts[rows] != self.prompts[: len(rows)]
            whole, tail = places[moved & other_prompt], places[moved & ~other_prompt]
        if self.prompts is not None:
            self.prompts = self.prompts[rows]
        for layer in self.layers:
            if isinstance(layer, BufferedLayer):
                layer.reorder(rows, whole, tail, self.shared)
            else:
                layer.reorder_cache(rows)  # type: ignore[arg-type]


class Seq2SeqCache(EncoderDecoderCache):
    """KV cache of an encoder-decoder: self-attention over the texts, cross-attention over the encoded prompts."""

    self_attention_cache: DecoderCache
    cross_attention_cache: DecoderCache

    def __init__(self, config: PreTrainedConfig, prompts: Tensor) -> None:
        """prompts: bool[S, T], mask of the encoded prompts."""
        super().__init__(DecoderCache(config), DecoderCache(config))
        # Cross-attention has keys of the prompts alone, so texts of one prompt swap places without a copy.
        self.cross_attention_cache.mark_prompt_end(prompts)

    def mark_prompt_end(self, prompts: Tensor) -> None:
        """Declare all positions of the decoder so far to be the prompts. prompts: bool[S, n]."""
        self.self_attention_cache.mark_prompt_end(prompts)

    def reorder(self, rows: Tensor) -> None:
        """Keep these texts, in this order; each may be repeated. rows: int[S']."""
        self.self_attention_cache.reorder(rows)
        self.cross_attention_cache.reorder(rows)
