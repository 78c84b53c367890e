"""Soft-NMS (Bodla et al., 2017): a box beside a better one loses score, not its place."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from maskwise import boxes


def soft_nms(
    candidates: Float[Tensor, "n 4"],
    scores: Float[Tensor, " n"],
    labels: Int[Tensor, " n"],
    *,
    sigma: float,
    least: float,
    most: int | None = None,
) -> tuple[Int[Tensor, " m"], Float[Tensor, " n"]]:
    """Which boxes keep more than `least`, best first, at most `most`; and all scores as these have lowered them.

    Gaussian: in the order of their scores as they are then, each box multiplies those of its class that follow it by
    exp(-iou² / sigma). No score rises, so the best come first, whatever their class.
    """
    lowered, follows, keep = scores.clone(), torch.ones_like(labels, dtype=torch.bool), []
    for _ in range(len(scores) if most is None else min(most, len(scores))):
        best = torch.where(follows, lowered, -torch.inf).argmax()
        if not lowered[best] > least:
            break
        keep.append(best)
        follows[best] = False
        overlap = boxes.iou(candidates, candidates[best][None])[:, 0]
        beside = follows & (labels == labels[best])
        lowered = torch.where(beside, lowered * torch.exp(-(overlap**2) / sigma), lowered)
    return torch.stack(keep) if keep else labels.new_zeros(0), lowered
