"""What a model says with a changed prefix: shuffled, without some embeddings, or that of another image."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prefixvlm.data.sample import BLACK_IMAGE
from prefixvlm.inspect.target import Target

SHUFFLES = 3
MAX_PARTS = 32  # of a prefix that are left out one after the other; more embeddings share parts


@dataclass(frozen=True)
class Change:
    """A changed prefix. said: what the model says then. log_probs: float32[T], of the tokens of the target."""

    name: str
    said: str
    log_probs: Tensor


@dataclass(frozen=True)
class Changes:
    """Changes of a whole prefix, and of its parts.

    log_probs: float32[T], of the tokens with the prefix as it is. whole: the changed prefixes.
    without: prefixes without one embedding, named by its number from 1, or without several, as "1 to 18".
    """

    log_probs: Tensor
    whole: list[Change]
    without: list[Change]


@torch.no_grad()
def prefix_changes(target: Target, others: Sequence[tuple[str, Tensor]] = ()) -> Changes:
    """Return what changes with the prefix. others: names and pixel values float[1, 3, H, W] of other images.

    An embedding that is left out is that of a black image at the same place; without all of them the model is blind.
    """
    prefix = target.prefix()[0]
    # Not zeros, nor a shorter prefix: the language model has met neither in training. An evaluation is blind by a
    # black image, too.
    black = target.model.encoder.transform(BLACK_IMAGE).to(target.pixel_values)
    blind = target.model.prefix_embeds(black[None])[0]
    length = len(prefix)
    named = [(f"shuffled ({number})", prefix[order]) for number, order in enumerate(_shuffles(length), 1)]
    named.append(("all left out: a black image", blind))
    named += [(f"of {name}", target.model.prefix_embeds(pixels)[0]) for name, pixels in others]
    parts = torch.arange(length, device=prefix.device).tensor_split(min(length, MAX_PARTS))
    without = [(_name(part.tolist()), prefix.index_copy(0, part, blind[part])) for part in parts]
    rows = torch.stack([prefix, *(changed for _, changed in named + without)])
    log_probs, said = target.log_probs_of(rows).cpu(), target.say(rows)
    names = [name for name, _ in named + without]
    changes = [Change(*each) for each in zip(names, said[1:], log_probs[1:], strict=True)]
    return Changes(log_probs[0], changes[: len(named)], changes[len(named) :])


def _shuffles(length: int) -> list[list[int]]:
    """Return SHUFFLES orders of so many embeddings, none of them for one."""
    generator, orders = random.Random(0), list[list[int]]()
    while length > 1 and len(orders) < SHUFFLES:
        order = generator.sample(range(length), length)
        if order != list(range(length)):
            orders.append(order)
    return orders


def _name(places: Sequence[int]) -> str:
    first, last = places[0] + 1, places[-1] + 1
    return str(first) if first == last else f"{first} to {last}"
