"""A grid in, the position of each feature in the image out, added to the features."""

import torch
from torch import Tensor, nn


def make_positions(kind: str | None, grid: tuple[int, int] | None, width: int) -> nn.Module:
    """float[B, N, width] to float[B, N, width], N = rows x columns of the grid in reading order.

    None adds nothing; "sincos" adds fixed sines and cosines, "learned" a vector a position. Raises ValueError where
    positions are wanted and there is no grid.
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
    return Positions(nn.init.trunc_normal_(torch.empty(grid[0] * grid[1], width), std=0.02), trained=True)


class Positions(nn.Module):
    def __init__(self, values: Tensor, trained: bool) -> None:
        super().__init__()
        self.values: Tensor
        if trained:
            self.values = nn.Parameter(values)
        else:
            self.register_buffer("values", values, persistent=False)  # computed anew, not kept in checkpoints

    def forward(self, features: Tensor) -> Tensor:
        """features: float[B, N, W] -> float[B, N, W]."""
        return features + self.values.to(features.dtype)


def sincos(grid: tuple[int, int], width: int) -> Tensor:
    """float32[N, W]: the first half of the width is of the column, the second of the row (MAE, as its code has it)."""
    if width % 4:
        raise ValueError(f"mapper.positions is sincos, which needs a width of a multiple of 4, not {width}")
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    frequencies = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = [place.flatten()[:, None] * frequencies for place in (columns, rows)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1).float()
