"""What every evaluation policy reads: per image the truth and what was found, masks as COCO run-length codes.

Here and in all of `evaluate`: N ground truths and D detections of one image, K classes. Masks are never dense.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import hotcoco.mask
import numpy as np
from jaxtyping import Bool, Float, Int

from maskwise.categories import Categories
from maskwise.evaluate import runs
from maskwise.rle import RLE

BOXES_AT_ONCE = 1 << 22
"""pairs of boxes that are compared together"""

FEW = 1 << 12
"""pairs of masks up to which hotcoco, which looks at all of them, is the quicker way to the same numbers"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Ground truth of one image."""

    size: tuple[int, int]
    """height, width"""
    labels: Int[np.ndarray, " n"]
    boxes: Float[np.ndarray, "n 4"]
    """x1 y1 x2 y2 in continuous coordinates"""
    areas: Float[np.ndarray, " n"]
    """the `area` field of the file: it decides between small, medium and large, also for boxes"""
    crowd: Bool[np.ndarray, " n"]
    masks: tuple[RLE, ...] | None
    keypoints: Float[np.ndarray, "n k 3"] | None
    ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Predictions for one image, in any order; equal scores keep it."""

    labels: Int[np.ndarray, " d"]
    boxes: Float[np.ndarray, "d 4"]
    """x1 y1 x2 y2 in continuous coordinates"""
    scores: Float[np.ndarray, " d"]
    """class confidence: ranks boxes"""
    quality: Float[np.ndarray, " d"]
    """predicted mask IoU, 1 where there is no prediction"""
    mask_scores: Float[np.ndarray, " d"]
    """rank masks"""
    masks: tuple[RLE, ...] | None
    keypoints: Float[np.ndarray, "d k 3"] | None
    areas: Float[np.ndarray, " d"] | None = None
    """for small, medium and large boxes where their extent is not to decide: a box around a mask has the mask's area"""

    def __len__(self) -> int:
        return len(self.labels)


class Touching(NamedTuple):
    """Pairs of a detection and a ground truth whose overlap is above 0, by detection and then by ground truth."""

    found: Int[np.ndarray, " p"]
    truth: Int[np.ndarray, " p"]
    iou: Float[np.ndarray, " p"]

    def chosen(self, which: Bool[np.ndarray, " p"]) -> "Touching":
        return Touching(*(column[which] for column in self))

    def table(self, shape: tuple[int, int]) -> Float[np.ndarray, "d n"]:
        """All pairs; mind the memory where there are thousands of both."""
        return runs.table(self.found, self.truth, self.iou, shape)


class Pair(NamedTuple):
    """One image: its name or id, the truth, and what was found."""

    image: int | str
    truth: Truth
    found: Found


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything a policy needs. Images without objects and without detections are in it too."""

    categories: Categories
    pairs: tuple[Pair, ...]
    data: str = ""
    """which data set or split this is; every report repeats it"""


def order_of_id(id_: int | str) -> tuple[bool, int | str]:
    """Images of a comparison are sorted by it, numbers first: equal scores keep that order, as pycocotools has it."""
    return isinstance(id_, str), id_


def above(comparison: Comparison, min_score: float) -> Comparison:
    """Only the detections whose mask score (`score` in files) is at least that.

    Average precision needs no such cut; counting, best dice, coverage and panoptic quality do.
    """
    pairs = [
        pair._replace(found=selected(pair.found, np.flatnonzero(pair.found.mask_scores >= min_score)))
        for pair in comparison.pairs
    ]
    return replace(comparison, pairs=tuple(pairs))


def present(masks: tuple[RLE, ...] | None, what: str) -> tuple[RLE, ...]:
    """The masks, or a clear error where a policy for masks is asked of boxes."""
    if masks is None:
        raise ValueError(f"this policy compares masks, but the {what} has none")
    return masks


def touching_masks(found: Sequence[RLE], truth: Sequence[RLE], crowd: Bool[np.ndarray, " n"] | None = None) -> Touching:
    """Intersection over union; over the area of the detection alone where the truth is a crowd."""
    check_one_size([*found, *truth])
    crowd = np.zeros(len(truth), bool) if crowd is None else crowd
    if len(found) * len(truth) <= FEW:
        return touching_of(hotcoco.mask.iou(plain(found), plain(truth), crowd))
    mine, theirs = runs.of_masks(found), runs.of_masks(truth)
    d, n, both = runs.shared(mine, theirs)
    area = runs.areas(mine, len(found))[d]
    union = area + runs.areas(theirs, len(truth))[n] - both
    return Touching(d, n, both / np.where(crowd[n], area, union))


def box_iou(
    found: Float[np.ndarray, "d 4"], truth: Float[np.ndarray, "n 4"], crowd: Bool[np.ndarray, " n"] | None = None
) -> Float[np.ndarray, "d n"]:
    """The same for x1 y1 x2 y2 boxes."""
    return hotcoco.mask.bbox_iou(xywh(found), xywh(truth), np.zeros(len(truth), bool) if crowd is None else crowd)


def touching_boxes(
    found: Float[np.ndarray, "d 4"], truth: Float[np.ndarray, "n 4"], crowd: Bool[np.ndarray, " n"] | None = None
) -> Touching:
    """The same where it is not 0. All pairs are looked at, some at a time."""
    rows = max(1, BOXES_AT_ONCE // max(1, len(truth)))
    parts = [touching_of(np.zeros((0, len(truth))))]
    for start in range(0, len(found), rows):
        part = touching_of(box_iou(found[start : start + rows], truth, crowd))
        parts.append(part._replace(found=part.found + start))
    return Touching(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def touching_of(table: Float[np.ndarray, "d n"]) -> Touching:
    """Of a table of all pairs."""
    d, n = np.nonzero(table)
    return Touching(d, n, table[d, n])


def intersections(first: Sequence[RLE], second: Sequence[RLE]) -> Int[np.ndarray, "d n"]:
    """Pixels that each pair of masks shares."""
    check_one_size([*first, *second])
    shared = runs.shared(runs.of_masks(first), runs.of_masks(second))
    return runs.table(*shared, (len(first), len(second)))


def mask_areas(masks: Sequence[RLE]) -> Int[np.ndarray, " n"]:
    """Pixels of each mask."""
    return np.asarray(hotcoco.mask.area(plain(masks)), np.int64).reshape(-1)


def mask_boxes(masks: Sequence[RLE]) -> Float[np.ndarray, "n 4"]:
    """Tight x1 y1 x2 y2 boxes; zeros for an empty mask."""
    return xyxy(np.asarray(hotcoco.mask.to_bbox(plain(masks)), float).reshape(-1, 4))


def selected(found: Found, rows: Int[np.ndarray, " m"]) -> Found:
    """Those detections, in that order."""
    return Found(
        labels=found.labels[rows],
        boxes=found.boxes[rows],
        scores=found.scores[rows],
        quality=found.quality[rows],
        mask_scores=found.mask_scores[rows],
        masks=None if found.masks is None else tuple(found.masks[i] for i in rows.tolist()),
        keypoints=None if found.keypoints is None else found.keypoints[rows],
        areas=None if found.areas is None else found.areas[rows],
    )


def xywh(boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
    """Corner and extent, as COCO files write boxes.

    The extent is the shortest decimal that leads back to the same corner: 12.66 + 32 - 12.66 is a hair below 32, and a
    detection of 32 x 32 would fall out of the medium ones.
    """
    extent = boxes[:, 2:] - boxes[:, :2]
    short = extent.round(9)
    return np.concatenate([boxes[:, :2], np.where(boxes[:, :2] + short == boxes[:, 2:], short, extent)], axis=1)


def xyxy(boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
    """Two corners, from corner and extent."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def plain(masks: Sequence[RLE]) -> list[dict[str, object]]:
    """The same objects as hotcoco's annotations want them."""
    return cast(list[dict[str, object]], list(masks))


def check_one_size(masks: Sequence[RLE]) -> None:
    """Masks of different pictures have no overlap to speak of (pycocotools answers -1)."""
    sizes = {tuple(mask["size"]) for mask in masks}
    if len(sizes) > 1:
        raise ValueError(f"masks of one image have different sizes: {sorted(sizes)}")
