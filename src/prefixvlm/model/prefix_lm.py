"""A batch goes in; through encoder, mapper and frozen language model, the loss of each supervised token comes out."""

import torch
from torch import Tensor, nn

from prefixvlm.batch import IGNORE_INDEX, Batch
from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.lm.causal import CausalLM
from prefixvlm.mapper.interface import Mapper
from prefixvlm.model.loss import token_losses
from prefixvlm.model.packing import Packing, keeps_texts_apart
from prefixvlm.model.splice import splice


class PrefixLM(nn.Module):
    """A frozen language model that reads images as a learned prefix (Frozen, eq. 1; ClipCap, eq. 4)."""

    def __init__(self, encoder: ImageEncoder, mapper: Mapper, lm: CausalLM) -> None:
        super().__init__()
        self.encoder = encoder
        self.mapper = mapper
        self.lm = lm
        self._packs: bool | None = None  # not known yet

    def prefix_embeds(self, pixel_values: Tensor) -> Tensor:
        """pixel_values: float[B, 3, H, W] -> float[B, P, E]."""
        return self.mapper(self.encoder(pixel_values))

    def inputs_embeds(self, batch: Batch) -> Tensor:
        """What the language model reads: float[S, T, E]."""
        return splice(batch.input_ids, self.prefix_embeds(batch.pixel_values), batch.image_index, self.lm.embed)

    def forward(self, batch: Batch) -> Tensor:
        """Cross entropy of each supervised token, in reading order: float32[number of labels that are not ignored].

        Text is right-padded, so positions count from 0 in each row; the logits of other positions are never computed.
        """
        targets = batch.labels[:, 1:]
        supervised = targets != IGNORE_INDEX
        hidden = self._hidden_at(batch, supervised)
        return token_losses(hidden, targets[supervised], self.lm.logits)

    def _hidden_at(self, batch: Batch, wanted: Tensor) -> Tensor:
        """Hidden states at the wanted positions, bool[S, T - 1]: float[number of them, E'].

        Padding is not computed where the language model allows: several texts then share a row.
        """
        embeds, mask = self.inputs_embeds(batch), batch.attention_mask
        if self._packs is None:
            self._packs = keeps_texts_apart(self.lm)
        if self._packs and not mask.all():
            packing = Packing.of_mask(mask)
            packed = self.lm.hidden(embeds.flatten(0, 1)[packing.source], None, packing.positions)
            return packed.flatten(0, 1)[packing.place[:, :-1][wanted]]
        positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        return self.lm.hidden(embeds, mask, positions)[:, :-1][wanted]
