"""Average recall of proposals: how many objects of any class the best N detections of an image cover.

COCO's form (useCats = 0): one-to-one by score, recall averaged over IoU .50:.05:.95, N = 10, 100, 1000. AUC is the area
under AR over log10 N between the smallest and the largest N, divided by its width. Another form is in use, greedy by
IoU and not by score; its numbers are a little higher.
"""

from collections.abc import Sequence

import numpy as np

from maskwise.evaluate.coco import Settings, curves
from maskwise.evaluate.objects import Comparison
from maskwise.evaluate.report import Report, count_ground_truths

PROPOSALS = Settings(max_dets=(10, 100, 1000), class_agnostic=True)


def recall(comparison: Comparison, iou: str = "segm", settings: Settings = PROPOSALS) -> Report:
    """AR10, AR100, AR1000, AUC, and the same of small, medium and large objects."""
    if not settings.class_agnostic:
        raise ValueError("recall of proposals knows no classes: settings.class_agnostic must be True")
    found = curves(comparison, iou, settings)
    numbers: dict[str, float] = {}
    for area, name in enumerate(settings.areas):
        size = "" if area == 0 else name
        recalls = [found.average_recall(limit=m, area=area) for m in range(len(settings.max_dets))]
        numbers |= {f"AR{size}{most}": value for most, value in zip(settings.max_dets, recalls, strict=True)}
        numbers[f"AUC{size}"] = area_under(recalls, settings.max_dets)
    return Report(
        policy="recall",
        iou=iou,
        numbers=numbers,
        images=len(comparison.pairs),
        ground_truths=sum(count_ground_truths(comparison)),
        thresholds=settings.thresholds,
        max_dets=settings.max_dets,
        data=comparison.data,
        notes=("classes ignored", f"AUC over log10 of {settings.max_dets[0]} to {settings.max_dets[-1]} detections"),
    )


def area_under(recalls: Sequence[float], limits: Sequence[int]) -> float:
    """Mean height of the straight lines between the points (log10 N, recall)."""
    if len(limits) == 1:
        return recalls[0]
    widths = np.diff(np.log10(limits))
    heights = np.convolve(recalls, [0.5, 0.5], mode="valid")
    return float(heights @ widths / widths.sum())
