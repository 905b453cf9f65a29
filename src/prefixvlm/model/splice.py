"""Prefix embeddings and token ids go in; what the language model reads comes out."""

from collections.abc import Callable

import torch
from torch import Tensor

from prefixvlm.batch import IMAGE_ID, LEARNED_ID


def splice(
    input_ids: Tensor,
    prefix_embeds: Tensor,
    image_index: Tensor,
    embed: Callable[[Tensor], Tensor],
    learned: Tensor | None = None,
) -> Tensor:
    """Put each image's prefix where its run of IMAGE_ID stands, and what is learned where LEARNED_ID stands.

    input_ids: int[S, T] with R runs of P times IMAGE_ID; prefix_embeds: float[B, P, E]; image_index: int[R];
    embed: int[S, T] -> float[S, T, E]; learned: float[E]. Returns float[S, T, E] in the dtype of the language model.
    """
    is_image = input_ids == IMAGE_ID
    embeds = embed(input_ids.clamp_min(0))
    if learned is not None:
        embeds = torch.where((input_ids == LEARNED_ID)[..., None], learned.to(embeds.dtype), embeds)
    assert is_image.sum() == image_index.numel() * prefix_embeds.shape[1], "every image is a run of prefix_length ids"
    prefixes = prefix_embeds[image_index].flatten(0, 1).to(embeds.dtype)
    return embeds.masked_scatter(is_image[..., None], prefixes)
