"""Mask voting (Dai et al., 2016): boxes that survive suppression get the mean of all masks that were drawn there.

Legend: n regions, whose masks were drawn, k survivors, c classes, m cells along a side of a small mask.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import batched_nms

from maskwise import boxes
from maskwise.interpolation import paste_continuous, product
from maskwise.masks import Masks
from maskwise.rle import Size


class Survivors(NamedTuple):
    """Regions that are reported, best first."""

    which: Int[Tensor, " k"]
    """Position among all regions."""
    labels: Int[Tensor, " k"]
    scores: Float[Tensor, " k"]


def survivors(
    regions: Float[Tensor, "n 4"], scores: Float[Tensor, "n c"], *, min_score: float, nms_iou: float, most: int
) -> Survivors:
    """The best regions after suppression within each class; one may stay for several classes."""
    which, labels = torch.where(scores > min_score)
    value = scores[which, labels]
    keep = batched_nms(regions[which], value, labels, nms_iou)[:most]
    return Survivors(which[keep], labels[keep], value[keep])


def shares(
    regions: Float[Tensor, "n 4"], scores: Float[Tensor, "n c"], kept: Survivors, *, least_iou: float
) -> Float[Tensor, "k n"]:
    """How much each region says about the mask of each survivor: its score for the class, if it lies there too."""
    near = boxes.iou(regions[kept.which], regions) >= least_iou
    near[torch.arange(len(near), device=near.device), kept.which] = True  # a region without area overlaps nothing
    votes = torch.where(near, scores[:, kept.labels].T, 0)
    return votes / votes.sum(1, keepdim=True)


def means(
    drawn: Float[Tensor, "n m m"],
    regions: Float[Tensor, "n 4"],
    votes: Float[Tensor, "k n"],
    size: Size,
    *,
    threshold: float,
) -> Masks:
    """Where the mean of the probabilities, each drawn into its region of the picture, is at least `threshold`."""
    bits, windows = [drawn.new_zeros(0, dtype=torch.bool)], regions.new_zeros(len(votes), 4, dtype=torch.int64)
    for i, vote in enumerate(votes):
        members = torch.where(vote > 0)[0]
        part, windows[i] = _mean(drawn[members], regions[members], vote[members], size, threshold)
        bits.append(part.flatten())
    return Masks(torch.cat(bits), windows, size)


def _mean(
    drawn: Float[Tensor, "n m m"],
    regions: Float[Tensor, "n 4"],
    votes: Float[Tensor, " n"],
    size: Size,
    threshold: float,
) -> tuple[Bool[Tensor, "h w"], Int[Tensor, " 4"]]:
    """Bits and their window, which holds all the regions."""
    (left, top, right, bottom), cells = regions.T, drawn.shape[-1]
    x0, w, across = _axis(left, right, cells, size[1])
    y0, h, down = _axis(top, bottom, cells, size[0])
    # a sum over regions of products of matrices is one product of wider ones, and no h x w a region
    rows = product(votes[:, None, None] * down, drawn).transpose(0, 1).flatten(1)  # h n*m
    columns = across.permute(0, 2, 1).flatten(0, 1)  # n*m w
    return product(rows, columns) >= threshold, torch.tensor([x0, y0, x0 + w, y0 + h], device=regions.device)


def _axis(
    start: Float[Tensor, " n"], end: Float[Tensor, " n"], cells: int, extent: int
) -> tuple[int, int, Float[Tensor, "n p m"]]:
    """First pixel, number of pixels, and how much of each cell each of them shows."""
    first, last = paste_continuous.span(start, end, cells, extent)
    low, length = int(first.min()), max(int(last.max()) - int(first.min()), 0)
    return low, length, paste_continuous.weights(start, end, torch.full_like(first, low), length, cells)
