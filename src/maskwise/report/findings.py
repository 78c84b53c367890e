"""Everything that a report shows, measured once, by the evaluator whose numbers it must repeat."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from maskwise.evaluate.coco import COCO, Curves, Settings, coco, curves, operating_points
from maskwise.evaluate.confusion import NOTHING, Assignment, assign, best_cuts, confusion
from maskwise.evaluate.errors import errors
from maskwise.evaluate.objects import Comparison, Pair, selected
from maskwise.evaluate.overlaps import of_kind
from maskwise.evaluate.quality import quality, true_iou
from maskwise.evaluate.report import Report
from maskwise.evaluate.runs import highest

MATCH = 0.5
"""IoU from which a detection has found an object, in the confusions and among the pictures."""


class Detections(NamedTuple):
    """All detections of all pictures, picture by picture."""

    picture: Int[np.ndarray, " d"]
    """place in the comparison"""
    row: Int[np.ndarray, " d"]
    """place among the detections of the picture"""
    scores: Float[np.ndarray, " d"]
    quality: Float[np.ndarray, " d"]
    mask_scores: Float[np.ndarray, " d"]
    true_iou: Float[np.ndarray, " d"]
    """NaN in crowds"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    comparison: Comparison
    masks: Report
    boxes: Report
    curves: Curves
    """of masks"""
    quality: Report
    errors: Report
    assignments: tuple[Assignment, ...]
    """one a picture"""
    confusion: Int[np.ndarray, "k1 k1"]
    """rows what is there, columns what it was found as; the last of each is nothing"""
    detections: Detections

    @property
    def has_quality(self) -> bool:
        """Whether the method predicts any: without, it is 1 everywhere."""
        return bool((self.detections.quality != 1).any())


def find(comparison: Comparison, settings: Settings = COCO) -> Findings:
    """`settings`: limits and thresholds of COCO's numbers."""
    most = settings.max_dets[-1]
    cuts = best_cuts(operating_points(comparison, "segm", settings, threshold=MATCH))
    overlap = of_kind("segm")
    assignments = tuple(assign(p, overlap, cuts, threshold=MATCH, max_dets=most) for p in comparison.pairs)
    return Findings(
        comparison=comparison,
        masks=coco(comparison, "segm", settings),
        boxes=coco(comparison, "bbox", settings),
        curves=curves(comparison, "segm", settings),
        quality=quality(comparison, "segm", settings=settings),
        errors=errors(comparison, "segm", foreground=MATCH, max_dets=most),
        assignments=assignments,
        confusion=confusion(comparison, assignments),
        detections=_detections(comparison),
    )


def _detections(comparison: Comparison) -> Detections:
    pairs, counts = comparison.pairs, [len(pair.found) for pair in comparison.pairs]
    nothing, whole = np.zeros(0), np.zeros(0, np.int64)
    return Detections(
        picture=np.repeat(np.arange(len(pairs)), counts),
        row=np.concatenate([whole, *(np.arange(count) for count in counts)]),
        scores=np.concatenate([nothing, *(pair.found.scores for pair in pairs)]),
        quality=np.concatenate([nothing, *(pair.found.quality for pair in pairs)]),
        mask_scores=np.concatenate([nothing, *(pair.found.mask_scores for pair in pairs)]),
        true_iou=np.concatenate([nothing, *(true_iou(pair, of_kind("segm")) for pair in pairs)]),
    )


def nearest(pair: Pair, row: int) -> int:
    """The object that a detection was most likely meant for: of its class, else any other; NOTHING touches none."""
    met = of_kind("segm").touching(pair.truth, selected(pair.found, np.array([row])))
    iou = np.where(pair.truth.crowd, 0.0, highest(met.truth, met.iou, len(pair.truth)))
    own = np.where(pair.truth.labels == pair.found.labels[row], iou, 0.0)
    for values in (own, iou):
        if values.max(initial=0.0) > 0:
            return int(values.argmax())
    return NOTHING
