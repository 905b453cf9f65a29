"""Language models as the text model and the head of LLaVA, with a token more for images."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from prefixvlm.lm.causal import CausalLM
from prefixvlm.lm.interface import LanguageModel

IMAGE_TOKEN = "<image>"


@dataclass(frozen=True)
class TextModel:
    """config: of transformers' base model. state: its tensors. head: float[V, E]. image_id: of IMAGE_TOKEN."""

    config: PreTrainedConfig
    state: dict[str, Tensor]
    head: Tensor
    image_id: int


def text_model(lm: LanguageModel) -> TextModel:
    """Return the language model with a row for the image token. Raises ValueError if LLaVA cannot express it."""
    kind = type(lm.model).__name__
    if not isinstance(lm, CausalLM):
        raise ValueError(f"the language model is a {kind}, and LLaVA's is a decoder alone, as GPT-2 and Llama")
    if getattr(lm.model, "is_quantized", False):
        raise ValueError("the language model is quantized: train with lm.quantization=null")
    head = lm.head
    if not isinstance(head, nn.Linear) or head.bias is not None:
        raise ValueError(f"the language model is a {kind}, whose head has a bias, and LLaVA's has none")
    if not type(lm.model)._supports_sdpa:
        raise ValueError(f"the language model is a {kind}, whose attention transformers has not for LLaVA (sdpa)")
    config = copy.deepcopy(lm.model.config)
    config.name_or_path = ""  # a path of this machine
    widths = {config.hidden_size, lm.width, head.in_features}
    if len(widths) > 1:
        raise ValueError(f"the language model is a {kind} with widths {sorted(widths)}, and LLaVA's has one width")
    state = dict(lm.model.base_model.state_dict())
    embeddings = lm.model.get_input_embeddings().weight.data_ptr()
    embedding = next(name for name, value in state.items() if value.data_ptr() == embeddings)
    image_id = lm.tokenizer.get_vocab().get(IMAGE_TOKEN, len(lm.tokenizer))
    tied = head.weight.data_ptr() == embeddings
    state[embedding] = _with_row(state[embedding], image_id)
    config.vocab_size = len(state[embedding])
    # LLaVA ties its head to an embedding of this name alone.
    config.tie_word_embeddings = tied and embedding == "embed_tokens.weight"
    # Otherwise a copy: of two tensors that share memory, save_pretrained would leave one out.
    rows = state[embedding] if config.tie_word_embeddings else _with_row(head.weight.detach().clone(), image_id)
    return TextModel(config, state, rows, image_id)


def _with_row(rows: Tensor, number: int) -> Tensor:
    """Return float[V, E] with row `number`.

    New rows are the mean, whose logit is the mean of all logits and thus never the largest: an image token is never
    the next token of a greedy text.
    """
    missing = number + 1 - len(rows)
    if missing <= 0:
        return rows
    return torch.cat([rows, rows.float().mean(0, keepdim=True).to(rows.dtype).expand(missing, -1)])
