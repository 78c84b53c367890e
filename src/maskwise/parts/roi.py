"""Regions of interest: which of them a method learns from, and what the feature maps show in them.

Legend: n regions, s cells along a side of what is pooled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align, roi_pool

from maskwise import boxes
from maskwise.parts.convention import Convention
from maskwise.parts.matching import match, sample
from maskwise.structures import Targets

Operator = Literal["align", "warp", "pool"]
"""RoIAlign; RoIWarp, which rounds the region to whole cells first; RoIPool, which rounds its bins too."""


POSITIVES = 0.25
"""Share of the regions with an object, at most, among those that the heads learn from."""


@dataclass(frozen=True, slots=True)
class Regions:
    """Regions of one picture to learn from, those with an object first."""

    boxes: Float[Tensor, "n 4"]
    labels: Int[Tensor, " n"]
    """Of the object; the number of classes for background."""
    matched: Int[Tensor, " p"]
    """Position of the object of each region that has one."""

    @property
    def positive(self) -> Float[Tensor, "p 4"]:
        return self.boxes[: len(self.matched)]

    @property
    def positive_labels(self) -> Int[Tensor, " p"]:
        return self.labels[: len(self.matched)]


@torch.no_grad()
def draw(
    proposals: Float[Tensor, "n 4"],
    targets: Targets,
    *,
    crowds: Float[Tensor, "k 4"],
    background: int,
    total: int = 512,
    positives: float = POSITIVES,
) -> Regions:
    """Draw from the proposals and the boxes of the objects; what lies in a crowd is not background."""
    several = torch.cat([proposals, targets.boxes])
    matches = match(several, targets.boxes, positive=0.5, negative=0.5)
    if len(crowds):
        inside = boxes.intersection(several, crowds).amax(1) > 0.7 * boxes.area(several)
        matches = torch.where(inside & (matches < 0), -2, matches)
    first, rest = sample(matches, total=total, positives=positives)
    labels = torch.cat([targets.labels[matches[first]], targets.labels.new_full((len(rest),), background)])
    return Regions(several[torch.cat([first, rest])], labels, matches[first])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Reads a grid of features in each region, from the level that fits its size (FPN, eq. 1)."""

    size: int
    strides: Sequence[int]
    convention: Convention
    operator: Operator = "align"
    reduce: Literal["average", "maximum"] = "average"

    def __call__(
        self, levels: Sequence[Float[Tensor, "b c _ _"]], regions: Sequence[Float[Tensor, "_ 4"]]
    ) -> Float[Tensor, "n c s s"]:
        """Levels beyond those with a stride here are left out."""
        flat = torch.cat(list(regions))
        picture = torch.cat([torch.full_like(r[:, :1], i) for i, r in enumerate(regions)])
        level = level_of(flat, strides=self.strides)
        if self.convention.inclusive:
            flat = boxes.to_inclusive(flat)
        rois = torch.cat([picture, flat], 1).to(levels[0].dtype)
        if flat.device.type == "cpu" and self.operator != "pool":
            return self._read_rows(levels[: len(self.strides)], rois, level)
        parts = [torch.where(level == i)[0] for i in range(len(self.strides))]
        found = [self._read(x, rois[at], stride) for x, at, stride in zip(levels, parts, self.strides, strict=False)]
        return torch.cat(found)[torch.cat(parts).argsort()]

    def _read(self, x: Float[Tensor, "b c h w"], rois: Float[Tensor, "n 5"], stride: int) -> Float[Tensor, "n c s s"]:
        if self.operator == "pool":
            return roi_pool(x, rois, self.size, 1 / stride)
        if self.operator == "warp":
            rois = torch.cat([rois[:, :1], (rois[:, 1:] / stride).round() * stride], 1)
        if self.reduce == "average":
            return roi_align(x, rois, self.size, 1 / stride, self.convention.sampling, self._aligned)
        # four points a bin, as bins of half the side with one point each
        return F.max_pool2d(roi_align(x, rois, 2 * self.size, 1 / stride, 1, self._aligned), 2)

    def _read_rows(
        self, levels: Sequence[Float[Tensor, "b c _ _"]], rois: Float[Tensor, "n 5"], level: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c s s"]:
        """The same on a CPU, where torchvision's operator uses one core and strides through memory."""
        corners = rois[:, 1:] / rois.new_tensor(self.strides)[level, None]
        if self.operator == "warp":
            corners = corners.round()
        grid = partial(align_rows, levels, rois[:, 0].to(torch.int64), level, corners, aligned=self._aligned)
        if self.reduce == "average":
            return grid(size=self.size, sampling=self.convention.sampling)
        return F.max_pool2d(grid(size=2 * self.size, sampling=1), 2)

    @property
    def _aligned(self) -> bool:
        return self.convention.aligned and self.operator == "align"


ENTRIES_AT_ONCE = 1 << 22
"""Points that are read at a time: a region of a whole mosaic has very many."""


def align_rows(
    levels: Sequence[Float[Tensor, "b c _ _"]],
    picture: Int[Tensor, " n"],
    level: Int[Tensor, " n"],
    corners: Float[Tensor, "n 4"],
    *,
    size: int,
    sampling: int,
    aligned: bool,
) -> Float[Tensor, "n c s s"]:
    """RoIAlign as a weighted sum of rows: a cell of a map, with all its channels, is one row of a table of all levels.

    Corners are in cells of the region's level. Equals torchvision's `roi_align`, and has a gradient for corners too.
    """
    table = torch.cat([x.permute(0, 2, 3, 1).flatten(0, 2) for x in levels])
    shapes = torch.tensor([x.shape[-2:] for x in levels], device=corners.device)
    starts = torch.tensor([0, *(len(x) * x.shape[2] * x.shape[3] for x in levels)], device=corners.device).cumsum(0)
    height, width = shapes[level].unbind(1)
    start = starts[level] + picture * height * width
    corners = corners - 0.5 if aligned else corners
    low, sides = corners[:, :2], corners[:, 2:] - corners[:, :2]
    sides = sides if aligned else sides.clamp(min=1)
    points = torch.full_like(sides, sampling) if sampling else (sides.detach() / size).ceil().clamp(min=1)
    points = points.to(torch.int64)
    chunk = (points.prod(1).cumsum(0) * (4 * size**2)).sub(1).clamp(min=0) // ENTRIES_AT_ONCE
    found = [table.new_zeros(0, size, size, table.shape[1])]
    for part in torch.split(torch.arange(len(low)), chunk.unique_consecutive(return_counts=True)[1].tolist()):
        across = _between(low[part, 0], sides[part, 0], points[part, 0], width[part], size)
        down = _between(low[part, 1], sides[part, 1], points[part, 1], height[part], size)
        found.append(_weigh(table, start[part], width[part], points[part], across, down, size))
    return torch.cat(found).permute(0, 3, 1, 2)


class Between(NamedTuple):
    """Along one axis, for each point of each bin: the cells on both sides of it, one after the other, and how near."""

    cells: Int[Tensor, "n s j"]
    weights: Float[Tensor, "n s j"]


def _between(
    low: Float[Tensor, " n"],
    side: Float[Tensor, " n"],
    points: Int[Tensor, " n"],
    extent: Int[Tensor, " n"],
    size: int,
) -> Between:
    most = int(points.max())
    step = side / (size * points)
    place = torch.arange(size)[:, None] * points[:, None, None] + torch.arange(most)  # n s k
    at = low[:, None, None] + (place + 0.5) * step[:, None, None]
    end = extent[:, None, None] - 1
    inside = (at >= -1) & (at <= end + 1)
    at = torch.minimum(at.clamp(min=0), end.to(at.dtype))
    cell = at.detach().floor().to(torch.int64)
    far = at - cell
    weights = torch.stack([1 - far, far], -1) * inside[..., None] / points[:, None, None, None]
    return Between(torch.stack([cell, torch.minimum(cell + 1, end)], -1).flatten(2), weights.flatten(2))


def _weigh(
    table: Float[Tensor, "cells c"],
    start: Int[Tensor, " n"],
    width: Int[Tensor, " n"],
    points: Int[Tensor, "n 2"],
    across: Between,
    down: Between,
    size: int,
) -> Float[Tensor, "n s s c"]:
    """Regions differ in points a bin, so the entries of all bins lie one after another."""
    entries = (4 * points.prod(1)).repeat_interleave(size**2)
    first = entries.cumsum(0) - entries
    bins = torch.arange(len(entries)).repeat_interleave(entries)
    region, cell = bins // size**2, bins % size**2
    entry = torch.arange(len(bins)) - first[bins]
    columns = 2 * points[region, 0]
    j, i = (region, cell // size, entry // columns), (region, cell % size, entry % columns)
    rows = start[region] + down.cells[j] * width[region] + across.cells[i]
    weights = down.weights[j] * across.weights[i]
    found = F.embedding_bag(rows, table, first, mode="sum", per_sample_weights=weights.to(table.dtype))
    return found.unflatten(0, (len(start), size, size))


def level_of(regions: Float[Tensor, "n 4"], *, strides: Sequence[int]) -> Int[Tensor, " n"]:
    """Position of the level for each region: one of 224 pixels belongs on stride 16, and so on by factors of two."""
    level = torch.floor(4 + torch.log2(boxes.area(regions).clamp(min=0).sqrt() / 224 + 1e-6))
    finest, coarsest = (int(stride).bit_length() - 1 for stride in (strides[0], strides[-1]))
    return level.clamp(finest, coarsest).to(torch.int64) - finest
