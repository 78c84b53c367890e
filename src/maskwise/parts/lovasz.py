"""Lovász hinge (Berman et al., 2018): how far masks are from IoU 1, as a convex function of each pixel's margin.

Legend: n pixels of all masks together, k masks.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskwise.parts.label_maps import sum_of_each


def hinge(
    logits: Float[Tensor, " n"], truth: Bool[Tensor, " n"], which: Int[Tensor, " n"], count: int
) -> Float[Tensor, " k"]:
    """The loss of each mask. Pixel i is one of mask `which[i]`: in it where truth is true, drawn where its logit is
    above 0.

    Errors 1 - logit * (1 if truth else -1), from the largest down; each counts by what the Jaccard loss rises when its
    pixel becomes wrong after those before it. A pixel with an error of e changes its mask's loss by at most e, so one
    whose error is next to nothing may be left out, unless it belongs to the mask.
    """
    error = (1 - torch.where(truth, logits, -logits)).relu()
    order = _worst_first(error.detach(), which)
    mask = which[order]
    return sum_of_each((error[order] * _steps(truth[order], mask, count))[None], mask, count)[0]


def _worst_first(error: Float[Tensor, " n"], which: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Masks one after the other, each from its worst pixel on.

    One sorting instead of two: the bits of numbers that are not negative are ordered as the numbers are.
    """
    bits = error.float().view(torch.int32).long()
    return (which * 2**32 - bits).argsort(stable=True)


@torch.no_grad()
def _steps(truth: Bool[Tensor, " n"], which: Int[Tensor, " n"], count: int) -> Float[Tensor, " n"]:
    """By how much each pixel, in its order, makes the Jaccard loss of its mask rise: 1 - left / (all + surplus).

    Not as differences of losses, of which little is left where there are many pixels.
    """
    size = torch.bincount(which, minlength=count)
    start = size.cumsum(0) - size
    hits = torch.cat([size.new_zeros(1), truth.long().cumsum(0)])
    inside = torch.bincount(which[truth], minlength=count)[which]
    rank = torch.arange(1, len(which) + 1, device=which.device) - start[which]
    missed = hits[1:] - hits[start[which]]
    left, union = inside - missed, inside + rank - missed
    # a pixel of a union of one is all that there is
    return torch.where(truth | (union == 1), 1 / union, left / (union * (union - 1)).clamp(min=1))
