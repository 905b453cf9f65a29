"""How faithful heat maps are: deletion and insertion curves beside those of random maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prefixvlm.inspect.cells import Cells
from prefixvlm.inspect.target import Target
from prefixvlm.metrics.bootstrap import bootstrap_interval

STEPS = 10  # points of a curve after the first
NUM_RANDOM = 5  # random maps
RANDOM = "random"


@dataclass(frozen=True)
class Curves:
    """Probabilities of T tokens with a share of the cells removed, or alone revealed, in the order of a map.

    shares: float32[K], from 0 to 1. deletion, insertion: float32[T, K], or [maps, T, K] of random maps.
    (Petsiuk et al. 2018; a faithful map has a small area below deletion and a large one below insertion.)
    """

    shares: Tensor
    deletion: Tensor
    insertion: Tensor

    def areas(self) -> tuple[Tensor, Tensor]:
        """Return the areas below both curves by the trapezoidal rule: float32[T], or [maps, T]."""
        return torch.trapezoid(self.deletion, self.shares), torch.trapezoid(self.insertion, self.shares)


@torch.no_grad()
def curves(target: Target, values: Tensor) -> Curves:
    """Return the curves of each token by its own map. values: float[T, rows, columns], as of `attributions`."""
    orders = values.flatten(1).argsort(dim=1, descending=True, stable=True)
    each = [_curves(target, order, slice(token, token + 1)) for token, order in enumerate(orders)]
    return Curves(each[0].shares, torch.cat([c.deletion for c in each]), torch.cat([c.insertion for c in each]))


@torch.no_grad()
def random_curves(target: Target, number: int = NUM_RANDOM, seed: int = 0) -> Curves:
    """Return the curves of random maps, each for all tokens."""
    num_cells = len(Cells.of(target.model, *target.pixel_values.shape[2:]))
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(num_cells, generator=generator) for _ in range(number)]
    each = [_curves(target, order, slice(None)) for order in orders]
    return Curves(each[0].shares, torch.stack([c.deletion for c in each]), torch.stack([c.insertion for c in each]))


def _curves(target: Target, order: Tensor, tokens: slice) -> Curves:
    """Return the curves of some tokens by one order of the cells. order: int[number of cells]."""
    image = target.pixel_values
    cells = Cells.of(target.model, *image.shape[2:])
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    counts = torch.linspace(0, len(order), min(STEPS, len(order)) + 1).round().long()
    removed = rank < counts[:, None]
    # Both curves share their ends: the whole image and none of it.
    images = cells.without(image, target.blank, torch.cat([removed, ~removed[1:-1]]))
    found = target.log_probs(images).exp().T[tokens].cpu()
    num_points = len(counts)
    insertion = torch.cat([found[:, num_points - 1 : num_points], found[:, num_points:], found[:, :1]], 1)
    return Curves(counts / len(order), found[:, :num_points], insertion)


@dataclass(frozen=True)
class Line:
    """A line of the table: mean areas, and by how much they are better than those of random maps, above 0 if so.

    Each value is (mean, low, high), the ends of its interval; None for the gains of random maps themselves.
    """

    method: str
    deletion: tuple[float, float, float]
    insertion: tuple[float, float, float]
    deletion_gain: tuple[float, float, float] | None
    insertion_gain: tuple[float, float, float] | None


def table(images: Sequence[Mapping[str, Curves]]) -> list[Line]:
    """Return a line for each method, random last. images: curves by method and RANDOM for each image.

    Intervals resample images, because the tokens of one are not independent.
    """
    areas: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for each in images:
        for method, found in each.items():
            areas.setdefault(method, []).append(_over_maps(found))
    groups = [number for number, (deletion, _) in enumerate(areas[RANDOM]) for _ in deletion]
    random = [torch.cat([pair[place] for pair in areas[RANDOM]]) for place in (0, 1)]
    lines = []
    for method, pairs in areas.items():
        deletion, insertion = (torch.cat([pair[place] for pair in pairs]) for place in (0, 1))
        means = _interval(deletion, groups), _interval(insertion, groups)
        gains = _interval(random[0] - deletion, groups), _interval(insertion - random[1], groups)
        lines.append(Line(method, *means, *((None, None) if method == RANDOM else gains)))
    return lines


def _over_maps(found: Curves) -> tuple[Tensor, Tensor]:
    """Return both areas of each token; of random maps their mean: float32[T]."""
    deletion, insertion = found.areas()
    return (deletion.mean(0), insertion.mean(0)) if deletion.ndim == 2 else (deletion, insertion)


def _interval(values: Tensor, groups: Sequence[int]) -> tuple[float, float, float]:
    return (float(values.mean()), *bootstrap_interval(values.tolist(), groups))
