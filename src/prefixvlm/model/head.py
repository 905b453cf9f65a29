"""A model and a batch go in; numbers read off the language model's hidden states come out."""

import torch
from torch import Tensor, nn

from prefixvlm.batch import IGNORE_INDEX, Batch
from prefixvlm.model.prefix_lm import PrefixLM

POOLINGS = ("last", "mean")


class Outputs(nn.Sequential):
    """A linear layer or, with a hidden width, an MLP: float[..., E'] -> float32[..., K]."""

    def __init__(self, state_width: int, num_outputs: int, hidden_width: int | None = None, dropout: float = 0.0):
        if not 0 <= dropout < 1:
            raise ValueError(f"a head's dropout is {dropout}, but it must be at least 0 and below 1")
        layers: list[nn.Module] = [nn.LayerNorm(state_width), nn.Dropout(dropout)]  # states differ in scale by model
        if hidden_width:
            layers += [nn.Linear(state_width, hidden_width), nn.GELU(), nn.Dropout(dropout)]
        super().__init__(*layers, nn.Linear(hidden_width or state_width, num_outputs))


class RowHead(nn.Module):
    """Numbers of a whole row: of its last state, or of the mean over all it reads."""

    def __init__(self, outputs: nn.Module, pooling: str = "last") -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"a head's pooling is {pooling!r}; accepted are {', '.join(POOLINGS)}")
        self.outputs, self.pooling = outputs, pooling

    def forward(self, model: PrefixLM, batch: Batch, learned: Tensor | None = None) -> Tensor:
        """float32[S, K]. learned: float[E], where LEARNED_ID stands."""
        mask = batch.attention_mask
        lengths = mask.sum(1)
        last = torch.arange(mask.shape[1], device=mask.device) == (lengths - 1)[:, None]
        embeds = model.inputs_embeds(batch, learned)
        states = model.lm.states(embeds, mask, last if self.pooling == "last" else mask).float()
        if self.pooling == "mean":
            rows = torch.arange(len(mask), device=mask.device).repeat_interleave(lengths)
            states = states.new_zeros(len(mask), states.shape[1]).index_add(0, rows, states) / lengths[:, None]
        return self.outputs(states)


class TokenHead(nn.Module):
    """Numbers of each token that has a tag."""

    def __init__(self, outputs: Outputs) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, model: PrefixLM, batch: Batch) -> Tensor:
        """float32[number of tags that are not ignored, K], in reading order."""
        assert batch.tags is not None, "every row of this task has tags"
        states = model.lm.states(model.inputs_embeds(batch), batch.attention_mask, batch.tags != IGNORE_INDEX)
        return self.outputs(states.float())
