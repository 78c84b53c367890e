"""Regions of interest: which of them a method learns from, and what the feature maps show in them.

Legend: n regions, s cells along a side of what is pooled.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int32
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align, roi_pool

from maskwise import boxes
from maskwise.interpolation import at_points
from maskwise.parts.convention import Convention
from maskwise.parts.matching import BETWEEN, match, sample
from maskwise.structures import Targets

Operator = Literal["align", "warp", "pool"]
"""RoIAlign; RoIWarp, which rounds the region to whole cells first; RoIPool, which rounds its bins too."""


POSITIVES = 0.25
"""Share of the regions with an object, at most, among those that the heads learn from."""


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Regions of one picture to learn from, those with an object first."""

    boxes: Float[Tensor, "n 4"]
    labels: Int[Tensor, " n"]
    """Labels of the objects; the number of classes for background."""
    matched: Int[Tensor, " p"]
    """Position of the object of each region that has one."""

    @property
    def positive(self) -> Float[Tensor, "p 4"]:
        return self.boxes[: len(self.matched)]

    @property
    def positive_labels(self) -> Int[Tensor, " p"]:
        return self.labels[: len(self.matched)]


@torch.no_grad()
def sampled(
    proposals: Float[Tensor, "n 4"],
    targets: Targets,
    *,
    crowds: Float[Tensor, "k 4"],
    background: int,
    total: int = 512,
) -> Regions:
    """Some of the proposals and of the boxes of the objects, at random; what lies in a crowd is not background."""
    candidates = torch.cat([proposals, targets.boxes])
    matches = match(candidates, targets.boxes, positive=0.5, negative=0.5)
    matches = torch.where(in_crowd(candidates, crowds) & (matches < 0), BETWEEN, matches)
    first, rest = sample(matches, total=total, positives=POSITIVES)
    return chosen(candidates, targets, matches[first], first, rest, background=background)


def in_crowd(candidates: Float[Tensor, "n 4"], crowds: Float[Tensor, "k 4"]) -> Bool[Tensor, " n"]:
    return (boxes.intersection(candidates, crowds) > 0.7 * boxes.area(candidates)[:, None]).any(1)


def chosen(
    candidates: Float[Tensor, "n 4"],
    targets: Targets,
    matched: Int[Tensor, " p"],
    first: Int[Tensor, " p"],
    rest: Int[Tensor, " q"],
    *,
    background: int,
) -> Regions:
    """Candidates that stand for an object each, then candidates that stand for none."""
    labels = torch.cat([targets.labels[matched], targets.labels.new_full((len(rest),), background)])
    return Regions(candidates[torch.cat([first, rest])], labels, matched)


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
        dtype = levels[0].dtype
        exact = torch.promote_types(dtype, torch.float32)  # bfloat16 knows the pixels of a side to a multiple of 8
        maps, rois = [x.to(exact) for x in levels[: len(self.strides)]], torch.cat([picture, flat], 1).to(exact)
        if flat.device.type == "cpu" and self.operator != "pool":
            return self._read_rows(maps, rois, level).to(dtype)
        parts = [torch.where(level == i)[0] for i in range(len(self.strides))]
        pooled = [self._read(x, rois[at], stride) for x, at, stride in zip(maps, parts, self.strides, strict=True)]
        return torch.cat(pooled)[torch.cat(parts).argsort()].to(dtype)

    def _read(self, x: Float[Tensor, "b c h w"], rois: Float[Tensor, "n 5"], stride: int) -> Float[Tensor, "n c s s"]:
        if self.operator == "pool":
            return roi_pool(x, rois, self.size, 1 / stride)
        aligned = self.convention.aligned
        if self.operator == "align" and self.reduce == "average":
            return roi_align(x, rois, self.size, 1 / stride, self.convention.sampling, aligned)
        # four points a bin, as bins of half the side with one point each
        if self.operator == "warp":
            points = warp(x, rois, 2 * self.size, stride=stride)
        else:
            points = roi_align(x, rois, 2 * self.size, 1 / stride, 1, aligned)
        return F.max_pool2d(points, 2) if self.reduce == "maximum" else F.avg_pool2d(points, 2)

    def _read_rows(
        self, levels: Sequence[Float[Tensor, "b c _ _"]], rois: Float[Tensor, "n 5"], level: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c s s"]:
        """The same on a CPU, where torchvision's operator uses one core and strides through memory."""
        corners = rois[:, 1:] / rois.new_tensor(self.strides)[level, None]
        warped = self.operator == "warp"
        corners = to_cells(corners) + 0.5 if warped else corners  # in whose cells a whole number is the middle
        aligned, sampling = (True, 2) if warped else (self.convention.aligned, self.convention.sampling)
        picture, grid = rois[:, 0].to(torch.int64), partial(align_rows, levels, aligned=aligned)
        if self.reduce == "average":
            return grid(picture, level, corners, size=self.size, sampling=sampling)
        # before the maximum there is four times as much: little enough to stay in a cache, as much as the maps at least
        count = max(FEW, sum(x[:, 0].numel() for x in levels) // (2 * self.size) ** 2)
        parts = zip(picture.split(count), level.split(count), corners.split(count), strict=True)
        return torch.cat([F.max_pool2d(grid(*part, size=2 * self.size, sampling=1), 2) for part in parts])


def warp(
    x: Float[Tensor, "b c h w"], rois: Float[Tensor, "n 5"], size: int, *, stride: int
) -> Float[Tensor, "n c s s"]:
    """RoIWarp (Dai et al., 2016): an even grid over each region, its corners rounded to whole cells."""
    return on_grid(x, rois[:, 0], to_cells(rois[:, 1:] / stride), size)


def on_grid(
    x: Float[Tensor, "b c h w"], picture: Float[Tensor, " n"], corners: Float[Tensor, "n 4"], size: int
) -> Float[Tensor, "n c s s"]:
    """Features at the points of an even grid between corners, in cells, which have a gradient."""
    share = (torch.arange(size, device=x.device) + 0.5) / size
    at = corners[:, None, :2] + share[:, None] * (corners[:, 2:] - corners[:, :2])[:, None]  # n s 2
    across, down = at.clamp(min=0).minimum(at.new_tensor([x.shape[3] - 1, x.shape[2] - 1])).unbind(2)
    points = torch.stack(torch.broadcast_tensors(across[:, None], down[:, :, None]), 3)  # n s s 2
    parts = [torch.where(picture == i)[0] for i in range(len(x))]
    read = [at_points(one[None], points[part].flatten(0, 1)[None])[0] for one, part in zip(x, parts, strict=True)]
    return torch.cat(read, 1).unflatten(1, (len(corners), size)).transpose(0, 1)[torch.cat(parts).argsort()]


def to_cells(corners: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
    """Rounded to whole cells; the gradient passes as if they were not."""
    return corners + (corners.round() - corners).detach()


FEW = 32
"""Regions that are max-pooled at a time, at least."""
READ_AT_ONCE = 1 << 22
"""Cells that are read together, repeats included, at most: a region of a whole mosaic has very many."""


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
    shapes = corners.new_tensor([x.shape[-2:] for x in levels], dtype=torch.int32)
    starts = corners.new_tensor([0, *(x[:, 0].numel() for x in levels)], dtype=torch.int32).cumsum(0)
    height, width = shapes[level].unbind(1)
    start = (starts[level] + picture * height * width).to(torch.int32)
    corners = corners - 0.5 if aligned else corners
    low, sides = corners[:, :2], corners[:, 2:] - corners[:, :2]
    sides = sides if aligned else sides.clamp(min=1)
    points = torch.full_like(sides, sampling) if sampling else (sides.detach() / size).ceil().clamp(min=1)
    groups: list[_Points] = []
    for along in points.unique(dim=0):
        i, j = (int(n) for n in along)
        for at in torch.where((points == along).all(1))[0].split(max(1, READ_AT_ONCE // (4 * i * j * size**2))):
            column, across = _between(low[at, 0], sides[at, 0], width[at], size, i)
            row, down = _between(low[at, 1], sides[at, 1], height[at], size, j)
            row = row * width[at, None, None] + start[at, None, None]
            cells = (row[:, :, None, :, None] + column[:, None, :, None, :]).flatten()
            groups.append(_Points(at, cells, (down[:, :, None, :, None] * across[:, None, :, None, :]).flatten()))
    bins = torch.cat([table[:0], *(_weighted(table, part, size) for part in _together(groups))])
    order = torch.cat([level[:0], *(group.regions for group in groups)])
    return bins.unflatten(0, (-1, size, size))[order.argsort()].permute(0, 3, 1, 2)


class _Points(NamedTuple):
    """Points of some regions with equally many of them a bin, region by region and bin by bin."""

    regions: Int[Tensor, " n"]
    cells: Int32[Tensor, " e"]
    weights: Float[Tensor, " e"]


def _together(groups: list[_Points]) -> Iterator[list[_Points]]:
    """As many at a time as may be read: each reading has a gradient of the size of the table."""
    part, total = [], 0
    for group in groups:
        if part and total + len(group.cells) > READ_AT_ONCE:
            yield part
            part, total = [], 0
        part.append(group)
        total += len(group.cells)
    if part:
        yield part


def _weighted(table: Float[Tensor, "cells c"], groups: list[_Points], size: int) -> Float[Tensor, "bins c"]:
    cells, weights = (torch.cat(v) for v in ([g.cells for g in groups], [g.weights for g in groups]))
    bins = [len(g.regions) * size**2 for g in groups]
    each = [len(g.cells) // n for g, n in zip(groups, bins, strict=True)]
    length = torch.tensor(each, dtype=torch.int32, device=cells.device).repeat_interleave(torch.tensor(bins))
    first = torch.cat([length.new_zeros(1), length.cumsum(0, dtype=torch.int32)[:-1]])
    return F.embedding_bag(cells, table, first, mode="sum", per_sample_weights=weights.to(table.dtype))


def _between(
    low: Float[Tensor, " n"], side: Float[Tensor, " n"], extent: Int32[Tensor, " n"], size: int, points: int
) -> tuple[Int32[Tensor, "n s j"], Float[Tensor, "n s j"]]:
    """Along one axis, for the points of each bin: the cells on both sides of each, and how near it is to them."""
    place = (torch.arange(size * points, device=low.device) + 0.5).view(size, points) / (size * points)
    at, end = low[:, None, None] + side[:, None, None] * place, extent[:, None, None] - 1
    inside = (at >= -1) & (at <= end + 1)
    at = torch.minimum(at.clamp(min=0), end.to(at.dtype))
    cell = at.detach().to(torch.int32)
    far = at - cell
    weights = torch.stack([1 - far, far], -1) * (inside[..., None] / points)
    return torch.stack([cell, torch.minimum(cell + 1, end)], -1).flatten(2), weights.flatten(2)


def level_of(regions: Float[Tensor, "n 4"], *, strides: Sequence[int]) -> Int[Tensor, " n"]:
    """Position of the level for each region: one of 224 pixels belongs on stride 16, and so on by factors of two."""
    level = torch.floor(4 + torch.log2(boxes.area(regions).clamp(min=0).sqrt() / 224 + 1e-6))
    finest, coarsest = (int(stride).bit_length() - 1 for stride in (strides[0], strides[-1]))
    return level.clamp(finest, coarsest).to(torch.int64) - finest
