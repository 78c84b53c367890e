"""Who learns what: pure functions from boxes to the object that each of them stands for.

Legend: n references (anchors, proposals), k objects.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from maskwise import boxes
from maskwise.structures import Targets

BACKGROUND, BETWEEN = -1, -2
"""In the place of an object: the reference shows none, or too little of one to stand for it."""
PAIRS_AT_ONCE = 1 << 22
"""Overlaps in memory at a time: hundreds of objects meet hundreds of thousands of anchors."""


def objects(targets: Targets) -> Targets:
    """What is to be found: no crowds, and nothing without extent."""
    keep = ~targets.crowd & boxes.at_least(targets.boxes, 0)
    return targets if bool(keep.all()) else targets[keep]


def match(
    references: Float[Tensor, "n 4"],
    truth: Float[Tensor, "k 4"],
    *,
    positive: float,
    negative: float,
    rescue: bool = False,
) -> Int[Tensor, " n"]:
    """For each reference the object it overlaps most, BACKGROUND below `negative`, BETWEEN below `positive`.

    rescue: the references that overlap an object most of all become positive however little that is (they stand for
    the object that they overlap most, which may be another one).
    """
    best = references.new_full((len(references),), -1.0)
    which = torch.zeros(len(references), dtype=torch.int64, device=references.device)
    rescued = torch.zeros(len(references), dtype=torch.bool, device=references.device)
    step = max(1, PAIRS_AT_ONCE // max(len(references), 1))
    for start in range(0, len(truth), step):
        overlap = boxes.iou(references, truth[start : start + step])
        most, place = overlap.max(1)
        which = torch.where(most > best, place + start, which)
        best = torch.maximum(best, most)
        if rescue and len(references):
            top = overlap.max(0).values
            rescued |= ((overlap == top) & (top > 0)).any(1)
    result = torch.where(best < negative, BACKGROUND, torch.where(best < positive, BETWEEN, which))
    return torch.where(rescued, which, result)


def sample(matches: Int[Tensor, " n"], *, total: int, positives: float) -> tuple[Int[Tensor, " p"], Int[Tensor, " q"]]:
    """Some positives, at most that share of the total, and some of the background to fill it."""
    first = at_random(torch.where(matches >= 0)[0], most=int(total * positives))
    return first, at_random(torch.where(matches == BACKGROUND)[0], most=total - len(first))


def at_random(places: Int[Tensor, " n"], *, most: int | None = None) -> Int[Tensor, " m"]:
    """All of them or some, in any order, none twice."""
    return places[torch.randperm(len(places), device=places.device)[:most]]
