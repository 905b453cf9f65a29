"""Position embeddings of patch features: fixed 2-D sines and cosines, or learned vectors."""

import torch
from torch import Tensor, nn


def make_positions(kind: str | None, grid: tuple[int, int] | None, width: int) -> nn.Module:
    """Return a module that adds positions: float[B, N, width] -> float[B, N, width], patches in reading order.

    kind: None adds nothing, "sincos" adds fixed sines and cosines, "learned" one trained vector a position.
    Raises ValueError if kind is not None and there is no grid.
    """
    if kind is None:
        return nn.Identity()
    if kind not in ("sincos", "learned"):
        raise ValueError(f"mapper.positions is {kind!r}, but it must be null, sincos or learned")
    if grid is None:
        raise ValueError(
            f"mapper.positions is {kind}, but these features have no known grid: set encoder.features=patch "
            "or mapper.positions=null"
        )
    if kind == "sincos":
        return Positions(sincos(grid, width), trained=False)
    # The initialisation of ViT's position embeddings in timm.
    return Positions(nn.init.trunc_normal_(torch.empty(grid[0] * grid[1], width), std=0.02), trained=True)


class Positions(nn.Module):
    """Adds one vector to each feature. values: float[N, W]."""

    def __init__(self, values: Tensor, trained: bool) -> None:
        super().__init__()
        self.values: Tensor
        if trained:
            self.values = nn.Parameter(values)
        else:
            # Not persistent: grid and width determine the values, so that a checkpoint need not store them.
            self.register_buffer("values", values, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """features: float[B, N, W] -> float[B, N, W]."""
        # A sum of bfloat16 features, as under autocast, and float32 positions would be float32.
        return features + self.values.to(features.dtype)


def sincos(grid: tuple[int, int], width: int) -> Tensor:
    """Return MAE's 2-D sine-cosine position embedding, float32[N, W]."""
    if width % 4:
        raise ValueError(f"mapper.positions is sincos, which needs a width of a multiple of 4, not {width}")
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    # float64 as in MAE's numpy code, so that the angles have no rounding errors of float32.
    frequencies = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    # Columns first: MAE's meshgrid has the width first, so that the half that its code calls emb_h encodes columns.
    angles = [axis.flatten()[:, None] * frequencies for axis in (columns, rows)]
    # All sines, then all cosines, of each axis; the original transformer interleaves them.
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1).float()
