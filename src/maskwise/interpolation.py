"""One axis of bilinear interpolation as a small matrix. Two of them, one a side, replace sampling on a dense image.

Bilinear weights are a product of a weight in x and one in y. So reading a grid off a mask, or drawing a small mask into
a box, is `down @ mask @ across.T`, exactly, and costs what the window costs and not what the picture costs. Points that
are no grid are read one by one.

Legend: k regions, m cells along a side, p pixels along a window.
"""

from contextlib import nullcontext
from functools import reduce
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F


def product(*matrices: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Product of matrices in their own precision, under autocast too: 16 bits cannot count the pixels of an object."""
    kind = matrices[0].device.type
    known = torch.amp.is_autocast_available(kind)
    with torch.autocast(kind, enabled=False) if known else nullcontext():
        return reduce(torch.matmul, matrices)


def grid_weights(
    start: Float[Tensor, " k"], end: Float[Tensor, " k"], first: Int[Tensor, " k"], pixels: int, cells: int, extent: int
) -> Float[Tensor, "k m p"]:
    """How much of each pixel, from `first` on, goes into each cell of a grid between start and end.

    RoIAlign's rule: per cell as many evenly spaced points as it is pixels long, rounded up; a point up to one pixel
    outside the picture (0..extent) takes the border's value, one further out takes zero.
    """
    cell = (end - start) / cells
    points = torch.ceil(cell).clamp(min=1).to(torch.int64)
    j = torch.arange(int(points.max()) if len(points) else 0, device=start.device)
    inside = torch.arange(cells, device=start.device)[:, None] + (j + 0.5) / points[:, None, None]  # k m j
    at = start[:, None, None] - 0.5 + inside * cell[:, None, None]
    used = (j < points[:, None, None]) & (at >= -1) & (at <= extent)
    at = at.clamp(0, extent - 1)
    low = at.floor()
    share = torch.where(used, 1 / points[:, None, None], 0)
    near = (low - first[:, None, None]).to(torch.int64)
    return _scatter(near, share * (1 - (at - low)), pixels) + _scatter(near + 1, share * (at - low), pixels)


def coverage(
    start: Float[Tensor, " k"], end: Float[Tensor, " k"], first: Int[Tensor, " k"], pixels: int
) -> Float[Tensor, "k p"]:
    """Share of each pixel, from `first` on, that lies between start and end."""
    pixel = torch.arange(pixels, device=start.device) + first[:, None]
    return (torch.minimum(end[:, None], pixel + 1) - torch.maximum(start[:, None], pixel)).clamp(min=0)


def enlarging_weights(
    pixels: Int[Tensor, " p"], cells: Int[Tensor, " m"], *, ratio: float, extent: int
) -> Float[Tensor, "p m"]:
    """How much of each of some cells of an axis of `extent` cells each pixel shows that is `ratio` cells long.

    Read at the pixel's centre; beyond the outermost cells' centres the axis goes on as they are.
    """
    at = ((pixels + 0.5) * ratio - 0.5).clamp(0, extent - 1)
    return (1 - (at[:, None] - cells).abs()).clamp(min=0)


def at_points(x: Float[Tensor, "b c h w"], points: Float[Tensor, "b n m 2"]) -> Float[Tensor, "b c n m"]:
    """Read at x and y in cells, of which whole numbers are the middles; beyond the border there are zeros."""
    height, width = x.shape[2:]
    from_border_to_border = (2 * points + 1) / points.new_tensor([width, height]) - 1  # -1 to 1
    return F.grid_sample(x, from_border_to_border, align_corners=False)


class Pasting(Protocol):
    """One way to draw a small mask into a box, along one axis."""

    def span(
        self, start: Float[Tensor, " k"], end: Float[Tensor, " k"], cells: int, extent: int
    ) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"]]:
        """First pixel that is drawn, and the one after the last."""
        ...

    def weights(
        self, start: Float[Tensor, " k"], end: Float[Tensor, " k"], first: Int[Tensor, " k"], pixels: int, cells: int
    ) -> Float[Tensor, "k p m"]:
        """How much of each cell each pixel, from `first` on, shows."""
        ...

    def accept(self, value: Float[Tensor, "k h w"], threshold: float) -> Bool[Tensor, "k h w"]: ...


class _Continuous:
    """The small mask is read at the centre of each pixel; outside its grid it is zero (grid_sample's rule)."""

    def span(
        self, start: Float[Tensor, " k"], end: Float[Tensor, " k"], cells: int, extent: int
    ) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"]]:
        margin = (end - start) / (2 * cells)  # half a cell around the box is still between the last cell and zero
        first, last = torch.ceil(start - margin - 0.5), torch.floor(end + margin - 0.5)
        return _pixels(first, extent), _pixels(last + 1, extent)

    def weights(
        self, start: Float[Tensor, " k"], end: Float[Tensor, " k"], first: Int[Tensor, " k"], pixels: int, cells: int
    ) -> Float[Tensor, "k p m"]:
        pixel = torch.arange(pixels, device=start.device) + first[:, None] + 0.5
        at = (pixel - start[:, None]) / (end - start)[:, None].clamp(min=1e-6) * cells - 0.5  # k p
        return (1 - (at[..., None] - torch.arange(cells, device=start.device)).abs()).clamp(min=0)

    def accept(self, value: Float[Tensor, "k h w"], threshold: float) -> Bool[Tensor, "k h w"]:
        return value >= threshold


class _Legacy:
    """The mask padded by one cell, its box grown alike and cut to whole pixels, both resized to each other."""

    def span(
        self, start: Float[Tensor, " k"], end: Float[Tensor, " k"], cells: int, extent: int
    ) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"]]:
        first, last = self._whole(start, end, cells)
        return _pixels(first, extent), _pixels(first + (last - first + 1).clamp(min=1), extent)

    def weights(
        self, start: Float[Tensor, " k"], end: Float[Tensor, " k"], first: Int[Tensor, " k"], pixels: int, cells: int
    ) -> Float[Tensor, "k p m"]:
        lowest, last = self._whole(start, end, cells)
        length = (last - lowest + 1).clamp(min=1)[:, None]
        pixel = torch.arange(pixels, device=start.device) + first[:, None] - lowest[:, None]
        at = ((pixel + 0.5) * (cells + 2) / length - 0.5).clamp(0, cells + 1)
        return (1 - (at[..., None] - torch.arange(1, cells + 1, device=start.device)).abs()).clamp(min=0)

    def accept(self, value: Float[Tensor, "k h w"], threshold: float) -> Bool[Tensor, "k h w"]:
        return value > threshold

    @staticmethod
    def _whole(start: Tensor, end: Tensor, cells: int) -> tuple[Tensor, Tensor]:
        middle, half = (start + end) * 0.5, (end - start) * 0.5 * ((cells + 2) / cells)
        return (middle - half).trunc(), (middle + half).trunc()


paste_continuous: Pasting = _Continuous()
paste_legacy: Pasting = _Legacy()


def nearest(old: int, new: int) -> Int[np.ndarray, " new"]:
    """The pixel of an axis of `old` pixels in which the centre of each of `new` pixels lies."""
    return (2 * np.arange(new) + 1) * old // (2 * new)


def _pixels(at: Tensor, extent: int) -> Int[Tensor, " k"]:
    return at.clamp(0, extent).to(torch.int64)


def _scatter(near: Int[Tensor, "k m j"], share: Float[Tensor, "k m j"], pixels: int) -> Float[Tensor, "k m p"]:
    inside = (near >= 0) & (near < pixels)
    out = share.new_zeros(*near.shape[:2], pixels)
    return out.scatter_add_(2, near.clamp(0, pixels - 1), torch.where(inside, share, 0))
