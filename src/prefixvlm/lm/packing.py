"""Packing of right-padded texts into fewer and fuller rows."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Packing:
    """Places of S texts of at most T tokens in R packed rows of length C.

    source: int[R, C], index into the S * T positions of the texts; 0 at unused places.
    positions: int[R, C], position of each token in its text; 0 at unused places.
    place: int[S, T], index into the R * C packed positions; meaningless on padding.
    """

    source: Tensor
    positions: Tensor
    place: Tensor

    @classmethod
    def of_mask(cls, mask: Tensor) -> "Packing":
        """Pack by first fit, longest text first. mask: bool[S, T], False on padding."""
        lengths = mask.sum(1)
        # First fit decreasing needs about 11/9 of the fewest possible rows at most (Johnson 1973).
        longest_first = sorted(enumerate(lengths.tolist()), key=lambda item: -item[1])
        # Room for two of the longest texts: longer rows would pack tighter, but attention is quadratic in their length.
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
        # At unused places the positions are 0, so that transformers takes each of them for a text of its own.
        source, positions = torch.zeros(2, len(filled) * width, dtype=torch.long, device=mask.device)
        source[place[mask]] = mask.flatten().nonzero()[:, 0]
        positions[place[mask]] = within[mask]
        return cls(source.view(-1, width), positions.view(-1, width), place)
