"""The graphs of an export: the encoder with its mapper, token embeddings, and a language model with its cache."""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.export import Dim
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from prefixvlm.lm.causal import CausalLM
from prefixvlm.model.prefix_lm import PrefixLM


@dataclass(frozen=True)
class Graph:
    """A module to trace.

    part: what it is, for error messages. examples: inputs of two different sizes, the first to trace, the second to
    compare. dynamic: the dynamic dimensions of each input. names: of the inputs and of the outputs, lists flattened.
    """

    part: str
    module: nn.Module
    examples: tuple[tuple[Any, ...], ...]
    dynamic: tuple[Any, ...]
    input_names: list[str]
    output_names: list[str]


class ImageGraph(nn.Module):
    """pixel_values: float[B, 3, H, W] -> prefix_embeds: float[B, P, E]."""

    def __init__(self, model: PrefixLM) -> None:
        super().__init__()
        self.encoder, self.mapper = model.encoder, model.mapper

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.mapper(self.encoder(pixel_values))


class EmbedGraph(nn.Module):
    """input_ids: int64[S, T] -> inputs_embeds: float[S, T, E]."""

    def __init__(self, lm: CausalLM) -> None:
        super().__init__()
        self.embedding = lm.model.get_input_embeddings()

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.embedding(input_ids)


class TextGraph(nn.Module):
    """A language model that reads T positions after those of its cache.

    With an empty cache it reads prompts, and with T = 1 it takes a decoding step: both are the same computation, and
    in one graph the weights are stored once.
    """

    def __init__(self, lm: CausalLM) -> None:
        super().__init__()
        self.model, self.head, self.config = lm.model.base_model, lm.head, lm.model.config

    def forward(self, inputs_embeds: Tensor, lengths: Tensor, past_mask: Tensor, past: list[Tensor]) -> tuple[Any, ...]:
        """Return the logits after the last position, the mask of the new cache, and its keys and values.

        inputs_embeds: float[S, T, E], right-padded. lengths: int64[S], the positions that are not padding.
        past_mask: bool[S, past], False on padding. past: keys and values of each layer, float[S, heads, past, D].
        Returns float[S, V], bool[S, past + T] and 2 * layers of float[S, heads, past + T, D].
        """
        num = inputs_embeds.shape[1]
        place = torch.arange(num, device=inputs_embeds.device)
        new_mask = place < lengths[:, None]
        mask = torch.cat([past_mask, new_mask], 1)
        # Padding takes a place in the cache, but no position.
        positions = past_mask.sum(1, keepdim=True) + place
        causal = (place <= place[:, None]) & new_mask[:, None, :]
        before = past_mask[:, None, :].expand(-1, num, -1)
        allowed = torch.cat([before, causal], 2)[:, None]
        cache = DynamicCache(config=self.config)
        for number in range(len(past) // 2):
            cache.update(past[2 * number], past[2 * number + 1], number)
        hidden = self.model(
            inputs_embeds=inputs_embeds, attention_mask=allowed, position_ids=positions, past_key_values=cache,
            use_cache=True,
        ).last_hidden_state  # fmt: skip
        last = hidden.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, hidden.shape[2]))[:, 0]
        layers: list[Any] = cache.layers
        present = [each for layer in layers for each in (layer.keys, layer.values)]
        return (self.head(last), mask, *present)


def graphs_of(model: PrefixLM) -> dict[str, Graph]:
    """Return the graphs by the names of their files. Raises ValueError for a language model that has none."""
    lm = causal(model)
    height, width = _image_size(model)
    images = tuple((torch.rand(num, 3, height, width),) for num in (2, 3))
    num_images, rows, length, past = Dim("images", min=1), Dim("rows", min=1), Dim("length", min=1), Dim("past", min=0)
    ids = tuple((torch.randint(0, lm.eos_id or 1, size),) for size in ((2, 5), (3, 4)))
    shapes = cache_shapes(lm)
    texts = tuple(_text_inputs(lm, shapes, *size) for size in ((3, 5, 4), (2, 1, 7)))
    encoder = f"encoder {type(model.encoder).__name__} with mapper {type(model.mapper).__name__}"
    name = f"lm {type(lm.model).__name__}"
    of_cache = [{0: rows, 2: past} for _ in range(2 * len(shapes))]
    return {
        "image": Graph(
            encoder, ImageGraph(model), images, ({0: num_images},), ["pixel_values"], ["prefix_embeds"]
        ),
        "embed": Graph(
            name, EmbedGraph(lm), ids, ({0: rows, 1: length},), ["input_ids"], ["inputs_embeds"]
        ),
        "text": Graph(
            name, TextGraph(lm), texts, ({0: rows, 1: length}, {0: rows}, {0: rows, 1: past}, of_cache),
            ["inputs_embeds", "lengths", "past_mask", *cache_names(len(shapes), "past")],
            ["logits", "mask", *cache_names(len(shapes), "present")],
        ),
    }  # fmt: skip


def cache_names(num_layers: int, prefix: str) -> list[str]:
    return [f"{prefix}.{number}.{kind}" for number in range(num_layers) for kind in ("key", "value")]


@torch.no_grad()
def cache_shapes(lm: CausalLM) -> list[tuple[int, int]]:
    """Return heads and width of the keys and values of each layer. Raises ValueError if they differ or slide."""
    cache = DynamicCache(config=lm.model.config)
    lm.hidden(
        torch.zeros(1, 1, lm.width), torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.long), cache
    )
    layers: list[Any] = cache.layers
    if any(not _is_plain(layer) or layer.keys.shape != layer.values.shape for layer in layers):
        raise ValueError(
            f"lm {type(lm.model).__name__} has a cache of another kind than keys and values of all positions"
        )
    return [(layer.keys.shape[1], layer.keys.shape[3]) for layer in layers]


def _is_plain(layer: Any) -> bool:
    return type(layer) is DynamicLayer


def causal(model: PrefixLM) -> CausalLM:
    """Return the language model. Raises ValueError, naming it, if the graphs cannot express it."""
    lm = model.lm
    name = f"lm {type(lm.model).__name__}"
    if not isinstance(lm, CausalLM):
        raise ValueError(f"{name} is no decoder-only language model, and the graphs are of one; export --to hub")
    if not lm.takes_positions:
        raise ValueError(f"{name} takes no position_ids, which the graphs pass; export --to hub")
    if lm.window is not None:
        raise ValueError(f"{name} has a sliding attention window, which the graphs do not have; export --to hub")
    return lm


def _image_size(model: PrefixLM) -> tuple[int, int]:
    pixel_values = model.encoder.transform(Image.new("RGB", (97, 83)))
    return int(pixel_values.shape[1]), int(pixel_values.shape[2])


def _text_inputs(lm: CausalLM, shapes: list[tuple[int, int]], rows: int, length: int, past: int) -> tuple[Any, ...]:
    """Return random inputs of TextGraph with padding in the cache and in the new positions."""
    lengths = torch.randint(1, length + 1, (rows,))
    mask = torch.arange(past) < torch.randint(1, past + 1, (rows, 1))
    cache = [torch.randn(rows, heads, past, width) for heads, width in shapes for _ in range(2)]
    return torch.randn(rows, length, lm.width), lengths, mask, cache
