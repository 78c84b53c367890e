"""COCO average precision and recall of boxes, masks and boundaries: pycocotools' numbers to the last digit.

Boxes are ranked by `scores`, masks and boundaries by `mask_scores`. Boxes and masks go through hotcoco, which equals
pycocotools under every setting here; boundaries go through our own matching, which equals both (tests/evaluate).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, cast

import hotcoco
import numpy as np
from jaxtyping import Float, Int

from maskwise.evaluate.matching import (
    Accumulated,
    Candidates,
    Matches,
    OperatingPoint,
    Ranked,
    accumulate,
    best_f1,
    match,
    ranked,
)
from maskwise.evaluate.objects import Comparison, Found, Pair, Truth, present, selected, xywh
from maskwise.evaluate.overlaps import Overlap, of_kind, shown_by
from maskwise.evaluate.report import ClassRow, Report, count_ground_truths
from maskwise.rle import RLE

THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
AREAS = {"all": (0.0, 1e10), "s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """COCO's own by default."""

    thresholds: tuple[float, ...] = THRESHOLDS
    areas: Mapping[str, tuple[float, float]] = field(default_factory=lambda: dict(AREAS))
    """square pixels, both ends included; the first range is the one of the plain numbers, the others name theirs"""
    max_dets: tuple[int, ...] = (1, 10, 100)
    """best detections of an image and class; precision is told at the largest"""
    class_agnostic: bool = False
    """COCO's useCats = 0: a detection may take a ground truth of any class"""

    def __post_init__(self) -> None:
        if not self.thresholds or not self.areas or not self.max_dets:
            raise ValueError("thresholds, areas and max_dets must not be empty")
        if list(self.max_dets) != sorted(set(self.max_dets)) or self.max_dets[0] < 1:
            raise ValueError(f"max_dets must rise from 1 or more, got {self.max_dets}")
        if not all(0 < threshold <= 1 for threshold in self.thresholds):
            raise ValueError(f"an IoU threshold is above 0 and at most 1, got {self.thresholds}")


COCO = Settings()
BY_HOTCOCO = ("bbox", "segm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Precision at 101 levels of recall, the highest recall, and the scores there; NaN for a class without truth."""

    iou: str
    settings: Settings
    precision: Float[np.ndarray, "t r k a m"]
    recall: Float[np.ndarray, "t k a m"]
    scores: Float[np.ndarray, "t r k a m"]

    def average_precision(self, *, threshold: float | None = None, area: int = 0, label: int | None = None) -> float:
        """Mean over thresholds, recall levels and classes that have ground truth."""
        return _mean(self._at(self.precision, threshold, label)[..., area, -1])

    def average_recall(
        self, *, threshold: float | None = None, limit: int = -1, area: int = 0, label: int | None = None
    ) -> float:
        """Mean of the highest recall over thresholds and classes that have ground truth."""
        return _mean(self._at(self.recall, threshold, label)[..., area, limit])

    def _at(self, values: np.ndarray, threshold: float | None, label: int | None) -> np.ndarray:
        if threshold is not None:
            at = position(self.settings.thresholds, threshold)
            values = values[at : at + 1]
        return values if label is None else values[..., label : label + 1, :, :]


def coco(comparison: Comparison, iou: str = "segm", settings: Settings = COCO) -> Report:
    """The twelve numbers of COCO, and a table per class. pycocotools' -1 (no ground truth) is NaN here."""
    curves_ = curves(comparison, iou, settings)
    counts = count_ground_truths(comparison)
    return Report(
        policy="coco",
        iou=iou,
        numbers=summary(curves_),
        images=len(comparison.pairs),
        ground_truths=sum(counts),
        thresholds=settings.thresholds,
        max_dets=settings.max_dets,
        classes=() if settings.class_agnostic else _class_rows(comparison, curves_, counts),
        data=comparison.data,
        notes=("ranked by class confidence" if iou == "bbox" else "ranked by mask score",),
    )


def summary(curves: Curves) -> dict[str, float]:
    """AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl, as far as the settings have them."""
    settings = curves.settings
    sizes = list(enumerate(settings.areas))[1:]
    return {
        "AP": curves.average_precision(),
        **_at_thresholds(curves),
        **{f"AP{name}": curves.average_precision(area=a) for a, name in sizes},
        **{f"AR{most}": curves.average_recall(limit=m) for m, most in enumerate(settings.max_dets)},
        **{f"AR{name}": curves.average_recall(area=a) for a, name in sizes},
    }


def curves(comparison: Comparison, iou: str = "segm", settings: Settings = COCO) -> Curves:
    """Everything that the numbers are made of."""
    if iou in BY_HOTCOCO:
        found = _by_hotcoco(comparison, iou, settings)
    else:
        found = by_own_matching(comparison, of_kind(iou), settings)
    return Curves(iou=iou, settings=settings, **found._asdict())


def operating_points(
    comparison: Comparison, iou: str = "segm", settings: Settings = COCO, *, threshold: float = 0.5
) -> tuple[OperatingPoint, ...]:
    """Of each class the best F1 at one IoU, and the class score from which detections should be shown to reach it."""
    area, limit = next(iter(settings.areas.items())), settings.max_dets[-1]
    at = Settings(thresholds=(threshold,), areas=dict([area]), max_dets=(limit,))
    overlap = shown_by(of_kind(iou))
    if iou in BY_HOTCOCO:
        classes = _ranked_by_hotcoco(comparison, iou, overlap, at)
    else:
        classes = [ranked(images, limit, (1, 1))[0] for images in matches(comparison, overlap, at)]
    return tuple(best_f1(detections) for detections in classes)


def by_own_matching(comparison: Comparison, overlap: Overlap, settings: Settings = COCO) -> Accumulated:
    """For any kind of overlap."""
    classes = matches(comparison, overlap, settings)
    return accumulate(classes, settings.max_dets, (len(settings.thresholds), len(settings.areas)))


def matches(comparison: Comparison, overlap: Overlap, settings: Settings = COCO) -> list[list[Matches]]:
    """Per class, the images that have any of it."""
    classes: list[list[Matches]] = [[] for _ in range(1 if settings.class_agnostic else len(comparison.categories))]
    thresholds, areas = np.array(settings.thresholds), np.array(list(settings.areas.values()), float)
    for pair in _limited(comparison, overlap, settings).pairs:
        for group in groups(pair, overlap.iou(pair.truth, pair.found), overlap, settings):
            classes[group.label].append(match(group.candidates, thresholds, areas))
    return classes


class Group(NamedTuple):
    """One class of one image."""

    label: int
    found: Int[np.ndarray, " d"]
    """which detections, best first, no more than the largest limit"""
    truth: Int[np.ndarray, " n"]
    """which ground truths"""
    candidates: Candidates


def groups(pair: Pair, iou: Float[np.ndarray, "d n"], overlap: Overlap, settings: Settings) -> list[Group]:
    """The classes of an image with their parts of its IoU matrix."""
    truth, found = pair.truth, pair.found
    truth_labels, found_labels = _labels(truth, settings), _labels(found, settings)
    scores, areas = overlap.scores(found), overlap.areas(found)
    found_order = np.lexsort((found.labels, -scores))  # by class among equals, which matters where classes do not
    truth_order = np.argsort(truth.labels, kind="stable")
    result = []
    for label in np.union1d(truth_labels, found_labels).tolist():
        d = found_order[found_labels[found_order] == label][: settings.max_dets[-1]]
        n = truth_order[truth_labels[truth_order] == label]
        candidates = Candidates(iou[np.ix_(d, n)], scores[d], areas[d], truth.areas[n], truth.crowd[n])
        result.append(Group(label, d, n, candidates))
    return result


def that_count(found: Found, overlap: Overlap, settings: Settings) -> Int[np.ndarray, " c"]:
    """Detections up to the largest limit, as `groups` has them, in the order of the image.

    The others change no number; of a crowded picture a table of them and all objects would fill the memory.
    """
    labels = _labels(found, settings)
    order = np.lexsort((found.labels, -overlap.scores(found), labels))
    rank = np.arange(len(order)) - np.searchsorted(labels[order], labels[order])
    return np.sort(order[rank < settings.max_dets[-1]])


def position(thresholds: Sequence[float], threshold: float) -> int:
    """Where a threshold stands in the list: linspace(.5, .95, 10) has no exact .7."""
    near = [i for i, value in enumerate(thresholds) if math.isclose(value, threshold, abs_tol=1e-9)]
    if not near:
        raise ValueError(f"IoU threshold {threshold} was not evaluated; these were: {list(thresholds)}")
    return near[0]


def _limited(comparison: Comparison, overlap: Overlap, settings: Settings) -> Comparison:
    most = settings.max_dets[-1]
    pairs = [
        p if len(p.found) <= most else p._replace(found=selected(p.found, that_count(p.found, overlap, settings)))
        for p in comparison.pairs
    ]
    return replace(comparison, pairs=tuple(pairs))


def _labels(objects: Truth | Found, settings: Settings) -> np.ndarray:
    return np.zeros_like(objects.labels) if settings.class_agnostic else objects.labels


def _at_thresholds(curves: Curves, label: int | None = None) -> dict[str, float]:
    wanted = {"AP50": 0.5, "AP75": 0.75}
    known = [name for name, t in wanted.items() if any(math.isclose(t, have) for have in curves.settings.thresholds)]
    return {name: curves.average_precision(threshold=wanted[name], label=label) for name in known}


def _class_rows(comparison: Comparison, curves: Curves, counts: Sequence[int]) -> tuple[ClassRow, ...]:
    """F1 belongs to a cut, and each class has its own: no mean of them is told."""
    rows = []
    points = operating_points(comparison, curves.iou, curves.settings)
    for label, (name, count) in enumerate(zip(comparison.categories.names, counts, strict=True)):
        numbers = _class_numbers(curves, label)
        if "AP50" in numbers:
            numbers["F1"], numbers["score_at_F1"] = points[label]
        rows.append(ClassRow(name=name, ground_truths=count, numbers=numbers))
    return tuple(rows)


def _class_numbers(curves: Curves, label: int) -> dict[str, float]:
    numbers = {"AP": curves.average_precision(label=label), **_at_thresholds(curves, label)}
    return numbers | {f"AR{curves.settings.max_dets[-1]}": curves.average_recall(label=label)}


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _by_hotcoco(comparison: Comparison, iou: str, settings: Settings) -> Accumulated:
    evaluator = _evaluated(comparison, iou, of_kind(iou), settings)
    evaluator.accumulate()
    result = evaluator.eval
    assert result is not None
    return Accumulated(*(np.where(result[k] == -1, np.nan, result[k]) for k in Accumulated._fields))


def _ranked_by_hotcoco(comparison: Comparison, iou: str, overlap: Overlap, settings: Settings) -> list[Ranked]:
    """The detections of each class at the first threshold; `settings` have one range of areas."""
    classes: list[list[dict]] = [[] for _ in range(len(comparison.categories))]
    for image in _evaluated(comparison, iou, overlap, settings).eval_imgs:
        if image is not None:
            classes[image["category_id"] - 1].append(image)
    return [_ranked(images) for images in classes]


def _ranked(images: Sequence[dict]) -> Ranked:
    """Of one class, from hotcoco's record of each image."""
    scores = np.array([score for image in images for score in image["dtScores"]], float)
    hit = np.array([match for image in images for match in image["dtMatched"][0]], bool)
    ignored = np.array([ignore for image in images for ignore in image["dtIgnore"][0]], bool)
    order = np.argsort(-scores, kind="stable")
    positives = sum(not ignore for image in images for ignore in image["gtIgnore"])
    return Ranked(scores[order], (hit & ~ignored)[None, order], (~hit & ~ignored)[None, order], positives)


def _evaluated(comparison: Comparison, iou: str, overlap: Overlap, settings: Settings) -> hotcoco.COCOeval:
    """Numbered afresh: images and classes by their place, so that any id will do (pycocotools loses id 0)."""
    comparison = _limited(comparison, overlap, settings)
    truth = _hotcoco_truth(comparison, masks=iou == "segm")
    found = _hotcoco_found(comparison, truth, overlap, masks=iou == "segm")
    evaluator = hotcoco.COCOeval(truth, found, iou)
    params = evaluator.params
    params.iou_thrs, params.max_dets = list(settings.thresholds), list(settings.max_dets)
    params.area_rng, params.area_rng_lbl = [list(r) for r in settings.areas.values()], list(settings.areas)
    params.use_cats = not settings.class_agnostic
    evaluator.evaluate()
    return evaluator


def _hotcoco_truth(comparison: Comparison, *, masks: bool) -> hotcoco.COCO:
    truths = [pair.truth for pair in comparison.pairs]
    images = [{"id": i, "height": t.size[0], "width": t.size[1]} for i, t in enumerate(truths, 1)]
    return hotcoco.COCO.from_arrays(
        images,
        [{"id": k + 1, "name": str(k)} for k in range(len(comparison.categories))],
        np.repeat(np.arange(1, len(truths) + 1), [len(t) for t in truths]),
        _joined([t.labels for t in truths], np.int64) + 1,
        xywh(_joined([t.boxes for t in truths], float, 4)),
        area=_joined([t.areas for t in truths], float),
        iscrowd=_joined([t.crowd for t in truths], bool),
        segmentation=_codes([m for t in truths for m in present(t.masks, "ground truth")]) if masks else None,
    )


def _hotcoco_found(comparison: Comparison, truth: hotcoco.COCO, overlap: Overlap, *, masks: bool) -> hotcoco.COCO:
    """The areas that hotcoco derives on loading are replaced by ours: of masks, whatever box comes with them."""
    founds = [pair.found for pair in comparison.pairs]
    image = np.repeat(np.arange(1, len(founds) + 1), [len(f) for f in founds])
    boxes = xywh(_joined([f.boxes for f in founds], float, 4))
    scores = _joined([overlap.scores(f) for f in founds], float)
    rows = np.column_stack([image, boxes, scores, _joined([f.labels for f in founds], np.int64) + 1])
    codes = _codes([m for f in founds for m in present(f.masks, "prediction")]) if masks else None
    found = truth.load_res(rows, segmentation=codes)
    found.update_anns(ids=np.arange(1, len(rows) + 1), area=_joined([overlap.areas(f) for f in founds], float))
    return found


def _codes(masks: Sequence[RLE]) -> list[dict[str, object] | list[list[float]]]:
    return cast(list[dict[str, object] | list[list[float]]], list(masks))


def _joined(arrays: Sequence[np.ndarray], dtype: type, *columns: int) -> np.ndarray:
    return np.concatenate([np.zeros((0, *columns), dtype), *arrays])
