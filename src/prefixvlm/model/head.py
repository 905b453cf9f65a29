"""Heads that map hidden states of the language model to numbers, per row or per token."""

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
        # The scale of hidden states differs between models.
        layers: list[nn.Module] = [nn.LayerNorm(state_width), nn.Dropout(dropout)]
        if hidden_width:
            layers += [nn.Linear(state_width, hidden_width), nn.GELU(), nn.Dropout(dropout)]
        super().__init__(*layers, nn.Linear(hidden_width or state_width, num_outputs))


def in_float32(layer: nn.Module, states: Tensor) -> Tensor:
    """Apply a layer in float32, also in mixed precision."""
    # Outputs are ranked and scored: bfloat16 has three significant digits, and would tie many of them.
    with torch.autocast(states.device.type, enabled=False):
        return layer(states.float())


class RowHead(nn.Module):
    """Outputs for a whole row, from its last hidden state or from the mean of all."""

    def __init__(self, outputs: nn.Module, pooling: str = "last") -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"a head's pooling is {pooling!r}; accepted are {', '.join(POOLINGS)}")
        self.outputs, self.pooling = outputs, pooling

    def forward(self, model: PrefixLM, batch: Batch, learned: Tensor | None = None) -> Tensor:
        """Return float32[S, K]. learned: float[E], at LEARNED_ID; its state is then the last of the row."""
        mask = batch.attention_mask
        lengths = mask.sum(1)
        if learned is None:
            last = torch.arange(mask.shape[1], device=mask.device) == (lengths - 1)[:, None]
        else:  # not the last position: some models end every text with EOS or [SEP]
            last = batch.input_ids == LEARNED_ID
        embeds = model.inputs_embeds(batch, learned)
        states = model.lm.hidden_at(embeds, mask, last if self.pooling == "last" else mask).float()
        if self.pooling == "mean":
            rows = torch.arange(len(mask), device=mask.device).repeat_interleave(lengths)
            states = states.new_zeros(len(mask), states.shape[1]).index_add(0, rows, states) / lengths[:, None]
        return in_float32(self.outputs, states)


class TokenHead(nn.Module):
    """Outputs for each tagged token."""

    def __init__(self, outputs: Outputs) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, model: PrefixLM, batch: Batch) -> Tensor:
        """Return float32[number of tags that are not ignored, K], in reading order."""
        assert batch.tags is not None, "every row of this task has tags"
        states = model.lm.hidden_at(model.inputs_embeds(batch), batch.attention_mask, batch.tags != IGNORE_INDEX)
        return in_float32(self.outputs, states)
