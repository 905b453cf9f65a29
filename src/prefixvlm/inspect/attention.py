"""Attention of the tokens of a text to the prefix, by layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prefixvlm.batch import IGNORE_INDEX, IMAGE_ID
from prefixvlm.inspect.target import Target
from prefixvlm.lm.seq2seq import Seq2SeqLM


@dataclass(frozen=True)
class Attention:
    """Attention of T tokens, the mean over heads: float32 on the CPU.

    prefix: [layers, T, P]. prompt, text: [layers, T], the shares of all other tokens of the prompt, and of the text
    so far. All of them sum to 1. crossed: of an encoder-decoder, whose decoder attends to its text separately.
    """

    prefix: Tensor
    prompt: Tensor
    text: Tensor
    crossed: bool


@torch.no_grad()
def attention(target: Target) -> Attention:
    """Return the attention at the positions that predict the tokens of a target.

    Raises ValueError for a class, which no position of a text predicts, and for a model without attention weights.
    """
    lm, batch = target.model.lm, target.batch
    if not target.has_text:
        raise ValueError("a head predicts the class, and no token is said whose attention could be shown")
    embeds, number = target.model.inputs_embeds(batch), len(target.tokens)
    is_target = batch.labels[0] != IGNORE_INDEX
    is_image = batch.input_ids[0] == IMAGE_ID
    with eager_attention(lm.model):
        if isinstance(lm, Seq2SeqLM):
            ids = batch.labels[:, is_target]
            inputs = torch.cat([torch.full_like(ids[:, :1], lm.first_id), ids[:, :-1]], 1)
            output = lm.model.base_model(
                inputs_embeds=embeds[:, ~is_target], decoder_inputs_embeds=lm.embed(inputs), output_attentions=True
            )
            weights, is_image = _stack(output.cross_attentions)[:, :number], is_image[~is_target]
        else:
            output = lm.model.base_model(inputs_embeds=embeds, output_attentions=True, use_cache=False)
            # The state one position before a token predicts it.
            predicting = is_target.nonzero().flatten()[:number] - 1
            weights = _stack(output.attentions)[:, predicting]
    is_text = torch.zeros_like(is_image) if lm.encodes_prompts else is_target
    return Attention(
        weights[..., is_image].cpu(),
        weights[..., ~is_image & ~is_text].sum(-1).cpu(),
        weights[..., is_text].sum(-1).cpu(),
        lm.encodes_prompts,
    )


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within the block attention is computed by code that returns its weights. Raises ValueError if there is none."""
    # SDPA and flash attention never hold the weights. Compiled blocks would be compiled again.
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation("eager")
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        model.set_attn_implementation(before)


def _stack(layers: tuple[Tensor | None, ...] | None) -> Tensor:
    """Return the mean over heads: tensors [1, heads, N, M] -> float32[layers, N, M]."""
    found = [each[0].float().mean(0) for each in layers or () if each is not None]
    if not found:
        raise ValueError("this language model returns no attention weights")
    return torch.stack(found)
