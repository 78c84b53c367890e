"""Panoptic quality: PQ = sum of IoU over matches / (TP + FP / 2 + FN / 2) = SQ * RQ, per class, then the mean.

Segments of one class match if IoU > .5, which at most one can reach as segments are disjoint; void pixels of the truth
(id 0) do not belong to the union. A detection without match is no error if more than half of it is void or a crowd of
its class; a crowd can neither match nor be missed. Classes with no segment on either side are left out of the mean.
Unlike panopticapi, all crowds of a class in an image are looked at and not the last one alone.
Legend: D segments found and N true ones of one image, K classes.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from maskwise import rle
from maskwise.categories import Categories
from maskwise.evaluate.integrate import mean_known
from maskwise.evaluate.objects import Comparison, Pair, mask_areas, present
from maskwise.evaluate.pixels import cross
from maskwise.evaluate.report import ClassRow, Report
from maskwise.rle import RLE


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
    return panoptic_quality(
        [(_drawn_truth(pair), _drawn_found(pair)) for pair in comparison.pairs],
        comparison.categories,
        things=range(len(comparison.categories)),
        data=comparison.data,
        zero_is_void=False,
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
    rows, columns = _places(truth, crossed.first, "truth"), _places(found, crossed.second, "prediction")
    both = crossed.counts[np.ix_(rows, columns)]
    void = crossed.counts[(crossed.first == 0) & zero_is_void].sum(axis=0)[columns]
    areas = crossed.counts[:, columns].sum(axis=0)
    union = crossed.counts[rows].sum(axis=1)[:, None] + areas - both - void
    same = truth.labels[:, None] == found.labels
    overlap = both / union
    match = same & ~truth.crowd[:, None] & (overlap > 0.5)
    excused = void + (both * (same & truth.crowd[:, None])).sum(axis=0)
    n, d = np.nonzero(match)
    return Tally(
        iou=np.bincount(truth.labels[n], overlap[n, d], minlength=classes).astype(float),
        matches=np.bincount(truth.labels[n], minlength=classes),
        wrong=np.bincount(found.labels[~match.any(axis=0) & (excused <= areas / 2)], minlength=classes),
        missed=np.bincount(truth.labels[~match.any(axis=1) & ~truth.crowd], minlength=classes),
    )


def drawn(
    masks: Sequence[RLE],
    labels: Int[np.ndarray, " n"],
    crowd: Bool[np.ndarray, " n"],
    *,
    order: Int[np.ndarray, " n"],
    size: tuple[int, int],
) -> Segmentation:
    """Masks painted on one map in that order, the last on top; what ends up hidden is left out."""
    picture = np.zeros(size, np.int64)
    for i in order.tolist():
        window = rle.decode(masks[i])
        h, w = window.bits.shape
        picture[window.y0 : window.y0 + h, window.x0 : window.x0 + w][window.bits] = i + 1
    ids = np.unique(picture[picture > 0])
    return Segmentation(map=picture, ids=tuple(ids.tolist()), labels=labels[ids - 1], crowd=crowd[ids - 1])


def _drawn_truth(pair: Pair) -> Segmentation:
    """Crowds below, then from large to small; of equals the first in the file is on top."""
    truth, masks = pair.truth, present(pair.truth.masks, "ground truth")
    order = np.lexsort((mask_areas(masks), truth.crowd))
    return drawn(masks, truth.labels, truth.crowd, order=order[::-1], size=truth.size)


def _drawn_found(pair: Pair) -> Segmentation:
    """From the lowest mask score to the highest; of equals the first in the file is on top."""
    found, masks = pair.found, present(pair.found.masks, "prediction")
    order = np.argsort(-found.mask_scores, kind="stable")
    return drawn(masks, found.labels, np.zeros(len(found), bool), order=order[::-1], size=pair.truth.size)


def _nothing(classes: int) -> Tally:
    zeros = np.zeros(classes, np.int64)
    return Tally(iou=np.zeros(classes), matches=zeros, wrong=zeros, missed=zeros)


def _places(of: Segmentation, known: Int[np.ndarray, " a"], what: str) -> Int[np.ndarray, " n"]:
    """Where the segments stand among the ids of the map; both must list the same."""
    listed, drawn_ids = set(of.ids), set(known[known != 0].tolist())
    if len(listed) != len(of.ids):
        raise ValueError(f"{what}: a segment id is listed more than once: {sorted(of.ids)}")
    if listed != drawn_ids:
        raise ValueError(
            f"{what}: segments listed but without a pixel: {sorted(listed - drawn_ids)}, "
            f"in the map but not listed: {sorted(drawn_ids - listed)}"
        )
    return np.searchsorted(known, np.array(of.ids, np.int64))
