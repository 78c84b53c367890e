"""Regions of interest: which of them a method learns from, and what the feature maps show in them.

Legend: n regions, s cells along a side of what is pooled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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
    positives: float = 0.25,
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
        if len(self.strides) == 1:
            return self._read(levels[0], rois, self.strides[0])
        out = levels[0].new_zeros(len(rois), levels[0].shape[1], self.size, self.size)
        for i, stride in enumerate(self.strides):
            at = torch.where(level == i)[0]
            out = out.index_put((at,), self._read(levels[i], rois[at], stride))
        return out

    def _read(self, x: Float[Tensor, "b c h w"], rois: Float[Tensor, "n 5"], stride: int) -> Float[Tensor, "n c s s"]:
        if self.operator == "pool":
            return roi_pool(x, rois, self.size, 1 / stride)
        aligned = self.convention.aligned and self.operator == "align"
        if self.operator == "warp":
            rois = torch.cat([rois[:, :1], (rois[:, 1:] / stride).round() * stride], 1)
        if self.reduce == "average":
            return roi_align(x, rois, self.size, 1 / stride, self.convention.sampling, aligned)
        # four points a bin, as bins of half the side with one point each
        return F.max_pool2d(roi_align(x, rois, 2 * self.size, 1 / stride, 1, aligned), 2)


def level_of(regions: Float[Tensor, "n 4"], *, strides: Sequence[int]) -> Int[Tensor, " n"]:
    """Position of the level for each region: one of 224 pixels belongs on stride 16, and so on by factors of two."""
    level = torch.floor(4 + torch.log2(boxes.area(regions).clamp(min=0).sqrt() / 224 + 1e-6))
    finest, coarsest = (int(stride).bit_length() - 1 for stride in (strides[0], strides[-1]))
    return level.clamp(finest, coarsest).to(torch.int64) - finest
