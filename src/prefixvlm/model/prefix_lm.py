"""A batch goes in; through encoder, mapper and frozen language model, the loss of each supervised token comes out."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prefixvlm.batch import IGNORE_INDEX, Batch
from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.lm.causal import CausalLM
from prefixvlm.mapper.interface import Mapper
from prefixvlm.model.splice import splice


class PrefixLM(nn.Module):
    """A frozen language model that reads images as a learned prefix (Frozen, eq. 1; ClipCap, eq. 4)."""

    def __init__(self, encoder: ImageEncoder, mapper: Mapper, lm: CausalLM) -> None:
        super().__init__()
        self.encoder = encoder
        self.mapper = mapper
        self.lm = lm

    def prefix_embeds(self, pixel_values: Tensor) -> Tensor:
        """pixel_values: float[B, 3, H, W] -> float[B, P, E]; without gradients below the mapper if that is frozen."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.encoder.trained):
            features = self.encoder(pixel_values)
        return self.mapper(features)

    def inputs_embeds(self, batch: Batch) -> Tensor:
        """What the language model reads: float[S, T, E]."""
        return splice(batch.input_ids, self.prefix_embeds(batch.pixel_values), batch.image_index, self.lm.embed)

    def forward(self, batch: Batch) -> Tensor:
        """Cross entropy of each supervised token, in reading order: float32[number of labels that are not ignored].

        Text is right-padded, so positions count from 0 in each row; the logits of other positions are never computed.
        """
        positions = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device).expand_as(batch.input_ids)
        hidden = self.lm.hidden(self.inputs_embeds(batch), batch.attention_mask, positions)
        targets = batch.labels[:, 1:]
        supervised = targets != IGNORE_INDEX
        return F.cross_entropy(self.lm.logits(hidden[:, :-1][supervised]), targets[supervised], reduction="none")
