"""The tokens of a language model whose embeddings are nearest to given ones."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prefixvlm.lm.interface import LanguageModel

CHUNK = 8192  # rows of the embedding matrix at a time, which bounds the memory of their float32 copy


@torch.no_grad()
def nearest_tokens(lm: LanguageModel, vectors: Tensor, number: int = 1) -> tuple[Tensor, Tensor]:
    """Return the ids of the tokens with the largest cosines, and the cosines, the largest first.

    vectors: float[..., E] -> int[..., number], float32[..., number].
    """
    directions = normalize(vectors.float(), dim=-1)
    best = directions.new_full((*vectors.shape[:-1], number), -2.0)  # below every cosine
    ids = torch.zeros_like(best, dtype=torch.int64)
    for chunk, embeddings in enumerate(_embeddings(lm, vectors.device)):
        cosines, indices = (directions @ normalize(embeddings, dim=-1).T).topk(min(number, len(embeddings)))
        best, places = torch.cat([best, cosines], -1).topk(number)
        ids = torch.cat([ids, indices + chunk * CHUNK], -1).gather(-1, places)
    return ids, best


@torch.no_grad()
def token_norms(lm: LanguageModel) -> Tensor:
    """Return the L2 norm of each token embedding: float32[V]."""
    return torch.cat([embeddings.norm(dim=-1) for embeddings in _embeddings(lm, lm.model.device)])


def _embeddings(lm: LanguageModel, device: torch.device) -> Iterator[Tensor]:
    """Yield the token embeddings, float32[up to CHUNK, E] at a time."""
    # Some models pad their embedding matrix beyond the vocabulary; those rows are no tokens.
    num_tokens = min(len(lm.tokenizer), len(lm.model.get_input_embeddings().weight))  # type: ignore[arg-type]
    for ids in torch.arange(num_tokens, device=device).split(CHUNK):
        yield lm.embed(ids).float()
