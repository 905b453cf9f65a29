"""Prefix embeddings and token ids go in; what the language model reads comes out."""

from collections.abc import Callable

from torch import Tensor

from prefixvlm.batch import IMAGE_ID


def splice(input_ids: Tensor, prefix_embeds: Tensor, image_index: Tensor, embed: Callable[[Tensor], Tensor]) -> Tensor:
    """Put each image's prefix where its run of IMAGE_ID stands.

    input_ids: int[S, T] with R runs of P times IMAGE_ID; prefix_embeds: float[B, P, E]; image_index: int[R];
    embed: int[S, T] -> float[S, T, E]. Returns float[S, T, E] in the dtype of the language model.
    """
    is_image = input_ids == IMAGE_ID
    embeds = embed(input_ids.masked_fill(is_image, 0))
    assert is_image.sum() == image_index.numel() * prefix_embeds.shape[1], "every image is a run of prefix_length ids"
    prefixes = prefix_embeds[image_index].flatten(0, 1).to(embeds.dtype)
    return embeds.masked_scatter(is_image[..., None], prefixes)
