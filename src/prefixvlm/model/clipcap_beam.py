"""A model and a batch of prompts go in; the token ids that ClipCap's own beam search says next come out."""

import torch

from prefixvlm.batch import Batch
from prefixvlm.model.decoder_state import DecoderState
from prefixvlm.model.prefix_lm import PrefixLM


@torch.no_grad()
def clipcap_beam(model: PrefixLM, batch: Batch, max_new_tokens: int = 67, num_beams: int = 5) -> list[list[int]]:
    """ClipCap's beam search (Mokady et al. 2021, released code): whatever has ended goes on competing.

    At each step the num_beams texts with the greatest mean log-probability a token stay, the EOS counted; one that has
    ended keeps its mean. A row is finished when all its texts have ended. To compare with `beam`: there only running
    texts compete for the beams, by their sum, and those that have ended wait beside them.
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
        # The state holds the running texts alone. The best k of all are among the best k of each.
        best, tokens = state.logits.log_softmax(-1).topk(min(num_beams, state.logits.shape[1]))
        running, width = ~ended, best.shape[1]
        scores = totals.new_full((*totals.shape, width), -torch.inf)
        scores[..., 0] = totals
        scores[running] = totals[running][:, None] + best
        following = ids.new_full(scores.shape, eos)
        following[running] = tokens
        lengths = lengths + running
        candidates = (scores / lengths[..., None]).flatten(1)
        means, chosen = candidates.topk(min(num_beams, candidates.shape[1]))
        origin = chosen // width
        said = following.flatten(1).gather(1, chosen)
        place = running.flatten().cumsum(0).view_as(running) - 1  # of each running text in the state
        place, lengths = place.gather(1, origin), lengths.gather(1, origin)
        totals = means * lengths
        ids = torch.cat([ids.gather(1, origin[..., None].expand(-1, -1, length - 1)), said[..., None]], -1)
        ended = ended.gather(1, origin) | (said == eos)
        done = ended.all(1) | torch.tensor(length == max_new_tokens, device=device)
        first = means.argmax(1)
        for row, text in zip(active[done].tolist(), ids[done, first[done]].tolist(), strict=True):
            texts[row] = text[: text.index(eos)] if eos in text else text
        if bool(done.all()):
            break
        going_on = ~ended & ~done[:, None]
        state.step(said[going_on], place[going_on])
        stay = ~done
        active, totals, lengths, ended, ids = active[stay], totals[stay], lengths[stay], ended[stay], ids[stay]
    return texts
