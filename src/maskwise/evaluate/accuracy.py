"""Share of objects found and nothing else: TP / (TP + FP + FN) of a class at one IoU after another.

What papers on nuclei call average precision, and nothing else does: no ranking is involved, so every detection counts
and it matters which are shown (see `objects.above`). Objects and detections of a class are paired one to one so that as
many as possible overlap enough; counts are of all images together, as StarDist has it. `mean_` is that number of each
image that shows the class on either side, averaged, as in the 2018 Data Science Bowl, and `mean_DSB` its mean over .5,
.55 ... .95; an IoU of just the threshold is enough here, and was not in the Bowl's script. A detection that lies mostly
in a crowd is no error. Legend: I images, K classes.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from maskwise.evaluate.coco import COCO
from maskwise.evaluate.integrate import mean_known
from maskwise.evaluate.objects import Comparison, Pair, Touching
from maskwise.evaluate.overlaps import of_kind
from maskwise.evaluate.report import ClassRow, Report, count_ground_truths
from maskwise.evaluate.runs import changes, highest

SHOWN = (0.5, 0.6, 0.7, 0.8, 0.9)
IN_CROWD = 0.5


class Counts(NamedTuple):
    """Of one class at each IoU, in each image that shows it."""

    right: Float[np.ndarray, "i t"]
    wrong: Float[np.ndarray, "i t"]
    missed: Float[np.ndarray, "i t"]

    def pooled(self) -> Float[np.ndarray, " t"]:
        return _share(*(part.sum(0) for part in self))

    def by_image(self) -> Float[np.ndarray, " t"]:
        shares = _share(*self)
        return np.array([mean_known(column) for column in shares.T])


def accuracy(comparison: Comparison, iou: str = "segm") -> Report:
    """Mean over classes of the share at each IoU."""
    thresholds, overlap = np.array(COCO.thresholds), of_kind(iou)
    rows: list[list[np.ndarray]] = [[] for _ in comparison.categories.names]
    for pair in comparison.pairs:
        for label, row in _of_image(pair, overlap.touching(pair.truth, pair.found), thresholds):
            rows[label].append(row)
    counts = [_counts(of_class, len(thresholds)) for of_class in rows]
    shown = [int(np.abs(thresholds - t).argmin()) for t in SHOWN]
    tables = [_numbers(one, thresholds, shown) for one in counts]
    known = _numbers(_counts([], len(thresholds)), thresholds, shown)  # also where there is no class
    by_class = zip(comparison.categories.names, count_ground_truths(comparison), tables, strict=True)
    return Report(
        policy="accuracy",
        iou=iou,
        numbers={name: mean_known(np.array([table[name] for table in tables])) for name in known},
        images=len(comparison.pairs),
        ground_truths=sum(count_ground_truths(comparison)),
        thresholds=tuple(thresholds.tolist()),
        classes=tuple(ClassRow(name=name, ground_truths=total, numbers=table) for name, total, table in by_class),
        data=comparison.data,
        notes=("TP / (TP + FP + FN); mean_: of images, the others of all together",),
    )


def _numbers(counts: Counts, thresholds: Float[np.ndarray, " t"], shown: list[int]) -> dict[str, float]:
    pooled, by_image = counts.pooled(), counts.by_image()
    names = [f"{thresholds[i]:.2g}" for i in shown]
    return {
        **{f"accuracy_{name}": float(pooled[i]) for name, i in zip(names, shown, strict=True)},
        **{f"mean_{name}": float(by_image[i]) for name, i in zip(names, shown, strict=True)},
        "mean_DSB": mean_known(by_image),
    }


def _share(right: np.ndarray, wrong: np.ndarray, missed: np.ndarray) -> np.ndarray:
    """NaN where there is nothing on either side."""
    total = right + wrong + missed
    return right / np.where(total > 0, total, np.nan)


def _counts(rows: Sequence[np.ndarray], thresholds: int) -> Counts:
    return Counts(*np.array(rows, float).reshape(len(rows), 3, thresholds).transpose(1, 0, 2))


def _of_image(
    pair: Pair, met: Touching, thresholds: Float[np.ndarray, " t"]
) -> Iterator[tuple[int, Int[np.ndarray, "3 t"]]]:
    """Right, wrong and missed of each class."""
    found, truth = pair.found.labels, pair.truth.labels
    met = met.chosen(found[met.found] == truth[met.truth])
    for label in np.union1d(found, truth).tolist():
        mine, true = found == label, (truth == label) & ~pair.truth.crowd
        yield label, _of_class(met.chosen(mine[met.found]), mine, true, thresholds)


def _of_class(
    met: Touching, mine: Bool[np.ndarray, " d"], true: Bool[np.ndarray, " n"], thresholds: Float[np.ndarray, " t"]
) -> Int[np.ndarray, "3 t"]:
    on_object = true[met.truth]
    on_crowd = met.chosen(~on_object)
    surplus = mine & (highest(on_crowd.found, on_crowd.iou, len(mine)) <= IN_CROWD)
    taken = [_taken(met.chosen(on_object), threshold) for threshold in thresholds.tolist()]
    right = np.array([len(detections) for detections in taken])
    explained = np.array([np.count_nonzero(surplus[detections]) for detections in taken])
    return np.stack([right, surplus.sum() - explained, true.sum() - right])


def _taken(met: Touching, threshold: float) -> Int[np.ndarray, " r"]:
    """Detections that have a partner: most pairs first, then most overlap, among those that could have each other."""
    met = met.chosen(met.iou >= threshold)
    detections, d = np.unique(met.found, return_inverse=True)
    objects, n = np.unique(met.truth, return_inverse=True)
    several = len(detections) + len(objects)
    graph = coo_array((np.ones(len(d)), (d, len(detections) + n)), shape=(several, several))
    _, part = connected_components(graph, directed=False)
    sides = (np.bincount(side, minlength=several) for side in np.split(part, [len(detections)]))
    has_choice = np.logical_and(*(count > 1 for count in sides))
    part = part[d]
    order = np.lexsort((-met.iou, part))
    begins = changes(part[order])
    best = order[begins]
    taken = [met.found[best[~has_choice[part[best]]]]]
    for pairs in np.split(order, begins[1:]):
        if len(pairs) and has_choice[part[pairs[0]]]:
            taken.append(detections[_paired(d[pairs], n[pairs], met.iou[pairs])])
    return np.concatenate(taken)


def _paired(d: Int[np.ndarray, " p"], n: Int[np.ndarray, " p"], iou: Float[np.ndarray, " p"]) -> Int[np.ndarray, " r"]:
    rows, i = np.unique(d, return_inverse=True)
    columns, j = np.unique(n, return_inverse=True)
    gain = np.zeros((len(rows), len(columns)))
    gain[i, j] = 1 + iou / (2 * min(gain.shape) + 1)
    row, column = linear_sum_assignment(gain, maximize=True)
    return rows[row[gain[row, column] > 0]]
