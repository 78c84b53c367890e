"""Average precision of instances as Cityscapes' own script counts it.

A ground truth counts if it is no group (crowd) and has 100 pixels or more. Every pair with IoU > t is a match: of the
detections matched to one ground truth that counts, the best is right and the others are wrong. A detection with no
match at all is wrong, unless more than t of its pixels (the same t) are void, in a group of its class or in a ground
truth of its class that is too small. Raw precision, trapezoids, equal scores are one point.

As in the script, a small group counts twice among the pixels that excuse. Unlike it, a class of which every detection
is excused scores 0 (the script raises an IndexError). AP100m and AP50m need distances that are not public: left out.
Legend: D detections and N ground truths of one class in one image.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from maskwise.evaluate.integrate import cityscapes as integral
from maskwise.evaluate.integrate import mean_known, ranking
from maskwise.evaluate.objects import Comparison, Pair, intersections, mask_areas, present
from maskwise.evaluate.report import ClassRow, Report
from maskwise.rle import RLE

THRESHOLDS = tuple(np.arange(0.5, 1.0, 0.05).tolist())
"""with the rounding of the script, which decides where IoU equals a threshold"""
MIN_PIXELS = 100


def cityscapes(
    comparison: Comparison, iou: str = "segm", *, void: Sequence[RLE | None] | None = None, min_pixels: int = MIN_PIXELS
) -> Report:
    """AP and AP50. `void`: per image the pixels of labels that are not evaluated."""
    if iou != "segm":
        raise ValueError(f"cityscapes is about masks: iou must be 'segm', got {iou!r}")
    if void is not None and len(void) != len(comparison.pairs):
        raise ValueError(f"{len(void)} void masks for {len(comparison.pairs)} images")
    table, counts = _average_precisions(comparison, void or [None] * len(comparison.pairs), min_pixels)
    return Report(
        policy="cityscapes",
        iou=iou,
        numbers={"AP": mean_known(table), "AP50": mean_known(table[:, 0])},
        images=len(comparison.pairs),
        ground_truths=sum(counts),
        thresholds=THRESHOLDS,
        classes=tuple(
            ClassRow(name=name, ground_truths=count, numbers={"AP": mean_known(row), "AP50": float(row[0])})
            for name, count, row in zip(comparison.categories.names, counts, table, strict=True)
        ),
        data=comparison.data,
        notes=(
            "IoU > t",
            f"objects of {min_pixels} pixels or more",
            "no void pixels given" if void is None else "detections mostly on void pixels ignored",
        ),
    )


def _average_precisions(
    comparison: Comparison, void: Sequence[RLE | None], min_pixels: int
) -> tuple[Float[np.ndarray, "k t"], list[int]]:
    """And how many ground truths of each class count."""
    classes: list[list[_Group]] = [[] for _ in comparison.categories.names]
    for pair, mask in zip(comparison.pairs, void, strict=True):
        for group in _groups(pair, mask, min_pixels):
            classes[group.label].append(group)
    counts = [sum(int(group.counts.sum()) for group in groups) for groups in classes]
    table = np.full((len(classes), len(THRESHOLDS)), np.nan)
    for label, groups in enumerate(classes):
        for t, threshold in enumerate(THRESHOLDS):
            judged = [_judge(group, threshold) for group in groups]
            table[label, t] = integral(ranking([s for s, _ in judged], [r for _, r in judged], counts[label]))
    return table, counts


class _Group(NamedTuple):
    """One class of one image."""

    label: int
    scores: Float[np.ndarray, " d"]
    iou: Float[np.ndarray, "d n"]
    """with groups and small ones too"""
    excused: Float[np.ndarray, " d"]
    """share of a detection's pixels that need not be explained"""
    counts: Bool[np.ndarray, " n"]


def _judge(group: _Group, threshold: float) -> tuple[Float[np.ndarray, " r"], Bool[np.ndarray, " r"]]:
    """Scores of what is right or wrong, and which it is; in no order."""
    match = group.iou > threshold
    d, n = np.nonzero(match & group.counts)
    order = np.lexsort((-group.scores[d], n))  # by ground truth, the best detection of each first
    d, n = d[order], n[order]
    wrong = group.scores[~match.any(axis=1) & (group.excused <= threshold)]
    best = np.append(True, n[1:] != n[:-1])[: len(n)]
    return np.append(group.scores[d], wrong), np.append(best, np.zeros(len(wrong), bool))


def _groups(pair: Pair, void: RLE | None, min_pixels: int) -> Iterator[_Group]:
    found, truth = present(pair.found.masks, "prediction"), present(pair.truth.masks, "ground truth")
    areas, true_areas = mask_areas(found), mask_areas(truth)
    shared = intersections(found, truth)
    on_void = intersections(found, [void])[:, 0] if void is not None else np.zeros(len(found), np.int64)
    for label in np.union1d(pair.truth.labels, pair.found.labels).tolist():
        d = np.flatnonzero((pair.found.labels == label) & (areas > 0))
        n = np.flatnonzero(pair.truth.labels == label)
        both = shared[np.ix_(d, n)]
        crowd, small = pair.truth.crowd[n], true_areas[n] < min_pixels
        excused = on_void[d] + both @ (crowd.astype(np.int64) + small)
        union = areas[d, None] + true_areas[n] - both
        yield _Group(label, pair.found.mask_scores[d], both / union, excused / areas[d], ~crowd & ~small)
