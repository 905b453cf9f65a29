"""Naive reference loops: one row, no cache, no padding, the whole text at each step."""

from collections.abc import Sequence

import torch

from prefixvlm.batch import Row
from prefixvlm.data.tokenization import continuation_ids
from prefixvlm.model.prefix_lm import PrefixLM
from tests.conftest import collator_of


@torch.no_grad()
def embeds_of(model: PrefixLM, row: Row) -> torch.Tensor:
    return model.inputs_embeds(collator_of(model, chat=model.lm.chat)([row], supervised=False))


@torch.no_grad()
def next_logits(model: PrefixLM, embeds: torch.Tensor, text: Sequence[int] = ()) -> torch.Tensor:
    """Return the logits after the prompt's embeddings and the ids of `text`, by the Hugging Face forward."""
    lm = model.lm
    if lm.encodes_prompts:
        return lm.model(inputs_embeds=embeds, decoder_input_ids=torch.tensor([[lm.first_id, *text]])).logits[0, -1]
    text_embeds = lm.embed(torch.tensor([list(text)], dtype=torch.long))
    return lm.model(inputs_embeds=torch.cat([embeds, text_embeds], 1)).logits[0, -1]


def greedy(model: PrefixLM, row: Row, num: int) -> list[int]:
    embeds = embeds_of(model, row)
    text: list[int] = []
    for _ in range(num):
        token = int(next_logits(model, embeds, text).argmax())
        if token == model.lm.eos_id:
            break
        text.append(token)
    return text


def constrained_greedy(model: PrefixLM, row: Row, answers: list[list[int]]) -> list[int]:
    """Return the ids of greedy decoding within the answers: at each step the most probable allowed token."""
    embeds = embeds_of(model, row)
    text: list[int] = []
    while True:
        beginnings = [[*answer, model.lm.eos_id] for answer in answers if answer[: len(text)] == text]
        allowed = sorted({answer[len(text)] for answer in beginnings})
        logits = next_logits(model, embeds, text)
        token = max(allowed, key=lambda id: float(logits[id]))
        if token == model.lm.eos_id:
            return text
        text.append(token)


def log_likelihood(model: PrefixLM, row: Row, ids: list[int], normalize_length: bool = False) -> float:
    """Return the log-likelihood of the tokens and of an EOS after them."""
    embeds = embeds_of(model, row)
    total = 0.0
    for place, token in enumerate([*ids, model.lm.eos_id]):
        total += float(next_logits(model, embeds, ids[:place]).log_softmax(-1)[token])
    return total / (len(ids) + 1) if normalize_length else total


def likelihoods(model: PrefixLM, row: Row, answers: list[str], normalize_length: bool = False) -> list[float]:
    """Return the log-likelihood of each answer as a continuation of the row's text."""
    ids = [continuation_ids(model.lm.tokenizer, row.text, " " + answer) for answer in answers]
    return [log_likelihood(model, row, each, normalize_length) for each in ids]


@torch.no_grad()
def make_images_count(model: PrefixLM, factor: float = 20) -> PrefixLM:
    """Scale the mapper's weights up; with initial ones, images would hardly change the output."""
    model.mapper.linear.weight.mul_(factor)
    return model
