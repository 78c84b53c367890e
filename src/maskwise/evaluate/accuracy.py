"""Share of objects found and nothing else: TP / (TP + FP + FN) of a class at one IoU after another.

What papers on nuclei call average precision, and nothing else does: no ranking is involved, so every detection counts
and it matters which are shown (see `objects.above`). Objects and detections of a class are paired one to one so that as
many as possible overlap enough; counts are of all images together, as StarDist has it. `mean_` is that number of each
image that shows the class on either side, averaged, as in the 2018 Data Science Bowl, and `mean_DSB` its mean over .5,
.55 ... .95; an IoU of just the threshold is enough here, and was not in the Bowl's script. A detection that lies mostly
in a crowd is no error. Legend: I images, K classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment

from maskwise.evaluate.coco import COCO
from maskwise.evaluate.integrate import mean_known
from maskwise.evaluate.objects import Comparison, Pair
from maskwise.evaluate.overlaps import of_kind
from maskwise.evaluate.report import ClassRow, Report, count_ground_truths

SHOWN = (0.5, 0.6, 0.7, 0.8, 0.9)
IN_CROWD = 0.5


class Counts(NamedTuple):
    """Of one class at each IoU, image by image."""

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
    overlaps = [overlap.iou(pair.truth, pair.found) for pair in comparison.pairs]
    counts = [_counts(comparison.pairs, overlaps, k, thresholds) for k in range(len(comparison.categories))]
    shown = [int(np.abs(thresholds - t).argmin()) for t in SHOWN]
    tables = [_numbers(one, thresholds, shown) for one in counts]
    known = _numbers(_counts((), (), 0, thresholds), thresholds, shown)  # also where there is no class
    rows = zip(comparison.categories.names, count_ground_truths(comparison), tables, strict=True)
    return Report(
        policy="accuracy",
        iou=iou,
        numbers={name: mean_known(np.array([table[name] for table in tables])) for name in known},
        images=len(comparison.pairs),
        ground_truths=sum(count_ground_truths(comparison)),
        thresholds=tuple(thresholds.tolist()),
        classes=tuple(ClassRow(name=name, ground_truths=total, numbers=table) for name, total, table in rows),
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


def _counts(
    pairs: Sequence[Pair], overlaps: Sequence[Float[np.ndarray, "_ _"]], label: int, thresholds: Float[np.ndarray, " t"]
) -> Counts:
    rows = [_of_image(pair, iou, label, thresholds) for pair, iou in zip(pairs, overlaps, strict=True)]
    right, wrong, missed = np.array(rows, float).reshape(len(rows), 3, len(thresholds)).transpose(1, 0, 2)
    return Counts(right, wrong, missed)


def _of_image(
    pair: Pair, iou: Float[np.ndarray, "d n"], label: int, thresholds: Float[np.ndarray, " t"]
) -> Float[np.ndarray, "3 t"]:
    mine, true = pair.found.labels == label, (pair.truth.labels == label) & ~pair.truth.crowd
    crowd = (pair.truth.labels == label) & pair.truth.crowd
    excused = iou[mine][:, crowd].max(axis=1, initial=0.0) > IN_CROWD
    table = [_paired(iou[mine][:, true], excused, threshold) for threshold in thresholds]
    return np.array(table, float).reshape(len(thresholds), 3).T


def _paired(iou: Float[np.ndarray, "d n"], excused: Bool[np.ndarray, " d"], threshold: float) -> tuple[int, int, int]:
    """Right, wrong and missed."""
    fits = iou >= threshold
    rows, columns = linear_sum_assignment(
        -(fits + iou / (2 * min(iou.shape) + 1))
    )  # most pairs first, then most overlap
    taken = np.zeros(len(iou), bool)
    taken[rows[fits[rows, columns]]] = True
    right = int(taken.sum())
    return right, int((~taken & ~excused).sum()), iou.shape[1] - right
