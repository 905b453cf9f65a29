"""The lengths of right-padded texts go in; where each goes in fewer and fuller rows, with nothing mixed, comes out."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from prefixvlm.lm.causal import CausalLM


@dataclass
class Packing:
    """S texts of T positions in R rows of C.

    source: int[R, C], which of the S * T positions stands there, 0 where none does. positions: int[R, C], counted from
    0 in each text. place: int[S, T], which of the R * C positions each goes to, meaningless on padding.
    """

    source: Tensor
    positions: Tensor
    place: Tensor

    @classmethod
    def of_mask(cls, mask: Tensor) -> "Packing":
        """mask: bool[S, T], False on padding. Rows are twice as long as the longest text: first fit, longest first."""
        lengths = mask.sum(1)
        longest_first = sorted(enumerate(lengths.tolist()), key=lambda item: -item[1])
        width = 2 * longest_first[0][1]
        filled: list[int] = []
        starts = [0] * len(mask)
        for text, length in longest_first:
            row = next((row for row, used in enumerate(filled) if used + length <= width), len(filled))
            if row == len(filled):
                filled.append(0)
            starts[text] = row * width + filled[row]
            filled[row] += length
        within = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        place = torch.tensor(starts, device=mask.device)[:, None] + within
        source, positions = torch.zeros(2, len(filled) * width, dtype=torch.long, device=mask.device)
        source[place[mask]] = mask.flatten().nonzero()[:, 0]
        positions[place[mask]] = within[mask]
        return cls(source.view(-1, width), positions.view(-1, width), place)


def keeps_texts_apart(lm: "CausalLM") -> bool:
    """Whether a text reads nothing of the other texts in its row: the gradient between them is then exactly 0.

    Models without positions (ALiBi) or with convolutions, and some attention kernels, do not heed a restart.
    """
    if not lm.takes_positions:
        return False
    training = any(module.training for module in lm.tuned_modules)
    lm.eval()  # dropout would shift them too
    with torch.inference_mode(False), torch.enable_grad():
        embeds = lm.embed(torch.arange(6, device=lm.model.device).expand(2, -1)).detach().requires_grad_()
        positions = torch.tensor([0, 1, 2, 0, 1, 2], device=embeds.device).expand(2, -1)
        second = lm.hidden(embeds, None, positions)[:, 3:]
        # Not a sum, which the last layer norm keeps constant; not random, which would shift the training's own numbers.
        weights = torch.arange(second.numel(), device=embeds.device).sin().view_as(second).to(second.dtype)
        (gradient,) = torch.autograd.grad(second, embeds, weights)
    lm.train(training)
    return not gradient[:, :3].any()
