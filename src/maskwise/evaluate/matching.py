"""COCO's matching and its precision-recall curves in numpy, for overlaps that no compiled evaluator knows.

Legend: T thresholds, A area ranges, M limits on detections, R recall levels, K classes, d and n detections and ground
truths of one class in one image.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

RECALLS = np.linspace(0, 1, 101)


class Candidates(NamedTuple):
    """One class in one image, before matching. Detections best first, no more than the largest limit."""

    iou: Float[np.ndarray, "d n"]
    scores: Float[np.ndarray, " d"]
    found_areas: Float[np.ndarray, " d"]
    truth_areas: Float[np.ndarray, " n"]
    crowd: Bool[np.ndarray, " n"]


class Matches(NamedTuple):
    """What became of the detections of one class in one image."""

    scores: Float[np.ndarray, " d"]
    truth: Int[np.ndarray, "a t d"]
    """index of the ground truth that a detection took, or -1"""
    ignored: Bool[np.ndarray, "a t d"]
    """neither right nor wrong: it took a crowd or one outside the area range, or is itself outside and took none"""
    positives: Int[np.ndarray, " a"]
    """ground truths that count"""


class Accumulated(NamedTuple):
    """pycocotools' `eval` dictionary; NaN where a class has no ground truth."""

    precision: Float[np.ndarray, "t r k a m"]
    recall: Float[np.ndarray, "t k a m"]
    scores: Float[np.ndarray, "t r k a m"]


def match(candidates: Candidates, thresholds: Float[np.ndarray, " t"], areas: Float[np.ndarray, "a 2"]) -> Matches:
    """Best first, each detection takes the free ground truth of highest IoU at or above the threshold.

    Ground truths that do not count are tried only when none that counts will do; a crowd can be taken again and again;
    among equals the last one is taken.
    """
    iou, crowd = candidates.iou, candidates.crowd
    outside = ~_within(candidates.truth_areas, areas)
    skipped = crowd | outside  # a n
    truth = np.full((len(areas), len(thresholds), len(iou)), -1)
    free = np.ones((len(areas), len(thresholds), len(crowd)), bool)
    lowest = np.minimum(thresholds, 1 - 1e-10)[:, None]
    for d in np.flatnonzero((iou >= lowest.min(initial=1)).any(axis=1)).tolist():
        possible = free & (iou[d] >= lowest)
        counting = possible & ~skipped[:, None]
        possible = np.where(counting.any(axis=-1, keepdims=True), counting, possible)
        overlap = np.where(possible, iou[d], -1.0)
        best = overlap.shape[-1] - 1 - overlap[..., ::-1].argmax(axis=-1)
        taken = possible.any(axis=-1)
        truth[:, :, d] = np.where(taken, best, -1)
        a, t = np.nonzero(taken & ~crowd[best])
        free[a, t, best[a, t]] = False
    ignored = np.take_along_axis(skipped[:, None], np.maximum(truth, 0), axis=-1) if len(crowd) else False
    ignored = np.where(truth >= 0, ignored, ~_within(candidates.found_areas, areas)[:, None])
    return Matches(candidates.scores, truth, ignored, (~skipped).sum(axis=1))


def accumulate(classes: Sequence[Sequence[Matches]], max_dets: Sequence[int], shape: tuple[int, int]) -> Accumulated:
    """Curves of each class over all its images; `shape` is (T, A)."""
    thresholds, areas = shape
    size = (thresholds, len(RECALLS), len(classes), areas, len(max_dets))
    result = Accumulated(np.full(size, np.nan), np.full((thresholds, *size[2:]), np.nan), np.full(size, np.nan))
    for k, images in enumerate(classes):
        for m, limit in enumerate(max_dets):
            for a, area in enumerate(ranked(images, limit, shape)):
                if area.positives:
                    curve = precision_recall(area)
                    result.precision[:, :, k, a, m] = curve.precision
                    result.recall[:, k, a, m] = curve.recall
                    result.scores[:, :, k, a, m] = curve.scores
    return result


class Ranked(NamedTuple):
    """All detections of one class, best first."""

    scores: Float[np.ndarray, " d"]
    right: Bool[np.ndarray, "t d"]
    wrong: Bool[np.ndarray, "t d"]
    positives: int


def ranked(images: Sequence[Matches], limit: int, shape: tuple[int, int]) -> list[Ranked]:
    """One ranking an area range. Equal scores keep the order of the images and of the detections in them."""
    thresholds, areas = shape
    scores = np.concatenate([np.zeros(0), *(image.scores[:limit] for image in images)])
    order = np.argsort(-scores, kind="stable")
    nothing = np.zeros((areas, thresholds, 0), bool)
    hit = np.concatenate([nothing, *(image.truth[:, :, :limit] >= 0 for image in images)], axis=2)[:, :, order]
    ignored = np.concatenate([nothing, *(image.ignored[:, :, :limit] for image in images)], axis=2)[:, :, order]
    positives = np.sum([np.zeros(areas, np.int64), *(image.positives for image in images)], axis=0)
    return [Ranked(scores[order], hit[a] & ~ignored[a], ~hit[a] & ~ignored[a], int(positives[a])) for a in range(areas)]


class Curve(NamedTuple):
    precision: Float[np.ndarray, "t r"]
    recall: Float[np.ndarray, " t"]
    """the highest that is reached"""
    scores: Float[np.ndarray, "t r"]
    """score of the detection at which a recall level is reached, 0 where it never is"""


def precision_recall(ranked: Ranked) -> Curve:
    """Precision at 101 levels of recall: the best one at that recall or any higher, 0 beyond the highest recall."""
    right, wrong = ranked.right.cumsum(axis=1), ranked.wrong.cumsum(axis=1)
    recall = right / ranked.positives
    precision = right / (right + wrong + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    at = np.stack([np.searchsorted(row, RECALLS, side="left") for row in recall]) if len(recall) else right
    reached = at < recall.shape[1]
    padded = np.pad(envelope, ((0, 0), (0, 1)))
    scores = np.append(ranked.scores, 0.0)
    return Curve(
        precision=np.take_along_axis(padded, at, axis=1),
        recall=recall[:, -1] if recall.shape[1] else np.zeros(len(recall)),
        scores=np.where(reached, scores[at], 0.0),
    )


class OperatingPoint(NamedTuple):
    """What one would show of a class."""

    f1: float
    """the best; NaN where there is nothing to find"""
    score: float
    """from which detections, it included, are to be shown to reach that; NaN where nothing right is found"""


def best_f1(ranked: Ranked) -> OperatingPoint:
    """At the first threshold. No cut parts equal scores; of cuts that are as good, the one that shows the fewest."""
    if not ranked.positives:
        return OperatingPoint(math.nan, math.nan)
    last = last_of_equals(ranked.scores)
    right, shown = (rows[0].cumsum()[last] for rows in (ranked.right, ranked.right | ranked.wrong))
    if not right.any():
        return OperatingPoint(0.0, math.nan)
    f1 = 2 * right / (ranked.positives + shown)
    best = int(f1.argmax())
    return OperatingPoint(float(f1[best]), float(ranked.scores[last[best]]))


def last_of_equals(scores: Float[np.ndarray, " d"]) -> Int[np.ndarray, " c"]:
    """Where a ranking can be cut: before each lower score, and at the end."""
    return np.flatnonzero(scores != np.append(scores[1:], np.nan))


def _within(values: Float[np.ndarray, " n"], areas: Float[np.ndarray, "a 2"]) -> Bool[np.ndarray, "a n"]:
    """Both ends belong to a range."""
    return (values >= areas[:, :1]) & (values <= areas[:, 1:])
