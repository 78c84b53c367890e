"""Which classes are taken for which, at one IoU and among the detections that one would show.

Average precision ranks all detections; a confusion needs a cut: per class, the score at which its F1 is best. Ranked
and cut is by class confidence, as predictions are. Objects are given away in two turns. First by COCO's rules, class by
class, so that the diagonal holds the right detections that F1 counts; then what is left of both sides meets across
classes, best first. What lies in a crowd of its class is left out. Legend: K classes, one row and column more for
nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from maskwise.evaluate.coco import Settings, groups, that_count
from maskwise.evaluate.matching import OperatingPoint, match
from maskwise.evaluate.objects import Comparison, Pair, selected
from maskwise.evaluate.overlaps import Overlap, shown_by

NOTHING, LEFT_OUT = -1, -2
EVERY_AREA = (0.0, 1e10)
USUAL_CUT = 0.5
"""For a class of which nothing right is found, so that no cut is better than another; what predictions begin with."""


class Assignment(NamedTuple):
    """What became of one image."""

    truth: Int[np.ndarray, " d"]
    """the object that each detection takes, NOTHING, or LEFT_OUT below the cut and in crowds"""
    missed: Int[np.ndarray, " m"]
    """objects that no detection took, crowds not counted"""


def best_cuts(points: Sequence[OperatingPoint]) -> Float[np.ndarray, " k"]:
    """The score at which each class has its best F1."""
    cuts = np.array([point.score for point in points], float)
    return np.where(np.isnan(cuts), USUAL_CUT, cuts)


def confusion(comparison: Comparison, assignments: Sequence[Assignment]) -> Int[np.ndarray, "k1 k1"]:
    """`[t, f]`: objects of class t found as class f. Last column: not found; last row: found where nothing is."""
    nothing = len(comparison.categories)
    counts = np.zeros((nothing + 1, nothing + 1), np.int64)
    for pair, assigned in zip(comparison.pairs, assignments, strict=True):
        shown = assigned.truth != LEFT_OUT
        true_labels = np.append(pair.truth.labels, nothing)  # NOTHING is the last
        np.add.at(counts, (true_labels[assigned.truth[shown]], pair.found.labels[shown]), 1)
        np.add.at(counts[:, nothing], pair.truth.labels[assigned.missed], 1)
    return counts


def assign(
    pair: Pair, overlap: Overlap, cuts: Float[np.ndarray, " k"], *, threshold: float = 0.5, max_dets: int = 100
) -> Assignment:
    """One image. Weaker detections never take an object from stronger ones, so the cut may come after the matching."""
    overlap = shown_by(overlap)
    settings = Settings(thresholds=(threshold,), areas={"all": EVERY_AREA}, max_dets=(max_dets,))
    rows = that_count(pair.found, overlap, settings)
    of_rows = _assigned(pair._replace(found=selected(pair.found, rows)), overlap, cuts, settings)
    truth = np.full(len(pair.found), LEFT_OUT)
    truth[rows] = of_rows.truth
    return of_rows._replace(truth=truth)


def _assigned(pair: Pair, overlap: Overlap, cuts: Float[np.ndarray, " k"], settings: Settings) -> Assignment:
    """All detections are within the limit."""
    iou, scores, threshold = overlap.iou(pair.truth, pair.found), overlap.scores(pair.found), settings.thresholds[0]
    truth = np.full(len(pair.found), LEFT_OUT)
    for group in groups(pair, iou, overlap, settings):
        matched = match(group.candidates, np.array([threshold]), np.array([EVERY_AREA]))
        shown = (scores[group.found] >= cuts[group.label]) & ~matched.ignored[0, 0]
        truth[group.found[shown]] = np.append(group.truth, NOTHING)[matched.truth[0, 0][shown]]
    free = ~pair.truth.crowd & ~np.isin(np.arange(len(pair.truth)), truth)
    for d in np.argsort(-scores, kind="stable").tolist():
        if truth[d] == NOTHING and free.any():
            best = int(np.where(free, iou[d], -1.0).argmax())
            if iou[d, best] >= threshold:
                truth[d], free[best] = best, False
    return Assignment(truth, np.flatnonzero(free))
