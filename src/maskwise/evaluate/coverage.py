"""How well the objects of a picture are covered: leaves (CVPPP), cars (KITTI) and proposals (best overlap).

Classes are ignored except by best overlap: these data sets have one. Crowds are no ground truth, masks without a pixel
do not exist, detections may overlap and each counts with all its pixels; all are asked (see `objects.above`). An image
without ground truth has no value in a mean over objects and is skipped there, but it counts in means of counts (DiC,
AvgFP, AvgFN).

Legend: I the IoU of a detection p and a ground truth g of one image, |x| the pixels of x.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from maskwise.evaluate.integrate import mean_known
from maskwise.evaluate.objects import Comparison
from maskwise.evaluate.overlaps import of_kind
from maskwise.evaluate.pixels import Shared, shared_of_masks
from maskwise.evaluate.report import ClassRow, Report, count_ground_truths
from maskwise.evaluate.runs import highest

Numbers: TypeAlias = Callable[[Sequence[Shared]], dict[str, float]]


def dice(comparison: Comparison, iou: str = "segm") -> Report:
    """Leaf counting and segmentation: SBD, |DiC|, DiC and FGBGDice, each the mean over images."""
    return _report("dice", comparison, iou, dice_numbers)


def coverage(comparison: Comparison, iou: str = "segm") -> Report:
    """Cars of KITTI: MWCov, MUCov, AvgFP, AvgFN, AvgPr, AvgRe, ObjPr, ObjRe, and the foreground's."""
    return _report("coverage", comparison, iou, coverage_numbers)


def dice_numbers(images: Sequence[Shared]) -> dict[str, float]:
    """CVPPP's four numbers. Only the smaller of the two directions punishes surplus detections."""
    counts = np.array([len(image.found) - len(image.truth) for image in images])
    return {
        "SBD": mean_known([symmetric_best_dice(image) for image in images]),
        "|DiC|": mean_known(abs(counts)),
        "DiC": mean_known(counts),
        "FGBGDice": mean_known([foreground_dice(image) for image in images]),
    }


def symmetric_best_dice(image: Shared) -> float:
    """min(BD(P, G), BD(G, P)) with BD(A, B) = mean over a in A of max over b in B of 2 |a b| / (|a| + |b|)."""
    if not len(image.truth):
        return np.nan
    if not len(image.found):
        return 0.0
    dice = image.dice
    return float(min(image.best_of_found(dice).mean(), image.best_of_truth(dice).mean()))


def foreground_dice(image: Shared) -> float:
    """Dice of the two foregrounds."""
    if not len(image.truth):
        return np.nan
    return 2 * image.both_foreground / (image.found_foreground + image.truth_foreground)


def coverage_numbers(images: Sequence[Shared]) -> dict[str, float]:
    """MWCov = sum over g of |g| / sum |g| * max over p of I; MUCov the same with equal weights; means over images.

    AvgFP and AvgFN: detections (ground truths) an image that touch no ground truth (detection) at all. AvgPr, AvgRe:
    share of a detection (ground truth) that lies on any ground truth (detection). ObjPr, ObjRe: share of those whose
    best I is .5 or more, not one to one. These four are means over all instances of the data set.
    """
    best_found = [image.best_of_found(image.iou) for image in images]
    best_truth = [image.best_of_truth(image.iou) for image in images]
    return {
        "MWCov": mean_known([_weighted(i, best) for i, best in zip(images, best_truth, strict=True)]),
        "MUCov": mean_known([mean_known(best) for best in best_truth]),
        "AvgFP": mean_known(np.array([(best == 0).sum() for best in best_found])),
        "AvgFN": mean_known(np.array([(best == 0).sum() for best in best_truth])),
        "AvgPr": _pooled([image.found_on_truth / image.found for image in images]),
        "AvgRe": _pooled([image.truth_on_found / image.truth for image in images]),
        "ObjPr": _pooled([best >= 0.5 for best in best_found]),
        "ObjRe": _pooled([best >= 0.5 for best in best_truth]),
        **_foreground(images),
    }


def best_overlap(comparison: Comparison, iou: str = "segm", *, any_class: bool = False) -> Report:
    """ABO: mean over the ground truths of a class of their best IoU with a detection, then mean over classes.

    Detections of the same class are asked, or with `any_class` all of them, as for proposals.
    """
    classes: list[list[np.ndarray]] = [[] for _ in comparison.categories.names]
    overlap = of_kind(iou)
    for _, truth, found in comparison.pairs:
        met = overlap.touching(truth, found)
        if not any_class:
            met = met.chosen(found.labels[met.found] == truth.labels[met.truth])
        best = highest(met.truth, met.iou, len(truth))
        for label in np.unique(truth.labels).tolist():
            classes[label].append(best[(truth.labels == label) & ~truth.crowd])
    values, counts = [_pooled(best) for best in classes], count_ground_truths(comparison)
    return Report(
        policy="best-overlap",
        iou=iou,
        numbers={"ABO": mean_known(values)},
        images=len(comparison.pairs),
        ground_truths=sum(counts),
        classes=tuple(
            ClassRow(name=name, ground_truths=count, numbers={"ABO": value})
            for name, count, value in zip(comparison.categories.names, counts, values, strict=True)
        ),
        data=comparison.data,
        notes=("detections of any class" if any_class else "detections of the same class",),
    )


def _report(policy: str, comparison: Comparison, iou: str, numbers: Numbers) -> Report:
    if iou != "segm":
        raise ValueError(f"{policy} is about masks: iou must be 'segm', got {iou!r}")
    return Report(
        policy=policy,
        iou=iou,
        numbers=numbers([shared_of_masks(pair) for pair in comparison.pairs]),
        images=len(comparison.pairs),
        ground_truths=sum(count_ground_truths(comparison)),
        data=comparison.data,
        notes=("classes ignored", "images without ground truth skipped except in counts"),
    )


def _weighted(image: Shared, best: Float[np.ndarray, " n"]) -> float:
    return float(best @ image.truth / image.truth.sum()) if len(best) else np.nan


def _pooled(values: Sequence[np.ndarray]) -> float:
    return mean_known(np.concatenate([np.zeros(0), *values]))


def _foreground(images: Sequence[Shared]) -> dict[str, float]:
    """Pixels pooled over the data set: IoU of foreground and background, their mean, precision, recall, accuracy."""
    found = sum(image.found_foreground for image in images)
    truth = sum(image.truth_foreground for image in images)
    both = sum(image.both_foreground for image in images)
    all_ = sum(image.picture for image in images)
    either = found + truth - both
    foreground, background = _ratio(both, either), _ratio(all_ - either, all_ - both)
    return {
        "FgIoU": foreground,
        "BgIoU": background,
        "FgBgIoU": (foreground + background) / 2,
        "FgPr": _ratio(both, found),
        "FgRe": _ratio(both, truth),
        "PixelAcc": _ratio(all_ - either + both, all_),
    }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else np.nan
