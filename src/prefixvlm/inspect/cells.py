"""The cells of an image that heat maps are computed for."""

import torch
from torch import Tensor

from prefixvlm.model.prefix_lm import PrefixLM

FEWEST, MOST = 8, 16  # cells a side, between which a patch is one cell
PATCH = 16  # pixels a side of the patches of an encoder without a grid, as those of most ViTs


class Cells:
    """A partition of pixels in rows and columns of cells.

    index: int[H, W], the cell of each pixel, counted in reading order.
    """

    def __init__(self, rows: Tensor, columns: Tensor) -> None:
        """rows: int[H], the row of each pixel's cell. columns: int[W]."""
        self.rows, self.columns = int(rows.max()) + 1, int(columns.max()) + 1
        self.index = rows[:, None] * self.columns + columns

    @classmethod
    def of(cls, model: PrefixLM, height: int, width: int) -> "Cells":
        """Return the cells for an encoder: its patches, merged if they are many, divided if few."""
        rows, columns = model.encoder.grid or (max(1, height // PATCH), max(1, width // PATCH))
        return cls(_cells(rows, height), _cells(columns, width))

    def __len__(self) -> int:
        return self.rows * self.columns

    def sums(self, pixels: Tensor) -> Tensor:
        """Return the sum of the pixels of each cell: float[..., H, W] -> float[..., rows, columns]."""
        flat = pixels.flatten(-2)
        index = self.index.to(pixels.device).flatten().expand(flat.shape)
        sums = flat.new_zeros(*flat.shape[:-1], len(self)).scatter_add(-1, index, flat)
        return sums.unflatten(-1, (self.rows, self.columns))

    def without(self, image: Tensor, blank: Tensor, removed: Tensor) -> Tensor:
        """Return copies of an image in which cells are blank.

        image: float[1, 3, H, W]; blank: float[1, 3, 1, 1]; removed: bool[copies, cells] -> float[copies, 3, H, W].
        """
        masks = removed.to(image.device)[:, self.index.to(image.device)]
        return torch.where(masks[:, None], blank, image)


def _cells(num_patches: int, num_pixels: int) -> Tensor:
    """Return the cell of each pixel of a side: int[num_pixels]."""
    patches = min(num_patches, num_pixels)
    merged, parts = -(-patches // MOST), -(-FEWEST // patches)
    patches = min(patches * parts, num_pixels)
    return torch.arange(num_pixels) * patches // num_pixels // merged
