"""What the thread of the model computes: texts with the log-probabilities of their tokens, and rankings."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from prefixvlm.batch import IGNORE_INDEX, AssistantTurn, Row
from prefixvlm.data.tokenization import token_ids
from prefixvlm.inference.captioner import Captioner
from prefixvlm.model.decoding import beams
from prefixvlm.model.generation import STREAMED, stream
from prefixvlm.model.stop import truncate_at_stop
from prefixvlm.task.interface import Task
from prefixvlm.task.rows.closed_set import CHOICES, likelihoods

MAX_POSITIONS = 32_768  # of texts that are ranked at once, each with its prompt: the KV cache must fit in memory
NUM_BEAMS = 8  # texts that are ranked where a task has no list of them


@dataclass(frozen=True)
class Token:
    """A token of a text, its log-probability after the prompt and the tokens before it, and the likeliest instead."""

    text: str
    log_prob: float
    likeliest: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Said:
    """A generated text. num_tokens: of the text. cut: it has as many tokens as were asked for."""

    text: str
    num_prompt_tokens: int
    num_tokens: int
    cut: bool
    tokens: tuple[Token, ...] = ()


def texts(
    model: Captioner, task: Task, prompts: Sequence[Sequence[Row]], num_likeliest: int | None = None
) -> list[Said]:
    """Return the text after each prompt, which has several rows if it is an ensemble.

    num_likeliest: also the tokens, after the first row of a prompt, with so many likeliest of each.
    """
    predictions, firsts = model.predict(task, prompts), [rows[0] for rows in prompts]
    found = [_said(model, task, row, each.prediction) for row, each in zip(firsts, predictions, strict=True)]
    if num_likeliest is None or task.has_head:
        return found
    tokens = _tokens(model, firsts, found, num_likeliest)
    return [replace(said, tokens=each) for said, each in zip(found, tokens, strict=True)]


@torch.no_grad()
def parts(model: Captioner, task: Task, rows: Sequence[Row], with_tokens: bool = False) -> Iterator[str | Said]:
    """Yield the parts of a text as they come and at last the whole; as one part where the task knows it only whole."""
    said, row = "", rows[0]
    if task.decoding["method"] in STREAMED:
        for part in stream(model.module.model, model.batch([row]), task.decoding):
            said += part
            yield part
    else:
        said = model.predict(task, [rows])[0].prediction
        yield said
    whole = _said(model, task, row, said)
    yield replace(whole, tokens=_tokens(model, [row], [whole], 0)[0]) if with_tokens and not task.has_head else whole


def rank(
    model: Captioner, task: Task, rows: Sequence[Row], answers: Sequence[str] | None
) -> list[tuple[str, float, float]]:
    """Return texts with their probabilities and their shares of all of these, the likeliest first.

    answers: the texts; None for the closed list of the task, its classes, or what beam search finds.
    A probability is that of exactly this text and its end after the prompt. Of classes it is the task's own.
    """
    if answers is None and type(task).probabilities is not Task.probabilities:
        shares = task.probabilities(model.predict(task, [rows])[0]) or {}
        found = [(name, share, share) for name, share in shares.items()]
    else:
        answers = answers or _closed_list(task) or _found_by_beams(model, task, model.batch(rows[:1]))
        values = _log_likelihoods(model, rows[0], answers).double()
        found = list(zip(answers, values.exp().tolist(), values.softmax(0).tolist(), strict=True))
    return sorted(found, key=lambda each: -each[2])


def _log_likelihoods(model: Captioner, row: Row, answers: Sequence[str]) -> Tensor:
    batch, space = model.batch([row]), " " if row.text else ""
    longest = max(len(answer.encode()) for answer in answers) + 1  # a token has a byte or more
    size = max(1, MAX_POSITIONS // (batch.input_ids.shape[1] + longest))
    chunks = (answers[first : first + size] for first in range(0, len(answers), size))
    return torch.cat([likelihoods(model.module.model, batch, each, row.text, space=space)[0] for each in chunks])


def _said(model: Captioner, task: Task, row: Row, text: str) -> Said:
    collate, most = model.module.collate, task.decoding.get("max_new_tokens", math.inf)
    num = len(token_ids(model.module.model.lm.tokenizer, _target(row, text)))
    return Said(text, len(collate.tokenize(row, False).ids), num, num >= most)


def _target(row: Row, text: str) -> AssistantTurn:
    return AssistantTurn((" " if row.text else "") + text if text else "")


@torch.no_grad()
def _tokens(model: Captioner, rows: Sequence[Row], said: Sequence[Said], likeliest: int) -> list[tuple[Token, ...]]:
    """Return the tokens of each text, without the EOS, by one pass over prompts and texts."""
    lm, tokenizer = model.module.model.lm, model.module.model.lm.tokenizer
    targets = [replace(row, target=_target(row, each.text)) for row, each in zip(rows, said, strict=True)]
    batch = model.batch(targets, supervised=True)
    for place, each in enumerate(said):
        batch.labels[place, : each.num_prompt_tokens] = IGNORE_INDEX  # the turns before, which training supervises
    embeds = model.module.model.inputs_embeds(batch)
    hidden, ids = lm.supervised_states(embeds, batch.attention_mask, batch.labels)
    log_probs = lm.logits(hidden).log_softmax(-1)
    best = log_probs.topk(likeliest) if likeliest else None
    tokens: list[Token] = []
    for place, id in enumerate(ids.tolist()):
        others: tuple[tuple[str, float], ...] = ()
        if best is not None:
            names = tokenizer.batch_decode([[other] for other in best.indices[place].tolist()])
            others = tuple(zip(names, best.values[place].tolist(), strict=True))
        tokens.append(Token(str(tokenizer.decode([id])), float(log_probs[place, id]), others))
    lengths, first, result = (batch.labels != IGNORE_INDEX).sum(1).tolist(), 0, []
    for length in lengths:
        ends = length and int(ids[first + length - 1]) == lm.eos_id
        result.append(tuple(tokens[first : first + length - bool(ends)]))
        first += length
    return result


def _closed_list(task: Task) -> list[str]:
    closed_set: Any = getattr(task, "closed_set", None)
    return [] if closed_set is None or closed_set.answers == CHOICES else list(closed_set.answers)


def _found_by_beams(model: Captioner, task: Task, batch: Any) -> list[str]:
    most = task.decoding.get("max_new_tokens", 32)
    (found,) = beams(model.module.model, batch, most, NUM_BEAMS)
    decoded = model.module.model.lm.tokenizer.batch_decode(found, skip_special_tokens=True)
    cut = (truncate_at_stop(text.strip(), task.decoding.get("stop", [])) for text in decoded)
    return [text for text in dict.fromkeys(cut) if text]
