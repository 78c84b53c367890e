"""Masks from windows of maps that lie over the whole picture: drawn once, in the resolution of the original.

Legend: k windows, H W the original.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from maskwise.interpolation import enlarging_weights, product
from maskwise.masks import Masks
from maskwise.rle import Size


class Grid(NamedTuple):
    """How a map lies over the original."""

    cells: Size
    """Cells of the map along its height and its width."""
    ratio: tuple[float, float]
    """How many cells a pixel of the original is high and wide."""


def draw(
    windows: Int[Tensor, "k 4"],
    values: Iterable[Float[Tensor, "_ _"]],
    grid: Grid,
    size: Size,
    *,
    outside: float,
    threshold: float,
) -> Masks:
    """Pixels above the threshold, where each map shows its values in a window of cells, and `outside` around that.

    The map is read bilinearly at the centre of each pixel; beyond its border it goes on as it is there.
    """
    drawn, places = [windows.new_zeros(0, dtype=torch.bool)], []
    for (x0, y0, x1, y1), shown in zip(windows.tolist(), values, strict=True):
        (top, bottom), rows = _axis(y0, y1, grid, size, 0, windows.device)
        (left, right), columns = _axis(x0, x1, grid, size, 1, windows.device)
        drawn.append((product(rows, shown - outside, columns.mT) > threshold - outside).flatten())
        places.append((left, top, right, bottom))
    return Masks(torch.cat(drawn), windows.new_tensor(places).reshape(-1, 4), size)


def _axis(
    first: int, end: int, grid: Grid, size: Size, axis: int, device: torch.device
) -> tuple[tuple[int, int], Float[Tensor, "p m"]]:
    """The pixels that show anything of some cells, and how much of each."""
    extent, ratio, pixels = grid.cells[axis], grid.ratio[axis], size[axis]
    start = 0 if first == 0 else math.floor((first - 0.5) / ratio - 0.5)
    stop = pixels if end == extent else math.ceil((end + 0.5) / ratio - 0.5)
    start, stop = min(max(start, 0), pixels), min(max(stop, 0), pixels)
    shown, cells = (torch.arange(*span, device=device) for span in ((start, max(stop, start)), (first, end)))
    return (start, max(stop, start)), enlarging_weights(shown, cells, ratio=ratio, extent=extent)
