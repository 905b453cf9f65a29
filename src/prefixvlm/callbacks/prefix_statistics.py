"""Statistics of prefix embeddings: their recording in a forward pass, norms, and nearest tokens."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.hooks import RemovableHandle

from prefixvlm.batch import Batch
from prefixvlm.lm.interface import LanguageModel
from prefixvlm.mapper.interface import Mapper

CHUNK = 8192  # rows of the embedding matrix at a time, which bounds the memory of their float32 copy


class PrefixRecorder:
    """Records the first output of a mapper, float[B, P, E], between `begin` and `end`."""

    def __init__(self) -> None:
        self.prefix: Tensor | None = None
        self._hook: RemovableHandle | None = None

    def begin(self, mapper: Mapper) -> None:
        self.end()
        self.prefix = None
        self._hook = mapper.register_forward_hook(self._record)

    def end(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def take(self) -> Tensor | None:
        """Return the recorded prefix, if any, and release it."""
        prefix, self.prefix = self.prefix, None
        return prefix

    def _record(self, mapper: Any, arguments: Any, prefix: Tensor) -> None:
        if self.prefix is None:
            self.prefix = prefix.detach()


def image_keys(batch: Batch, limit: int) -> list[str]:
    """Return the sample keys of the first `limit` images; none if the rows do not have one image each."""
    if len(batch.image_index) != len(batch.rows):
        return []
    keys = {image: rows[0].key for image, rows in zip(batch.image_index.tolist(), batch.rows, strict=True)}
    return [keys[image] for image in range(limit) if image in keys]


@torch.no_grad()
def token_norm(lm: LanguageModel) -> float:
    """Return the mean L2 norm of the token embeddings."""
    norms = [embeddings.norm(dim=-1) for embeddings in _embeddings(lm, lm.model.device)]
    return float(torch.cat(norms).mean())


@torch.no_grad()
def nearest_tokens(lm: LanguageModel, prefix: Tensor) -> tuple[list[list[str]], float]:
    """Return for each prefix embedding the token of the largest cosine, and the mean of these cosines.

    prefix: float[B, P, E]. The tokens are B lists of P texts.
    """
    directions = normalize(prefix.float(), dim=-1)
    best = directions.new_full(prefix.shape[:2], -2.0)
    ids = torch.zeros_like(best, dtype=torch.int64)
    for chunk, embeddings in enumerate(_embeddings(lm, prefix.device)):
        cosines, indices = (directions @ normalize(embeddings, dim=-1).T).max(-1)
        ids = torch.where(cosines > best, indices + chunk * CHUNK, ids)
        best = torch.maximum(best, cosines)
    return [[str(lm.tokenizer.decode([token])) for token in tokens] for tokens in ids.tolist()], float(best.mean())


def _embeddings(lm: LanguageModel, device: torch.device) -> Iterator[Tensor]:
    """Yield the token embeddings, float32[up to CHUNK, E] at a time."""
    # Some models pad their embedding matrix beyond the vocabulary; those rows are no tokens.
    num_tokens = min(len(lm.tokenizer), len(lm.model.get_input_embeddings().weight))  # type: ignore[arg-type]
    for ids in torch.arange(num_tokens, device=device).split(CHUNK):
        yield lm.embed(ids).float()
