"""Ways to compare what was found with the truth: by boxes, masks or boundaries, each with the score that ranks it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from maskwise.evaluate.boundary import touching_boundaries
from maskwise.evaluate.objects import (
    Found,
    Touching,
    Truth,
    mask_areas,
    present,
    touching_boxes,
    touching_masks,
    xywh,
)

Matrix: TypeAlias = Float[np.ndarray, "d n"]
Values: TypeAlias = Float[np.ndarray, " d"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Everything COCO's rules need to know about a kind of comparison."""

    touching: Callable[[Truth, Found], Touching]
    scores: Callable[[Found], Values]
    areas: Callable[[Found], Values]

    def iou(self, truth: Truth, found: Found) -> Matrix:
        """Of all pairs."""
        return self.touching(truth, found).table((len(found), len(truth)))


def of_kind(kind: str) -> Overlap:
    """The comparison of that name."""
    if kind not in OVERLAPS:
        raise ValueError(f"unknown kind of overlap {kind!r}; known: {', '.join(OVERLAPS)}")
    return OVERLAPS[kind]


def shown_by(overlap: Overlap) -> Overlap:
    """Ranked by class confidence, also of masks: that is what `min_score` of a prediction cuts by."""
    return replace(overlap, scores=by_class_confidence)


def by_class_confidence(found: Found) -> Values:
    return found.scores


def by_mask_score(found: Found) -> Values:
    return found.mask_scores


def box_area(found: Found) -> Values:
    return xywh(found.boxes)[:, 2:].prod(axis=1) if found.areas is None else found.areas


def mask_area(found: Found) -> Values:
    return mask_areas(_found_masks(found)).astype(float)


def _found_masks(found: Found) -> tuple:
    return present(found.masks, "prediction")


def _boxes(truth: Truth, found: Found) -> Touching:
    return touching_boxes(found.boxes, truth.boxes, truth.crowd)


def _masks(truth: Truth, found: Found) -> Touching:
    return touching_masks(_found_masks(found), present(truth.masks, "ground truth"), truth.crowd)


def _outlines(truth: Truth, found: Found) -> Touching:
    return touching_boundaries(_found_masks(found), present(truth.masks, "ground truth"), truth.crowd)


OVERLAPS = {
    "bbox": Overlap(touching=_boxes, scores=by_class_confidence, areas=box_area),
    "segm": Overlap(touching=_masks, scores=by_mask_score, areas=mask_area),
    "boundary": Overlap(touching=_outlines, scores=by_mask_score, areas=mask_area),
}
