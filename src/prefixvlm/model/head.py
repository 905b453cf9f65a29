"""A model and a batch go in; numbers read off the language model's hidden states come out."""

import torch
from torch import Tensor, nn

from prefixvlm.batch import IGNORE_INDEX, LEARNED_ID, Batch
from prefixvlm.model.prefix_lm import PrefixLM

POOLINGS = ("last", "mean")


class Outputs(nn.Sequential):
    """A linear layer or, with a hidden width, an MLP: float[..., E'] -> float32[..., K]."""

    def __init__(self, state_width: int, num_outputs: int, hidden_width: int | None = None, dropout: float = 0.0):
        if not 0 <= dropout < 1:
            raise ValueError(f"a head's dropout is {dropout}, but it must be at least 0 and below 1")
        if hidden_width is not None and hidden_width < 1:
            raise ValueError(f"a head's hidden_width is {hidden_width}; set it to 1 or more, or null for a linear head")
        layers: list[nn.Module] = [nn.LayerNorm(state_width), nn.Dropout(dropout)]  # states differ in scale by model
        if hidden_width:
            layers += [nn.Linear(state_width, hidden_width), nn.GELU(), nn.Dropout(dropout)]
        super().__init__(*layers, nn.Linear(hidden_width or state_width, num_outputs))


def in_float32(layer: nn.Module, states: Tensor) -> Tensor:
    """Also in mixed precision: what a head says is compared and scored to more than bfloat16's three digits."""
    with torch.autocast(states.device.type, enabled=False):
        return layer(states.float())


class RowHead(nn.Module):
    """Numbers of a whole row: of its last state, or of the mean over all it reads."""

    def __init__(self, outputs: nn.Module, pooling: str = "last") -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"a head's pooling is {pooling!r}; accepted are {', '.join(POOLINGS)}")
        self.outputs, self.pooling = outputs, pooling

    def forward(self, model: PrefixLM, batch: Batch, learned: Tensor | None = None) -> Tensor:
        """float32[S, K]. learned: float[E], where LEARNED_ID stands, once a row, which is then the last state."""
        mask = batch.attention_mask
        lengths = mask.sum(1)
        if learned is None:
            last = torch.arange(mask.shape[1], device=mask.device) == (lengths - 1)[:, None]
        else:  # after it there may be what some models put after every text
            last = batch.input_ids == LEARNED_ID
        embeds = model.inputs_embeds(batch, learned)
        states = model.lm.hidden_at(embeds, mask, last if self.pooling == "last" else mask).float()
        if self.pooling == "mean":
            rows = torch.arange(len(mask), device=mask.device).repeat_interleave(lengths)
            states = states.new_zeros(len(mask), states.shape[1]).index_add(0, rows, states) / lengths[:, None]
        return in_float32(self.outputs, states)


class TokenHead(nn.Module):
    """Numbers of each token that has a tag."""

    def __init__(self, outputs: Outputs) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, model: PrefixLM, batch: Batch) -> Tensor:
        """float32[number of tags that are not ignored, K], in reading order."""
        assert batch.tags is not None, "every row of this task has tags"
        states = model.lm.hidden_at(model.inputs_embeds(batch), batch.attention_mask, batch.tags != IGNORE_INDEX)
        return in_float32(self.outputs, states)
