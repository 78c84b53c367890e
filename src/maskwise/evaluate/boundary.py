"""Boundary IoU (Cheng et al. 2021, https://arxiv.org/abs/2103.16562): how well the outline fits, whatever the size.

The boundary of a mask is what lies inside it within 2 % of the image's diagonal of its outline; the edge of the image
is outline too. Boundary AP compares with the smaller of mask IoU and boundary IoU.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from maskwise import rle
from maskwise.evaluate.objects import Touching, touching_masks
from maskwise.rle import RLE, Window

DIAGONAL_SHARE = 0.02


def touching_boundaries(found: Sequence[RLE], truth: Sequence[RLE], crowd: Bool[np.ndarray, " n"]) -> Touching:
    """The smaller of mask IoU and boundary IoU; of a crowd, which has no outline to speak of, the mask IoU alone.

    Boundaries that touch belong to masks that do.
    """
    masks = touching_masks(found, truth, crowd)
    lines = touching_masks(boundaries(found), boundaries(truth))
    n = max(1, len(truth))
    outline = np.zeros(len(masks.iou))
    outline[np.searchsorted(masks.found * n + masks.truth, lines.found * n + lines.truth)] = lines.iou
    smaller = np.where(crowd[masks.truth], masks.iou, np.minimum(masks.iou, outline))
    return masks._replace(iou=smaller).chosen(smaller > 0)


def boundaries(masks: Sequence[RLE]) -> list[RLE]:
    """The boundary of each mask of one image, at the distance that belongs to the size of the image."""
    if not masks:
        return []
    height, width = masks[0]["size"]
    distance = max(1, round(DIAGONAL_SHARE * float(np.hypot(height, width))))
    windows = rle.decode_all(masks)
    return rle.encode([Window(w.x0, w.y0, inner_boundary(w.bits, distance)) for w in windows], (height, width))


def inner_boundary(bits: Bool[np.ndarray, "h w"], distance: int) -> Bool[np.ndarray, "h w"]:
    """What `distance` erosions by 3 x 3 take away: all but the centres of full squares; outside there is nothing."""
    if min(bits.shape) <= 2 * distance:
        return bits
    full = bits
    for step in _steps(2 * distance + 1):
        full = full[step:] & full[:-step]
    for step in _steps(2 * distance + 1):
        full = full[:, step:] & full[:, :-step]
    line = bits.copy()
    line[distance:-distance, distance:-distance] &= ~full
    return line


def _steps(length: int) -> list[int]:
    """Shifts that, one after the other, grow a window of 1 to `length`: each at most doubles it."""
    steps, reached = [], 1
    while reached < length:
        steps.append(min(reached, length - reached))
        reached += steps[-1]
    return steps
