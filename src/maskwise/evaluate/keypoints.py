"""COCO average precision of keypoints: its matching with object keypoint similarity (OKS) in the place of IoU.

OKS of a detection and a person: mean over the keypoints that the truth shows (v > 0) of exp(-d^2 / 2 s^2 (2 sigma)^2),
d the distance, s^2 the `area` of the truth. A truth that shows none does not count but excuses a detection near its
box: d is then the distance to the box made three times as wide and high. Visible points are counted, whatever the
file's num_keypoints says; the file's `score` ranks. Legend: D found, N true, of one image; P keypoints.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from maskwise.evaluate.coco import AREAS, Curves, Settings, groups
from maskwise.evaluate.matching import Matches, accumulate, match
from maskwise.evaluate.objects import Comparison, Found, Truth, touching_of
from maskwise.evaluate.overlaps import Overlap, box_area, by_mask_score
from maskwise.evaluate.report import ClassRow, Report

LEFT_AND_RIGHT = (0.025, 0.035, 0.079, 0.072, 0.062, 0.107, 0.087, 0.089)
"""eyes, ears, shoulders, elbows, wrists, hips, knees, ankles"""
COCO_SIGMAS = (0.026, *(sigma for sigma in LEFT_AND_RIGHT for _ in range(2)))
"""the nose first"""
OTHER_SIGMA = 0.067
"""for points that are not COCO's: the mean of these"""

PEOPLE = Settings(areas={name: AREAS[name] for name in ("all", "m", "l")}, max_dets=(20,))


def keypoints(
    comparison: Comparison,
    iou: str = "keypoints",
    *,
    sigmas: Sequence[float] = COCO_SIGMAS,
    settings: Settings = PEOPLE,
) -> Report:
    """COCO's ten numbers: AP, AP50, AP75, APm, APl, AR, AR50, AR75, ARm, ARl."""
    if iou != "keypoints":
        raise ValueError(f"keypoints are compared by OKS: iou must be 'keypoints', got {iou!r}")
    curves = _curves(comparison, np.array(sigmas, float), settings)
    counts = _count(comparison).tolist()
    rows = () if settings.class_agnostic else zip(comparison.categories.names, counts, strict=True)
    return Report(
        policy="keypoints",
        iou=iou,
        numbers=_numbers(curves),
        images=len(comparison.pairs),
        ground_truths=sum(counts),
        thresholds=settings.thresholds,
        max_dets=settings.max_dets,
        classes=tuple(
            ClassRow(name=name, ground_truths=count, numbers=_numbers(curves, label))
            for label, (name, count) in enumerate(rows)
        ),
        data=comparison.data,
        notes=("OKS >= t", _told(tuple(sigmas))),
    )


def usual_sigmas(count: int) -> tuple[float, ...]:
    """Of so many points of which no more is known."""
    return COCO_SIGMAS if count == len(COCO_SIGMAS) else (OTHER_SIGMA,) * count


def oks(
    found: Float[np.ndarray, "d p 3"],
    truth: Float[np.ndarray, "n p 3"],
    areas: Float[np.ndarray, " n"],
    boxes: Float[np.ndarray, "n 4"],
    sigmas: Float[np.ndarray, " p"],
) -> Float[np.ndarray, "d n"]:
    """Object keypoint similarity; `boxes` are x1 y1 x2 y2."""
    visible = truth[:, :, 2] > 0
    none = np.asarray(~visible.any(axis=1))
    extent = boxes[:, 2:] - boxes[:, :2]
    low, high = (boxes[:, :2] - extent)[:, None], (boxes[:, 2:] + extent)[:, None]
    points = found[:, None, :, :2]
    outside = np.maximum(low - points, 0) + np.maximum(points - high, 0)
    apart = np.where(none[:, None, None], outside, points - truth[:, :, :2])
    exponent = (apart**2).sum(axis=-1) / (2 * sigmas) ** 2 / (areas[:, None] + np.spacing(1)) / 2
    counted = visible | none[:, None]
    return (np.exp(-exponent) * counted).sum(axis=-1) / np.maximum(counted.sum(axis=-1), 1)


def _told(sigmas: tuple[float, ...]) -> str:
    alike = f" of {sigmas[0]:g}" if len(set(sigmas)) == 1 < len(sigmas) else ""
    return f"{len(sigmas)} sigmas" + (" of COCO" if sigmas == COCO_SIGMAS else alike)


def _curves(comparison: Comparison, sigmas: Float[np.ndarray, " p"], settings: Settings) -> Curves:
    classes: list[list[Matches]] = [[] for _ in range(1 if settings.class_agnostic else len(comparison.categories))]
    thresholds, areas = np.array(settings.thresholds), np.array(list(settings.areas.values()), float)
    overlap = Overlap(
        touching=lambda truth, found: touching_of(_similarity(truth, found, sigmas)),
        scores=by_mask_score,
        areas=box_area,
    )
    for pair in comparison.pairs:
        shown = _shown(pair.truth)
        for group in groups(pair, overlap.iou(pair.truth, pair.found), overlap, settings):
            true_areas = np.where(shown[group.truth], group.candidates.truth_areas, -1.0)  # outside every range
            candidates = group.candidates._replace(truth_areas=true_areas)
            classes[group.label].append(match(candidates, thresholds, areas))
    result = accumulate(classes, settings.max_dets, (len(thresholds), len(areas)))
    return Curves(iou="keypoints", settings=settings, **result._asdict())


def _similarity(truth: Truth, found: Found, sigmas: Float[np.ndarray, " p"]) -> Float[np.ndarray, "d n"]:
    if found.keypoints is None:
        raise ValueError("this policy compares keypoints, but the prediction has none")
    points = _points(truth)
    for what, given in (("ground truth", points), ("prediction", found.keypoints)):
        if len(given) and given.shape[1] != len(sigmas):
            raise ValueError(f"{len(sigmas)} sigmas, but the {what} has {given.shape[1]} keypoints: pass theirs")
    if not (len(points) and len(found)):
        return np.zeros((len(found), len(points)))
    return oks(found.keypoints, points, truth.areas, truth.boxes, sigmas)


def _points(truth: Truth) -> Float[np.ndarray, "n p 3"]:
    if truth.keypoints is None:
        raise ValueError("this policy compares keypoints, but the ground truth has none")
    return truth.keypoints


def _shown(truth: Truth) -> Bool[np.ndarray, " n"]:
    """Whether any keypoint is visible."""
    return np.asarray((_points(truth)[:, :, 2] > 0).any(axis=1))


def _count(comparison: Comparison) -> Int[np.ndarray, " k"]:
    """Ground truths that count, per class."""
    labels = [pair.truth.labels[_shown(pair.truth) & ~pair.truth.crowd] for pair in comparison.pairs]
    return np.bincount(np.concatenate([np.zeros(0, np.int64), *labels]), minlength=len(comparison.categories))


def _numbers(curves: Curves, label: int | None = None) -> dict[str, float]:
    """Of one class, or of all."""
    sizes = list(enumerate(curves.settings.areas))[1:]
    near = {f"{round(100 * t)}": t for t in curves.settings.thresholds}
    marks = {name: near[name] for name in ("50", "75") if name in near}
    precision = {name: curves.average_precision(threshold=t, label=label) for name, t in marks.items()}
    recall = {name: curves.average_recall(threshold=t, label=label) for name, t in marks.items()}
    precision |= {name: curves.average_precision(area=a, label=label) for a, name in sizes}
    recall |= {name: curves.average_recall(area=a, label=label) for a, name in sizes}
    return {
        "AP": curves.average_precision(label=label),
        **{f"AP{name}": value for name, value in precision.items()},
        "AR": curves.average_recall(label=label),
        **{f"AR{name}": value for name, value in recall.items()},
    }
