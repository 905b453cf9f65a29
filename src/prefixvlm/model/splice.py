"""Splice prefix embeddings into token embeddings."""

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
    """Embed the ids; prefixes fill the runs of IMAGE_ID, and the learned embedding fills LEARNED_ID.

    input_ids: int[S, T] with R runs of P times IMAGE_ID; prefix_embeds: float[B, P, E]; image_index: int[R];
    embed: int[S, T] -> float[S, T, E]; learned: float[E]. Returns float[S, T, E] in the dtype of the language model.
    """
    is_image = input_ids == IMAGE_ID
    embeds = embed(input_ids.clamp_min(0))  # placeholders are negative, and replaced below
    if learned is not None:
        embeds = torch.where((input_ids == LEARNED_ID)[..., None], learned.to(embeds.dtype), embeds)
    assert is_image.sum() == image_index.numel() * prefix_embeds.shape[1], "every image is a run of prefix_length ids"
    # The mapper is float32, a frozen language model often bfloat16.
    prefixes = prefix_embeds[image_index].flatten(0, 1).to(embeds.dtype)
    # masked_scatter fills in row-major order, which is the reading order of image_index.
    return embeds.masked_scatter(is_image[..., None], prefixes)
