"""ClipCap's own beam search, to reproduce its captions."""

import torch
from torch import Tensor

from prefixvlm.batch import Batch
from prefixvlm.model.decoder_state import DecoderState
from prefixvlm.model.decoding import before_eos
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.options.ranges import Positive


@torch.no_grad()
def clipcap_beam(
    model: PrefixLM, batch: Batch, max_new_tokens: Positive = 67, num_beams: Positive = 5
) -> list[list[int]]:
    """ClipCap's beam search (Mokady et al. 2021, released code): beams compete by their mean log-probability per token.

    Ended beams keep their mean and stay in the competition, until all beams of a row have ended. In `decoding.beam`
    running beams compete by their sum, and ended texts do not take their places.
    """
    state = DecoderState.from_prompts(model, batch)
    eos, device, num_rows = model.lm.eos_id, state.logits.device, len(state.lengths)
    texts: list[list[int]] = [[] for _ in range(num_rows)]
    active = torch.arange(num_rows, device=device)
    totals = torch.zeros(num_rows, 1, device=device)  # log-likelihoods: [n, 1] first, then [n, k]
    lengths = torch.zeros(num_rows, 1, device=device)
    ended = torch.zeros(num_rows, 1, dtype=torch.bool, device=device)
    ids = torch.zeros(num_rows, 1, 0, dtype=torch.long, device=device)
    for length in range(1, max_new_tokens + 1):
        running = ~ended
        lengths = lengths + running  # the EOS counts
        means, origin, tokens = _extend(state.logits, totals, lengths, running, num_beams, eos)
        place = running.flatten().cumsum(0).view_as(running) - 1  # the state has rows for running beams alone
        place, lengths = place.gather(1, origin), lengths.gather(1, origin)
        totals = means * lengths
        ids = torch.cat([ids.gather(1, origin[..., None].expand(-1, -1, length - 1)), tokens[..., None]], -1)
        ended = ended.gather(1, origin) | (tokens == eos)
        done = ended.all(1) | torch.tensor(length == max_new_tokens, device=device)
        first = means.argmax(1)
        for row, text in zip(active[done].tolist(), ids[done, first[done]].tolist(), strict=True):
            texts[row] = before_eos(text, eos)
        if bool(done.all()):
            break
        stay = ~done
        continuing = ~ended & stay[:, None]
        state.step(tokens[continuing], place[continuing])
        active, totals, lengths, ended, ids = active[stay], totals[stay], lengths[stay], ended[stay], ids[stay]
    return texts


def _extend(
    logits: Tensor, totals: Tensor, lengths: Tensor, running: Tensor, num_beams: int, eos_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best beams among the extensions of running beams and the ended ones: (means, beams, tokens), [n, k].

    logits: float[number running, V]; totals, lengths: float[n, b]; running: bool[n, b].
    """
    # The best k of a row are among the best k extensions of each of its beams.
    best, tokens = logits.log_softmax(-1).topk(min(num_beams, logits.shape[1]))
    width = best.shape[1]
    # An ended beam has one extension, by another EOS at no cost.
    scores = totals.new_full((*totals.shape, width), -torch.inf)
    scores[..., 0] = totals
    scores[running] = totals[running][:, None] + best
    extensions = tokens.new_full(scores.shape, eos_id)
    extensions[running] = tokens
    candidates = (scores / lengths[..., None]).flatten(1)
    means, chosen = candidates.topk(min(num_beams, candidates.shape[1]))
    return means, chosen // width, extensions.flatten(1).gather(1, chosen)
