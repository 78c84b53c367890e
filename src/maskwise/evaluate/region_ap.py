"""AP^r: average precision of regions as Pascal VOC, SBD and human parsing count it. Four policies, one table.

| policy | overlap | one ground truth | integral | thresholds |
|---|---|---|---|---|
| sds | IoU >= t | is taken once | envelope, every step | .5, .7, vol, avg |
| voc07 | IoU >= t | is taken once | envelope, 11 points | .5, .7 |
| oxford | IoU > t | any number of times | precision at the right ones | .1:.1:.9 |
| cihp | IoU > t | any number of times | envelope, every step | .1:.1:.9 |

Each detection looks only at the ground truth of its class that it covers best; where one can be taken once, the next
detection that prefers it is wrong. `vol` is the mean over .1:.1:.9, `avg` over .5:.1:.9; some papers call the first
"avg", so read the thresholds. None of these rules knows crowds: a crowd is no ground truth, what lies on it is wrong.
Legend: D detections and N ground truths of one class in one image, T thresholds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from maskwise.evaluate import integrate
from maskwise.evaluate.integrate import Integral, mean_known, ranking
from maskwise.evaluate.objects import Comparison, Pair, intersections, mask_areas, present
from maskwise.evaluate.overlaps import of_kind
from maskwise.evaluate.report import ClassRow, Report, count_ground_truths
from maskwise.rle import RLE

TENTHS = tuple((np.arange(1, 10) / 10).tolist())
VOLUMES = {"vol": (0.1, 0.9), "avg": (0.5, 0.9)}
"""means over thresholds, both ends included"""

Void: TypeAlias = Sequence[RLE | None]
"""per image the pixels that are taken out of every detection, like the 255 band of VOC masks"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """One row of the table."""

    name: str
    integral: Integral
    at_threshold: bool
    """an IoU that equals the threshold is enough"""
    taken_once: bool
    thresholds: tuple[float, ...] = TENTHS
    means: tuple[str, ...] = ("vol", "avg")


SDS = Rules(name="sds", integral=integrate.sds, at_threshold=True, taken_once=True)
VOC07 = Rules(
    name="voc07", integral=integrate.voc07, at_threshold=True, taken_once=True, thresholds=(0.5, 0.7), means=()
)
OXFORD = Rules(name="oxford", integral=integrate.oxford, at_threshold=False, taken_once=False)
CIHP = Rules(name="cihp", integral=integrate.sds, at_threshold=False, taken_once=False)


def sds(comparison: Comparison, iou: str = "segm") -> Report:
    """AP^r of SDS, Hypercolumns and their heirs on VOC and SBD."""
    return region_ap(comparison, iou, SDS)


def voc07(comparison: Comparison, iou: str = "segm") -> Report:
    """AP^r of MNC and FCIS."""
    return region_ap(comparison, iou, VOC07)


def oxford(comparison: Comparison, iou: str = "segm", *, void: Void | None = None) -> Report:
    """AP^r of DIN. Above 1 is possible where overlapping detections share a ground truth.

    DIN's script also takes the pixels labelled 255 out of the detections: pass them as `void`.
    """
    return region_ap(comparison, iou, OXFORD, void=void)


def cihp(comparison: Comparison, iou: str = "segm") -> Report:
    """AP^r of part instances, as CIHP and PASCAL-Person-Part are judged: the classes are the parts."""
    return region_ap(comparison, iou, CIHP)


def region_ap(comparison: Comparison, iou: str, rules: Rules, *, void: Void | None = None) -> Report:
    """Per threshold the mean over the classes that have ground truth, then the means over thresholds."""
    table = average_precisions(comparison, iou, rules, void=void)
    counts = count_ground_truths(comparison)
    names = comparison.categories.names
    return Report(
        policy=rules.name,
        iou=iou,
        numbers=_numbers(np.array([mean_known(column) for column in table.T]), rules),
        images=len(comparison.pairs),
        ground_truths=sum(counts),
        thresholds=rules.thresholds,
        classes=tuple(
            ClassRow(name=name, ground_truths=count, numbers=_numbers(row, rules))
            for name, count, row in zip(names, counts, table, strict=True)
        ),
        data=comparison.data,
        notes=_notes(rules, void),
    )


def average_precisions(
    comparison: Comparison, iou: str, rules: Rules, *, void: Void | None = None
) -> Float[np.ndarray, "k t"]:
    """One a class and threshold; NaN without ground truth."""
    scores: list[list[np.ndarray]] = [[] for _ in comparison.categories.names]
    right: list[list[np.ndarray]] = [[] for _ in comparison.categories.names]
    thresholds = np.array(rules.thresholds)
    for group in _groups(comparison, iou, void):
        scores[group.label].append(group.scores)
        right[group.label].append(judge(group.iou, thresholds, rules))
    counts = count_ground_truths(comparison)
    table = np.full((len(counts), len(thresholds)), np.nan)
    for label, count in enumerate(counts):
        for t in range(len(thresholds)):
            table[label, t] = rules.integral(ranking(scores[label], [r[t] for r in right[label]], count))
    return table


def judge(iou: Float[np.ndarray, "d n"], thresholds: Float[np.ndarray, " t"], rules: Rules) -> Bool[np.ndarray, "t d"]:
    """Which detections, best first, are right."""
    if not iou.size:
        return np.zeros((len(thresholds), len(iou)), bool)
    best, value = iou.argmax(axis=1), iou.max(axis=1)
    enough = (value >= thresholds[:, None]) if rules.at_threshold else (value > thresholds[:, None])
    if not rules.taken_once:
        return enough
    right = np.zeros_like(enough)
    for t, row in enumerate(enough):
        hits = np.flatnonzero(row)
        right[t, hits[np.unique(best[hits], return_index=True)[1]]] = True  # the first that comes takes it
    return right


def matching_iou(comparison: Comparison, iou: str = "segm") -> Report:
    """DIN's matching IoU: detections and ground truths of a class are paired one to one for the largest sum of IoU;
    pixels shared by the pairs / pixels of their unions, over the whole data set; then the mean over classes.

    What has no partner, or shares no pixel with it, counts nowhere, neither missed objects nor false detections.
    """
    _masks_only("matching-iou", iou)
    totals = np.zeros((len(comparison.categories), 2), np.int64)
    for pair in comparison.pairs:
        shared, union = _pixels(pair, None)
        for d, n, label in _classes(pair):
            overlap = np.ix_(d, n)
            rows, columns = linear_sum_assignment(shared[overlap] / np.maximum(union[overlap], 1), maximize=True)
            met = shared[overlap][rows, columns] > 0
            totals[label] += [(part[overlap][rows, columns][met]).sum() for part in (shared, union)]
    counts = count_ground_truths(comparison)
    values = [
        np.nan if not count else float(shared / union) if union else 0.0
        for count, (shared, union) in zip(counts, totals.tolist(), strict=True)
    ]
    return Report(
        policy="matching-iou",
        iou=iou,
        numbers={"MatchingIoU": mean_known(values)},
        images=len(comparison.pairs),
        ground_truths=sum(counts),
        classes=tuple(
            ClassRow(name=name, ground_truths=count, numbers={"MatchingIoU": value})
            for name, count, value in zip(comparison.categories.names, counts, values, strict=True)
        ),
        data=comparison.data,
        notes=("pooled over the pairs of the data set; what has no partner counts nowhere",),
    )


class _Group(NamedTuple):
    """One class of one image, detections best first."""

    label: int
    scores: Float[np.ndarray, " d"]
    iou: Float[np.ndarray, "d n"]


def _groups(comparison: Comparison, iou: str, void: Void | None) -> Iterator[_Group]:
    overlap = of_kind(iou)
    if void is not None:
        _masks_only("void", iou)
        if len(void) != len(comparison.pairs):
            raise ValueError(f"{len(void)} void masks for {len(comparison.pairs)} images")
    for i, pair in enumerate(comparison.pairs):
        matrix = overlap.iou(pair.truth, pair.found) if void is None else _iou_without(pair, void[i])
        scores = overlap.scores(pair.found)
        for d, n, label in _classes(pair):
            d = d[np.argsort(-scores[d], kind="stable")]
            yield _Group(label, scores[d], matrix[np.ix_(d, n)])


def _classes(pair: Pair) -> Iterator[tuple[Int[np.ndarray, " d"], Int[np.ndarray, " n"], int]]:
    """Detections, ground truths that are no crowds, and label, for each class of an image."""
    truth, found = pair.truth, pair.found
    for label in np.union1d(truth.labels, found.labels).tolist():
        yield np.flatnonzero(found.labels == label), np.flatnonzero((truth.labels == label) & ~truth.crowd), label


def _iou_without(pair: Pair, void: RLE | None) -> Float[np.ndarray, "d n"]:
    shared, union = _pixels(pair, void)
    return shared / np.maximum(union, 1)


def _pixels(pair: Pair, void: RLE | None) -> tuple[Int[np.ndarray, "d n"], Int[np.ndarray, "d n"]]:
    """Intersections and unions, void pixels taken out of the detections."""
    found, truth = present(pair.found.masks, "prediction"), present(pair.truth.masks, "ground truth")
    areas, shared = mask_areas(found), intersections(found, truth)
    if void is not None:
        if intersections([void], truth).any():
            raise ValueError(f"image {pair.image}: void pixels lie on an object")
        areas = areas - intersections(found, [void])[:, 0]
    return shared, areas[:, None] + mask_areas(truth) - shared


def _masks_only(what: str, iou: str) -> None:
    if iou != "segm":
        raise ValueError(f"{what} is about masks: iou must be 'segm', got {iou!r}")


def _numbers(values: Float[np.ndarray, " t"], rules: Rules) -> dict[str, float]:
    """APvol and APavg first, then AP10, AP20 ... by threshold. A class without ground truth has NaN in all of them."""
    thresholds = np.array(rules.thresholds)
    numbers = {}
    for name in rules.means:
        low, high = VOLUMES[name]
        numbers[f"AP{name}"] = float(values[(thresholds >= low) & (thresholds <= high)].mean())
    return numbers | {f"AP{round(100 * t)}": float(v) for t, v in zip(rules.thresholds, values, strict=True)}


def _notes(rules: Rules, void: Void | None) -> tuple[str, ...]:
    notes = [f"IoU {'>=' if rules.at_threshold else '>'} t"]
    notes.append("a ground truth is taken once" if rules.taken_once else "a ground truth is shared by any number")
    notes += [f"{name} = mean over IoU {VOLUMES[name][0]}:.1:{VOLUMES[name][1]}" for name in rules.means]
    return (
        *notes,
        "crowds are no ground truth",
        *(["void pixels taken out of detections"] if void is not None else []),
    )
