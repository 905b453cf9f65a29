"""Greedy decoding, nucleus sampling and beam search with a KV cache."""

from collections.abc import Callable, Iterator
from typing import Annotated

import torch
from torch import Tensor

from prefixvlm.batch import Batch
from prefixvlm.model.decoder_state import DecoderState
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.options.ranges import Positive, PositiveFloat, Range, Seed

TopP = Annotated[float, Range(0, 1, above=True)]
ChooseTokens = Callable[[Tensor, list[int], list[list[int]]], Tensor]  # (logits, their rows, texts of all rows) -> ids


@torch.no_grad()
def greedy(model: PrefixLM, batch: Batch, max_new_tokens: Positive = 32) -> list[list[int]]:
    """Return the ids of the most probable token at each step, without the EOS."""
    return decode_stepwise(DecoderState.from_prompts(model, batch), most_probable, max_new_tokens)


def most_probable(logits: Tensor, rows: list[int], texts: list[list[int]]) -> Tensor:
    return logits.argmax(-1)


@torch.no_grad()
def nucleus(
    model: PrefixLM,
    batch: Batch,
    max_new_tokens: Positive = 32,
    top_p: TopP = 0.9,
    temperature: PositiveFloat = 1.0,
    num_samples: Positive = 1,
    seed: Seed = 0,
) -> list[list[int]]:
    """Sample from the smallest set of tokens whose probability reaches top_p (Holtzman et al. 2020).

    Returns num_samples texts per row, those of one row next to each other.
    """
    state = DecoderState.from_prompts(model, batch)
    state.reorder(torch.arange(len(state.lengths), device=state.lengths.device).repeat_interleave(num_samples))
    return decode_stepwise(state, sampler(state.logits.device, top_p, temperature, seed), max_new_tokens)


def sampler(device: torch.device, top_p: float = 0.9, temperature: float = 1.0, seed: int = 0) -> ChooseTokens:
    """Return a function that samples tokens; see nucleus."""
    if not 0 < top_p <= 1 or temperature <= 0:
        raise ValueError(
            f"top_p is {top_p} and temperature {temperature}; accepted are 0 < top_p <= 1, temperature > 0"
        )
    # A generator of its own: sampling in validation must not advance the training's random numbers.
    generator = torch.Generator(device).manual_seed(seed)

    def sample(logits: Tensor, rows: list[int], texts: list[list[int]]) -> Tensor:
        probabilities, ids = (logits / temperature).softmax(-1).sort(-1, descending=True)
        # A token stays if the more probable ones have not reached top_p yet, so the first always stays.
        probabilities[probabilities.cumsum(-1) - probabilities >= top_p] = 0
        return ids.gather(1, torch.multinomial(probabilities, 1, generator=generator))[:, 0]

    return sample


def decode_stepwise(state: DecoderState, choose: ChooseTokens, max_new_tokens: int) -> list[list[int]]:
    """Append a chosen token per row and step until each row has chosen EOS; finished rows are dropped."""
    texts: list[list[int]] = [[] for _ in range(len(state.lengths))]
    for _ in steps(state, choose, max_new_tokens, texts):
        pass
    return texts


@torch.no_grad()
def steps(state: DecoderState, choose: ChooseTokens, max_new_tokens: int, texts: list[list[int]]) -> Iterator[None]:
    """Decode as decode_stepwise does, and yield after each step. texts: of all rows, to which tokens are appended."""
    active = torch.arange(len(texts), device=state.lengths.device)
    for step in range(max_new_tokens):
        ids = choose(state.logits, active.tolist(), texts)
        running = ids != state.model.lm.eos_id
        active, ids = active[running], ids[running]
        for row, token in zip(active.tolist(), ids.tolist(), strict=True):
            texts[row].append(token)
        yield
        # The logits after the last token would not be used.
        if not len(active) or step == max_new_tokens - 1:
            break
        state.step(ids, running.nonzero()[:, 0])


def stream_greedy(model: PrefixLM, batch: Batch, max_new_tokens: int = 32) -> Iterator[list[int]]:
    """Yield the ids so far of the only row of a batch, after each step of `greedy`."""
    return _stream(DecoderState.from_prompts(model, batch), most_probable, max_new_tokens)


def stream_nucleus(
    model: PrefixLM, batch: Batch, max_new_tokens: int = 32, top_p: float = 0.9, temperature: float = 1.0, seed: int = 0
) -> Iterator[list[int]]:
    """Yield the ids so far of the only row of a batch, after each step of `nucleus`."""
    state = DecoderState.from_prompts(model, batch)
    return _stream(state, sampler(state.logits.device, top_p, temperature, seed), max_new_tokens)


def _stream(state: DecoderState, choose: ChooseTokens, max_new_tokens: int) -> Iterator[list[int]]:
    texts: list[list[int]] = [[]]
    for _ in steps(state, choose, max_new_tokens, texts):
        yield texts[0]


@torch.no_grad()
def beam(
    model: PrefixLM, batch: Batch, max_new_tokens: Positive = 32, num_beams: Positive = 5, length_penalty: float = 1.0
) -> list[list[int]]:
    """Beam search: the text with the greatest log-likelihood over (its length with EOS) ** length_penalty."""
    return [texts[0] for texts in beams(model, batch, max_new_tokens, num_beams, length_penalty)]


@torch.no_grad()
def beams(
    model: PrefixLM, batch: Batch, max_new_tokens: int = 32, num_beams: int = 5, length_penalty: float = 1.0
) -> list[list[list[int]]]:
    """Return the ids of all texts that `beam` has found for each row, at most num_beams, the best first."""
    state = DecoderState.from_prompts(model, batch)
    lm, k = model.lm, num_beams
    device, num_rows = state.logits.device, len(state.lengths)
    texts: list[list[list[int]]] = [[] for _ in range(num_rows)]
    active = torch.arange(num_rows, device=device)
    running = torch.zeros(num_rows, 1, device=device)  # log-likelihoods: [n, 1] first, then [n, k]
    running_ids = torch.zeros(num_rows, 1, 0, dtype=torch.long, device=device)
    finished = torch.full((num_rows, k), -torch.inf, device=device)
    finished_ids = torch.full((num_rows, k, max_new_tokens), lm.eos_id, device=device)
    for length in range(1, max_new_tokens + 1):
        # 2k candidates: of these at most k end with EOS, so k beams are left to go on.
        scores, origin, tokens = _extend(running, state.logits, 2 * k)
        ids = torch.cat([running_ids.gather(1, origin[..., None].expand(-1, -1, length - 1)), tokens[..., None]], -1)
        ends = (tokens == lm.eos_id) | (length == max_new_tokens)
        # Only the best k candidates may end, as in transformers.
        ended = (scores / length**length_penalty).masked_fill(~ends, -torch.inf)[:, :k]
        padded = torch.nn.functional.pad(ids[:, :k], (0, max_new_tokens - length), value=lm.eos_id)
        finished, best = torch.cat([finished, ended], 1).topk(k)
        finished_ids = torch.cat([finished_ids, padded], 1).gather(1, best[..., None].expand(-1, -1, max_new_tokens))
        running, order = scores.masked_fill(ends, -torch.inf).topk(k)
        # transformers' early_stopping=False: a row is done if no beam can beat its worst text at the present length.
        done = (running[:, 0] / length**length_penalty <= finished[:, -1]) | ends.all(1)
        found = finished.isfinite().sum(1)  # less than k if the vocabulary or the length is very small
        for row, number, best_ids in zip(*(each[done].tolist() for each in (active, found, finished_ids)), strict=True):
            texts[row] = [before_eos(ids, lm.eos_id) for ids in best_ids[:number]]
        if bool(done.all()):
            break
        stay = (~done).nonzero()[:, 0]
        beams_before = origin.gather(1, order)[stay] + stay[:, None] * (len(state.lengths) // len(active))
        next_ids = tokens.gather(1, order)[stay]
        running_ids = ids.gather(1, order[..., None].expand(-1, -1, length))[stay]
        running, finished, finished_ids, active = running[stay], finished[stay], finished_ids[stay], active[stay]
        state.step(next_ids.flatten(), beams_before.flatten())
    return texts


def _extend(running: Tensor, logits: Tensor, num: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best `num` one-token extensions of each row's beams: (log-likelihoods, beams, tokens), each [n, num].

    running: float[n, b]; logits: float[n * b, V].
    """
    n, b = running.shape
    # The best of a row are among the best of each of its beams.
    best, tokens = logits.topk(min(num, logits.shape[1]))
    best = (best - logits.logsumexp(-1, keepdim=True)).view(n, b, -1) + running[..., None]
    scores, flat = best.flatten(1).topk(min(num, b * best.shape[2]))
    return scores, flat // best.shape[2], tokens.view(n, -1).gather(1, flat)


def before_eos(ids: list[int], eos_id: int) -> list[int]:
    """Return the ids before the first EOS, or all if there is none."""
    return ids[: ids.index(eos_id)] if eos_id in ids else ids
