"""The keypoint head of Mask R-CNN: each keypoint of an instance is the one right cell of a small map.

Legend: n regions, k keypoints, m cells along a side of a map, h w a region in pixels.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from maskwise import boxes
from maskwise.interpolation import product
from maskwise.masks import cells_at_once, stacks
from maskwise.parts import norms
from maskwise.parts.roi import Regions
from maskwise.structures import Targets

NOWHERE = -100
"""In the place of the cell of a keypoint that is not labelled or lies outside of its region."""


class KeypointHead(nn.Module):
    """Eight convolutions, one that doubles the side to one map a keypoint, and bilinear enlargement to twice that."""

    def __init__(self, channels: int, keypoints: int, *, width: int = 512):
        super().__init__()
        self.convolutions = nn.Sequential(*norms.stack(channels, 8, width=width))
        self.score = nn.ConvTranspose2d(width, keypoints, 4, stride=2, padding=1)
        nn.init.normal_(self.score.weight, std=0.001)
        nn.init.zeros_(self.score.get_parameter("bias"))

    def forward(self, features: Float[Tensor, "n d s s"]) -> Float[Tensor, "n k m m"]:
        maps = self.score(self.convolutions(features))
        return F.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)


@torch.no_grad()
def with_keypoints(regions: Regions, targets: Targets) -> Regions:
    """The positives that show a keypoint of their object; from the others there is nothing to learn."""
    points, region = _of(regions, targets), regions.positive
    inside = (points[..., :2] >= region[:, None, :2]) & (points[..., :2] <= region[:, None, 2:])
    some = (inside.all(2) & (points[..., 2] > 0)).any(1)
    return Regions(region[some], regions.positive_labels[some], regions.matched[some])


def _of(regions: Regions, targets: Targets) -> Float[Tensor, "n k 3"]:
    """Keypoints of the objects of the positives."""
    if targets.keypoints is None:
        if len(targets):
            raise ValueError(f"the keypoint head learns from keypoints, and {len(targets)} objects have none")
        return regions.boxes.new_zeros(0, 0, 3)
    return targets.keypoints[regions.matched]


@torch.no_grad()
def cells_of(points: Float[Tensor, "n k 3"], regions: Float[Tensor, "n 4"], *, cells: int) -> Int[Tensor, "n k"]:
    """In which cell of the grid over its region each keypoint lies, counted row by row."""
    at = (points[..., :2] - regions[:, None, :2]) * (cells / boxes.sides(regions).clamp(min=1e-6))[:, None]
    at = torch.where(points[..., :2] == regions[:, None, 2:], cells - 1, at.floor())  # on the edge is inside
    known = (points[..., 2] > 0) & ((at >= 0) & (at < cells)).all(2)
    x, y = at.to(torch.int64).unbind(2)
    return torch.where(known, y * cells + x, NOWHERE)


def loss(
    maps: Float[Tensor, "n k m m"],
    regions: list[Regions],
    targets: list[Targets],
    *,
    inclusive: bool,
    over: float | None = None,
) -> Float[Tensor, ""]:
    """Cross entropy over the cells of each map, the sum divided by `over`, or by the number of keypoints shown."""
    k, m = maps.shape[1:3]
    wanted = [maps.new_zeros(0, k, dtype=torch.int64)]
    for r, t in zip(regions, targets, strict=True):
        if len(points := _of(r, t)):
            if points.shape[1] != k:
                raise ValueError(f"the keypoint head knows {k} keypoints, the objects have {points.shape[1]}")
            region = boxes.to_inclusive(r.positive) if inclusive else r.positive
            wanted.append(cells_of(points, region, cells=m))
    place = torch.cat(wanted)
    entropy = F.cross_entropy(maps.flatten(0, 1).flatten(1), place.flatten(), ignore_index=NOWHERE, reduction="sum")
    return entropy / ((place != NOWHERE).sum().clamp(min=1) if over is None else over)


@torch.no_grad()
def decode(
    maps: Float[Tensor, "n k m m"], regions: Float[Tensor, "n 4"], *, score: Literal["probability", "logit"]
) -> Float[Tensor, "n k 3"]:
    """x, y and score of each keypoint: where its map, enlarged to the pixels of the region (bicubic), is highest.

    A region is rounded up to whole pixels, which lie a little closer together then. The probability is the softmax of
    the enlarged map with the sum over the small one, so that it does not depend on the size of the region.
    """
    side = boxes.sides(regions).clamp(min=1)
    pixels = side.ceil().to(torch.int64)
    best, place = maps.new_zeros(maps.shape[:2]), pixels.new_zeros(*maps.shape[:2], 2)
    padded = F.pad(maps, (2, 2, 2, 2), mode="replicate")
    for which, h, w in stacks(pixels.flip(1), cells=cells_at_once(maps.device) // maps.shape[1]):
        width, height = pixels[which].unbind(1)
        down, across = (_cubic(n, most, cells=maps.shape[-1])[:, None] for n, most in ((height, h), (width, w)))
        large = product(down, padded[which], across.mT)  # j k h w
        y, x = torch.arange(h, device=maps.device)[:, None], torch.arange(w, device=maps.device)
        outside = (y >= height[:, None, None]) | (x >= width[:, None, None])
        best[which], at = large.masked_fill(outside[:, None], -torch.inf).flatten(2).max(2)
        place[which] = torch.stack([at % w, at.div(w, rounding_mode="floor")], 2)
    at = (place + 0.5) * (side / pixels)[:, None] + regions[:, None, :2]
    if score == "probability":
        best = (best - maps.flatten(2).logsumexp(2)).exp()
    return torch.cat([at, best[..., None]], 2)


def _cubic(length: Int[Tensor, " n"], most: int, *, cells: int, a: float = -0.75) -> Float[Tensor, "n p m"]:
    """How much of each cell, and of two more at either end, pixels 0 .. most of an axis of some length show (Keys)."""
    pixel = torch.arange(most, device=length.device) + 0.5
    at = pixel * cells / length[:, None] - 0.5
    d = (at[..., None] - torch.arange(-2, cells + 2, device=length.device)).abs()
    near, far = ((a + 2) * d - (a + 3)) * d**2 + 1, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, 0))
