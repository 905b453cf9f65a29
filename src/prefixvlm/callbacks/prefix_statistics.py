"""A model that reads images goes in; the prefix that its mapper makes, and what that is like, comes out."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.hooks import RemovableHandle

from prefixvlm.batch import Batch
from prefixvlm.lm.interface import LanguageModel
from prefixvlm.mapper.interface import Mapper

CHUNK = 8192  # rows of the embedding matrix at a time


class PrefixRecorder:
    """Keeps the first prefix, float[B, P, E], that a mapper makes between `begin` and `end`; nothing otherwise."""

    def __init__(self) -> None:
        self.prefix: Tensor | None = None
        self._hook: RemovableHandle | None = None

    def begin(self, mapper: Mapper) -> None:
        self.end()
        self.prefix = None
        self._hook = mapper.register_forward_hook(self._keep)

    def end(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def take(self) -> Tensor | None:
        """What was kept, and forget it."""
        prefix, self.prefix = self.prefix, None
        return prefix

    def _keep(self, mapper: Any, arguments: Any, prefix: Tensor) -> None:
        if self.prefix is None:
            self.prefix = prefix.detach()


def keys_of_images(batch: Batch, limit: int) -> list[str]:
    """Of the first so many images of a batch whose rows have one each, the keys of their samples."""
    if len(batch.image_index) != len(batch.rows):
        return []
    keys = {image: rows[0].key for image, rows in zip(batch.image_index.tolist(), batch.rows, strict=True)}
    return [keys[image] for image in range(limit) if image in keys]


@torch.no_grad()
def token_norm(lm: LanguageModel) -> float:
    """The mean L2 norm of the token embeddings."""
    norms = [embeddings.norm(dim=-1) for embeddings in _embeddings(lm, lm.model.device)]
    return float(torch.cat(norms).mean())


@torch.no_grad()
def nearest_tokens(lm: LanguageModel, prefix: Tensor) -> tuple[list[list[str]], float]:
    """prefix: float[B, P, E] -> for each of the B images the P tokens of the largest cosine, and the mean of those."""
    directions = normalize(prefix.float(), dim=-1)
    best = directions.new_full(prefix.shape[:2], -2.0)
    ids = torch.zeros_like(best, dtype=torch.int64)
    for number, embeddings in enumerate(_embeddings(lm, prefix.device)):
        cosines, places = (directions @ normalize(embeddings, dim=-1).T).max(-1)
        ids = torch.where(cosines > best, places + number * CHUNK, ids)
        best = torch.maximum(best, cosines)
    return [[str(lm.tokenizer.decode([token])) for token in tokens] for tokens in ids.tolist()], float(best.mean())


def _embeddings(lm: LanguageModel, device: torch.device) -> Iterator[Tensor]:
    """The token embeddings, float32[up to CHUNK, E] at a time."""
    number = min(len(lm.tokenizer), len(lm.model.get_input_embeddings().weight))  # type: ignore[arg-type]
    for ids in torch.arange(number, device=device).split(CHUNK):
        yield lm.embed(ids).float()
