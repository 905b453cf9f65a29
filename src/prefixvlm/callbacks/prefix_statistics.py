"""Statistics of prefix embeddings: their recording in a forward pass, norms, and nearest tokens."""

from typing import Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from prefixvlm.batch import Batch
from prefixvlm.lm.interface import LanguageModel
from prefixvlm.lm.nearest_tokens import nearest_tokens as nearest
from prefixvlm.lm.nearest_tokens import token_norms
from prefixvlm.mapper.interface import Mapper


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


def token_norm(lm: LanguageModel) -> float:
    """Return the mean L2 norm of the token embeddings."""
    return float(token_norms(lm).mean())


def nearest_tokens(lm: LanguageModel, prefix: Tensor) -> tuple[list[list[str]], float]:
    """Return for each prefix embedding the token of the largest cosine, and the mean of these cosines.

    prefix: float[B, P, E]. The tokens are B lists of P texts.
    """
    ids, cosines = nearest(lm, prefix)
    return [[str(lm.tokenizer.decode([token])) for token in row] for row in ids[..., 0].tolist()], float(cosines.mean())
