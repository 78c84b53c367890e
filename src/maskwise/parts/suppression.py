"""Soft-NMS (Bodla et al., 2017): a box beside a better one loses score, not its place."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from maskwise import boxes


def soft_nms(
    several: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], labels: Int[Tensor, " n"], *, sigma: float, least: float
) -> tuple[Int[Tensor, " m"], Float[Tensor, " n"]]:
    """Which boxes keep more than `least`, best first, and all lowered scores.

    Gaussian: in the order of their scores as they are then, each box multiplies those of its class that follow it by
    exp(-iou² / sigma).
    """
    lowered = scores.clone()
    for label in labels.unique():
        left = torch.where(labels == label)[0]
        while len(left):
            best = lowered[left].argmax()
            top, left = left[best], torch.cat([left[:best], left[best + 1 :]])
            overlap = boxes.iou(several[left], several[top][None])[:, 0]
            lowered[left] *= torch.exp(-(overlap**2) / sigma)
            left = left[lowered[left] > least]
    order = lowered.argsort(descending=True, stable=True)
    return order[lowered[order] > least], lowered
