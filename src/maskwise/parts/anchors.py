"""Anchors: boxes of fixed sizes and shapes at every cell of a feature map."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from maskwise.parts.convention import AnchorStyle

RATIOS = (0.5, 1.0, 2.0)
"""Height to width."""


def base(
    sizes: Sequence[float], *, stride: int, style: AnchorStyle = "exact", ratios: Sequence[float] = RATIOS
) -> Float[Tensor, "a 4"]:
    """Anchors of the cell at the origin: for each size (root of the area) all ratios."""
    size, ratio = torch.tensor(sizes)[:, None], torch.tensor(ratios)
    if style == "legacy":  # rounded at the size of the stride, then enlarged; the middle of the cell is the centre
        width = (stride**2 / ratio).sqrt().round()
        sides = torch.stack([width, (width * ratio).round()], 1) * (size / stride)[..., None]
        return _around(sides.reshape(-1, 2), stride / 2)
    sides = torch.stack([size / ratio.sqrt(), size * ratio.sqrt()], -1).reshape(-1, 2)
    return _around(sides, 0.0).round() if style == "rounded" else _around(sides, 0.0)


def grid(anchors: Float[Tensor, "a 4"], shape: tuple[int, int], *, stride: int) -> Float[Tensor, "cells 4"]:
    """Anchors of every cell of a map, row by row, those of a cell together."""
    y, x = (torch.arange(n, device=anchors.device) * stride for n in shape)
    y, x = torch.meshgrid(y, x, indexing="ij")
    corners = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    return (corners + anchors).reshape(-1, 4)


def _around(sides: Float[Tensor, "a 2"], centre: float) -> Float[Tensor, "a 4"]:
    return torch.cat([centre - sides / 2, centre + sides / 2], 1)
