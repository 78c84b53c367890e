"""Panoptic quality: PQ = sum of IoU over matches / (TP + FP / 2 + FN / 2) = SQ * RQ, per class, then the mean.

Segments of one class match if IoU > .5, which at most one can reach as segments are disjoint; void pixels of the truth
(id 0) do not belong to the union. A detection without match is no error if more than half of it is void or a crowd of
its class; a crowd can neither match nor be missed. Classes with no segment on either side are left out of the mean.
Unlike panopticapi, all crowds of a class in an image are looked at and not the last one alone.
Legend: D segments found and N true ones of one image, K classes.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from maskwise.categories import Categories
from maskwise.evaluate import runs
from maskwise.evaluate.integrate import mean_known
from maskwise.evaluate.objects import Comparison, Pair, check_one_size, present
from maskwise.evaluate.pixels import cross
from maskwise.evaluate.report import ClassRow, Report
from maskwise.evaluate.runs import Pairs

NOBODY = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation:
    """Every pixel of a picture belongs to one segment or to none (id 0, void)."""

    map: Integer[np.ndarray, "h w"]
    ids: tuple[int, ...]
    """of the segments, in the map"""
    labels: Int[np.ndarray, " n"]
    crowd: Bool[np.ndarray, " n"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Counts per class; tallies of images add up."""

    iou: Float[np.ndarray, " k"]
    """summed over the matches"""
    matches: Int[np.ndarray, " k"]
    wrong: Int[np.ndarray, " k"]
    missed: Int[np.ndarray, " k"]

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            iou=self.iou + other.iou,
            matches=self.matches + other.matches,
            wrong=self.wrong + other.wrong,
            missed=self.missed + other.missed,
        )

    def numbers(self) -> dict[str, Float[np.ndarray, " k"]]:
        """PQ, SQ and RQ of each class, NaN where there is nothing."""
        total = self.matches + self.wrong / 2 + self.missed / 2
        some = np.where(total > 0, total, np.nan)
        rq = self.matches / some
        sq = self.iou / np.maximum(self.matches, 1) + 0 * some
        return {"PQ": self.iou / some, "SQ": sq, "RQ": rq}


def panoptic(comparison: Comparison, iou: str = "segm") -> Report:
    """PQ of things alone; what is no object is background and excuses nothing.

    Where detections overlap the one of the highest mask score is on top, where ground truths overlap the smallest is;
    what is hidden altogether is no segment.
    """
    if iou != "segm":
        raise ValueError(f"panoptic is about masks: iou must be 'segm', got {iou!r}")
    classes = len(comparison.categories)
    return _report(
        [_tally_of_masks(pair, classes) for pair in comparison.pairs],
        comparison.categories,
        things=range(classes),
        data=comparison.data,
        notes=("things only", "no void", "overlaps resolved by score"),
    )


def panoptic_quality(
    images: Iterable[tuple[Segmentation, Segmentation]],
    categories: Categories,
    *,
    things: Collection[int],
    zero_is_void: bool = True,
    data: str = "",
    notes: tuple[str, ...] = (),
) -> Report:
    """Of (truth, found) of each image. `things`: the labels of countable classes, the others are stuff."""
    tallies = [tally(truth, found, len(categories), zero_is_void=zero_is_void) for truth, found in images]
    return _report(tallies, categories, things=things, data=data, notes=notes)


def _report(
    tallies: Sequence[Tally],
    categories: Categories,
    *,
    things: Collection[int],
    data: str,
    notes: tuple[str, ...],
) -> Report:
    total = sum(tallies, start=_nothing(len(categories)))
    table = total.numbers()
    countable = np.isin(np.arange(len(categories)), list(things))
    groups = {"": np.ones(len(categories), bool), "th": countable, "st": ~countable}
    return Report(
        policy="panoptic",
        iou="segm",
        numbers={f"{name}{end}": mean_known(table[name][of]) for end, of in groups.items() for name in table},
        images=len(tallies),
        ground_truths=int((total.matches + total.missed).sum()),
        thresholds=(0.5,),
        classes=tuple(
            ClassRow(name=name, ground_truths=int(count), numbers={key: float(table[key][label]) for key in table})
            for label, (name, count) in enumerate(zip(categories.names, total.matches + total.missed, strict=True))
        ),
        data=data,
        notes=("IoU > 0.5", *notes),
    )


def tally(truth: Segmentation, found: Segmentation, classes: int, *, zero_is_void: bool = True) -> Tally:
    """One image. Without void, pixels of id 0 in the truth are background."""
    crossed = cross(truth.map, found.map)
    first, second, pixels = crossed.pairs
    n, d = _places(truth, crossed.first, "truth"), _places(found, crossed.second, "prediction")
    void = (crossed.first[first] == 0) & zero_is_void
    both = (n[first] != NOBODY) & (d[second] != NOBODY)
    return _tally(
        _Segments(truth.labels, truth.crowd, _areas(n[first], pixels, len(truth.ids))),
        _Segments(found.labels, found.crowd, _areas(d[second], pixels, len(found.ids))),
        runs.added(n[first[both]], d[second[both]], pixels[both]),
        void=_areas(d[second[void]], pixels[void], len(found.ids)),
        classes=classes,
    )


class _Segments(NamedTuple):
    """Of one side of one image."""

    labels: Int[np.ndarray, " n"]
    crowd: Bool[np.ndarray, " n"]
    areas: Int[np.ndarray, " n"]


def _tally(truth: _Segments, found: _Segments, both: Pairs, *, void: Int[np.ndarray, " d"], classes: int) -> Tally:
    """`both`: by ground truth and then by detection. What has no pixel is no segment."""
    n, d, pixels = both
    overlap = pixels / (truth.areas[n] + found.areas[d] - pixels - void[d])
    same, crowd = truth.labels[n] == found.labels[d], truth.crowd[n]
    match = same & ~crowd & (overlap > 0.5)
    excused = void + runs.sums(d[same & crowd], pixels[same & crowd], len(found.areas))
    n, d, overlap = n[match], d[match], overlap[match]
    missed, wrong = ~truth.crowd & (truth.areas > 0), (excused <= found.areas / 2) & (found.areas > 0)
    missed[n], wrong[d] = False, False
    return Tally(
        iou=np.bincount(truth.labels[n], overlap, minlength=classes).astype(float),
        matches=np.bincount(truth.labels[n], minlength=classes),
        wrong=np.bincount(found.labels[wrong], minlength=classes),
        missed=np.bincount(truth.labels[missed], minlength=classes),
    )


def _tally_of_masks(pair: Pair, classes: int) -> Tally:
    """Crowds below, then from large to small, and from the lowest mask score to the highest; of equals the first in the
    file is on top."""
    truth, found = pair.truth, pair.found
    true_masks, found_masks = present(truth.masks, "ground truth"), present(found.masks, "prediction")
    check_one_size([*true_masks, *found_masks])
    true_runs, found_runs = runs.of_masks(true_masks), runs.of_masks(found_masks)
    size_order = np.lexsort((runs.areas(true_runs, len(truth)), truth.crowd))[::-1]
    score_order = np.argsort(-found.mask_scores, kind="stable")[::-1]
    true_seen, found_seen = runs.visible(true_runs, size_order), runs.visible(found_runs, score_order)
    return _tally(
        _Segments(truth.labels, truth.crowd, runs.areas(true_seen, len(truth))),
        _Segments(found.labels, np.zeros(len(found), bool), runs.areas(found_seen, len(found))),
        runs.shared(true_seen, found_seen),
        void=np.zeros(len(found), np.int64),
        classes=classes,
    )


def _nothing(classes: int) -> Tally:
    zeros = np.zeros(classes, np.int64)
    return Tally(iou=np.zeros(classes), matches=zeros, wrong=zeros, missed=zeros)


def _areas(where: Int[np.ndarray, " p"], pixels: Int[np.ndarray, " p"], count: int) -> Int[np.ndarray, " n"]:
    """Pixels of each segment; NOBODY's count nowhere."""
    return runs.sums(where[where != NOBODY], pixels[where != NOBODY], count)


def _places(of: Segmentation, known: Int[np.ndarray, " a"], what: str) -> Int[np.ndarray, " a"]:
    """Which segment each id of the map is, NOBODY for 0; both must list the same."""
    listed, drawn_ids = set(of.ids), set(known[known != 0].tolist())
    if len(listed) != len(of.ids):
        raise ValueError(f"{what}: a segment id is listed more than once: {sorted(of.ids)}")
    if listed != drawn_ids:
        raise ValueError(
            f"{what}: segments listed but without a pixel: {sorted(listed - drawn_ids)}, "
            f"in the map but not listed: {sorted(drawn_ids - listed)}"
        )
    places = np.full(len(known), NOBODY)
    places[np.searchsorted(known, np.array(of.ids, np.int64))] = np.arange(len(of.ids))
    return places
