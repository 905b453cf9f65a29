"""The baseline of `run.py`: loss and captioning of a plain ClipCap-style loop.

Written for this benchmark from the paper (Mokady et al. 2021) and what is known of its loop: every batch is padded to
the longest caption of the data set, the language model computes gradients of its weights although only the mapper is
trained, logits of all positions are computed, and captioning takes one image at a time, without a KV cache.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

IGNORE = -100


class ClipCap(nn.Module):
    """A mapper and a language model."""

    def __init__(self, mapper: nn.Module, lm: PreTrainedModel) -> None:
        super().__init__()
        self.mapper = mapper
        self.lm = lm.requires_grad_(True).eval()

    def loss(self, features: Tensor, captions: list[list[int]], longest: int) -> Tensor:
        """Return the mean cross entropy of the captions' tokens. features: float[S, 1, D]; captions: S lists of ids."""
        tokens = torch.zeros(len(captions), longest, dtype=torch.long)
        labels = torch.full_like(tokens, IGNORE)
        for row, caption in enumerate(captions):
            tokens[row, : len(caption)] = labels[row, : len(caption)] = torch.tensor(caption)
        prefix = self.mapper(features)
        length = prefix.shape[1]
        mask = torch.cat([torch.ones(len(captions), length, dtype=torch.long), (labels != IGNORE).long()], 1)
        embeds = torch.cat([prefix, self.lm.get_input_embeddings()(tokens)], 1)
        logits = self.lm(inputs_embeds=embeds, attention_mask=mask, use_cache=False).logits[:, length - 1 : -1]
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE)

    @torch.no_grad()
    def greedy(self, features: Tensor, num_tokens: int) -> list[int]:
        """Return the ids of a caption of num_tokens. features: float[1, 1, D], of one image."""
        embeds = self.mapper(features)
        ids: list[int] = []
        for _ in range(num_tokens):
            logits = self.lm(inputs_embeds=embeds, use_cache=False).logits[:, -1]
            ids.append(int(logits.argmax(-1)))
            embeds = torch.cat([embeds, self.lm.get_input_embeddings()(torch.tensor([ids[-1:]]))], 1)
        return ids

    @torch.no_grad()
    def beam(self, features: Tensor, num_tokens: int, num_beams: int) -> list[int]:
        """Return the ids of the most probable caption of num_tokens. features: float[1, 1, D], of one image."""
        embeds = self.mapper(features)
        ids = torch.zeros(1, 0, dtype=torch.long)
        scores = torch.zeros(1, 1)
        for _ in range(num_tokens):
            logits = self.lm(inputs_embeds=embeds, use_cache=False).logits[:, -1]
            scores, flat = (scores + logits.log_softmax(-1)).flatten().topk(num_beams)
            beams, tokens = flat // logits.shape[1], flat % logits.shape[1]
            ids = torch.cat([ids[beams], tokens[:, None]], 1)
            embeds = torch.cat([embeds[beams], self.lm.get_input_embeddings()(tokens[:, None])], 1)
            scores = scores[:, None]
        return ids[0].tolist()
