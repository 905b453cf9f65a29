"""Constrained decoding and scoring: greedy within a closed list or a grammar, and log-likelihoods of answers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from prefixvlm.batch import Batch
from prefixvlm.model.decoder_state import DecoderState
from prefixvlm.model.decoding import decode_stepwise
from prefixvlm.model.grammar import Grammar
from prefixvlm.model.prefix_lm import PrefixLM


class Trie:
    """A prefix tree of answers as token ids, each ended by the EOS. depth: the greatest length, with EOS."""

    def __init__(self, answers: Sequence[Sequence[int]], eos_id: int) -> None:
        if not answers or not all(answers):
            raise ValueError("decoding constrained to a list needs answers of at least one token each")
        self.depth = max(map(len, answers)) + 1
        # The EOS is a continuation like any other, so that "circle" and "circles" are both possible.
        self._following: dict[tuple[int, ...], dict[int, None]] = {}
        for answer in answers:
            ids = (*answer, eos_id)
            for length, token in enumerate(ids):
                self._following.setdefault(ids[:length], {})[token] = None

    def following(self, beginning: Sequence[int]) -> list[int]:
        """Return the ids that may follow a beginning of an answer."""
        return list(self._following[tuple(beginning)])


@torch.no_grad()
def constrained_greedy(model: PrefixLM, batch: Batch, tries: Sequence[Trie | Grammar]) -> list[list[int]]:
    """Greedy decoding within a list or a grammar: at each step the most probable of the ids that may follow.

    tries: one for each of the S rows. Returns the ids of the texts, without the EOS.
    """
    return constrained_greedy_with_logprobs(model, batch, tries)[0]


@torch.no_grad()
def constrained_greedy_with_logprobs(
    model: PrefixLM, batch: Batch, tries: Sequence[Trie | Grammar]
) -> tuple[list[list[int]], list[list[float]]]:
    """As constrained_greedy, with the log-probability of each token among the allowed ones; that of the EOS is last."""
    logprobs: list[list[float]] = [[] for _ in tries]

    def choose(logits: Tensor, rows: list[int], texts: list[list[int]]) -> Tensor:
        allowed = torch.full_like(logits, -torch.inf)
        for place, row in enumerate(rows):
            allowed[place, tries[row].following(texts[row])] = 0
        # Normalized over the allowed ids alone: task.detection takes these as the confidence of a box.
        best, ids = (logits + allowed).log_softmax(-1).max(-1)
        for row, value in zip(rows, best.tolist(), strict=True):
            logprobs[row].append(value)
        return ids

    texts = decode_stepwise(DecoderState.from_prompts(model, batch), choose, max(trie.depth for trie in tries))
    return texts, logprobs


@torch.no_grad()
def score_answers(
    model: PrefixLM, batch: Batch, answers: Sequence[Sequence[int]], normalize_length: bool = False
) -> Tensor:
    """Return the log-likelihood of each answer, EOS included, after each prompt: float32[S, A].

    answers: A lists of token ids. normalize_length: return the mean over the tokens of an answer, not the sum.
    """
    if not answers or not all(answers):
        raise ValueError("score_answers needs a list of answers of at least one token each")
    state = DecoderState.from_prompts(model, batch)
    lm, num_rows = model.lm, len(state.lengths)
    device = state.logits.device
    width = max(map(len, answers))
    state.check_room(width)
    ids = torch.tensor([[*answer, *[lm.pad_id] * (width - len(answer))] for answer in answers], device=device)
    lengths = torch.tensor([len(answer) for answer in answers], device=device)
    real = torch.arange(width, device=device) < lengths[:, None]
    next_ids = torch.cat([ids[:, 1:], ids.new_full((len(ids), 1), lm.eos_id)], 1)
    next_ids[torch.arange(len(ids), device=device), lengths - 1] = lm.eos_id
    total = state.logits.log_softmax(-1)[:, ids[:, 0]]
    # Each prompt is computed once; its cache is repeated for the answers, which are appended in one pass.
    rows = torch.arange(num_rows, device=device).repeat_interleave(len(ids))
    state.reorder_cache(rows)
    hidden = state.append(ids.repeat(num_rows, 1), real.repeat(num_rows, 1)).view(num_rows, len(ids), width, -1)
    # By position: logits of all positions at once would take `width` times the memory.
    for position in range(width):
        has_token = real[:, position]
        log_p = lm.logits(hidden[:, has_token, position]).log_softmax(-1)
        total[:, has_token] += log_p.gather(2, next_ids[has_token, position].expand(num_rows, -1)[..., None])[..., 0]
    return total / (lengths + 1) if normalize_length else total
