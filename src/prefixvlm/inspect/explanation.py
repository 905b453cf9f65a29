"""All that is found out about what a model says about one image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from prefixvlm.inspect.attention import Attention, attention
from prefixvlm.inspect.attribution import METHODS, attributions
from prefixvlm.inspect.faithfulness import RANDOM, Curves, curves, random_curves
from prefixvlm.inspect.picture import as_seen
from prefixvlm.inspect.prefix_changes import Changes, prefix_changes
from prefixvlm.inspect.target import Target
from prefixvlm.lm.nearest_tokens import nearest_tokens, token_norms

NUM_NEAREST = 5


@dataclass(frozen=True)
class Nearest:
    """The tokens nearest to one prefix embedding with their cosines, the nearest first. norm: of the embedding."""

    tokens: list[tuple[str, float]]
    norm: float


@dataclass(frozen=True)
class Explanation:
    """What is found out about T tokens of a text about an image.

    name: of the image. picture: the image as the encoder sees it. log_probs: float32[T].
    maps: by method the signed values of float32[T, rows, columns]. curves: by method, and of random maps.
    nearest: of each prefix embedding. token_norms: the 5th, 50th and 95th percentile of the norms of all tokens.
    attention: or a sentence that says why there is none.
    """

    name: str
    question: str
    text: str
    tokens: list[str]
    log_probs: Tensor
    picture: Image.Image
    maps: Mapping[str, Tensor]
    curves: Mapping[str, Curves]
    nearest: list[Nearest]
    token_norms: tuple[float, float, float]
    attention: Attention | str
    changes: Changes


def explain(
    target: Target,
    name: str,
    question: str = "",
    others: Sequence[tuple[str, Tensor]] = (),
    seed: int = 0,
    progress: bool = False,
) -> Explanation:
    """Explain a target. others: names and pixel values of images whose prefix takes the place of its own."""
    maps = {method: attributions(target, method, progress) for method in METHODS}
    found = {method: curves(target, values) for method, values in maps.items()}
    with torch.no_grad():
        log_probs = target.log_probs(target.pixel_values)[0].cpu()
    return Explanation(
        name, question, target.text, target.tokens, log_probs, as_seen(target),
        maps, found | {RANDOM: random_curves(target, seed=seed)},
        _nearest(target), _percentiles(target), _attention(target), prefix_changes(target, others),
    )  # fmt: skip


def _nearest(target: Target) -> list[Nearest]:
    lm, prefix = target.model.lm, target.prefix()[0]
    ids, cosines = nearest_tokens(lm, prefix, NUM_NEAREST)
    norms = prefix.float().norm(dim=-1).tolist()
    texts = [[str(lm.tokenizer.decode([token])) for token in row] for row in ids.tolist()]
    return [
        Nearest(list(zip(row, values, strict=True)), norm)
        for row, values, norm in zip(texts, cosines.tolist(), norms, strict=True)
    ]


def _percentiles(target: Target) -> tuple[float, float, float]:
    norms = token_norms(target.model.lm).sort().values
    low, middle, high = (float(norms[int(share * (len(norms) - 1))]) for share in (0.05, 0.5, 0.95))
    return low, middle, high


def _attention(target: Target) -> Attention | str:
    try:
        return attention(target)
    except ValueError as error:
        return str(error)
