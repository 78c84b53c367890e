"""Counting: how far the number of detections is from the number of objects, per image and class.

With c the count and e the error of an image: RMSE = sqrt(mean of e^2), relative RMSE = sqrt(mean of e^2 / (c + 1)), per
class over images, then the mean over classes. "-nz" looks only at the images that have the class. Crowds are not
counted, detections all (see `objects.above`). Legend: I images, K classes.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Integer

from maskwise.evaluate.integrate import mean_known
from maskwise.evaluate.objects import Comparison
from maskwise.evaluate.report import ClassRow, Report


def counting(comparison: Comparison, iou: str = "segm") -> Report:
    """mRMSE, mRMSE-nz, relative mRMSE and relative mRMSE-nz. Nothing is compared: `iou` is only repeated."""
    names, pairs = comparison.categories.names, comparison.pairs
    found = _table([p.found.labels for p in pairs], len(names))
    counts = _table([p.truth.labels[~p.truth.crowd] for p in pairs], len(names))
    table = errors(found.astype(float), counts)
    return Report(
        policy="counting",
        iou=iou,
        numbers={f"m{name}": mean_known(values) for name, values in table.items()},
        images=len(pairs),
        ground_truths=int(counts.sum()),
        classes=tuple(
            ClassRow(name=name, ground_truths=int(total), numbers={key: float(table[key][k]) for key in table})
            for k, (name, total) in enumerate(zip(names, counts.sum(axis=0), strict=True))
        ),
        data=comparison.data,
        notes=("-nz: images that have the class",),
    )


def errors(found: Float[np.ndarray, "i k"], truth: Integer[np.ndarray, "i k"]) -> dict[str, Float[np.ndarray, " k"]]:
    """Per class; NaN without an image to look at. Estimates are rounded to whole numbers from 0 on."""
    squares = (np.maximum(np.floor(found + 0.5), 0) - truth) ** 2
    relative, some = squares / (truth + 1), truth > 0
    every = np.ones_like(some)
    return {
        "RMSE": _root_mean(squares, every),
        "RMSE-nz": _root_mean(squares, some),
        "relRMSE": _root_mean(relative, every),
        "relRMSE-nz": _root_mean(relative, some),
    }


def _table(labels: Sequence[np.ndarray], classes: int) -> Int[np.ndarray, "i k"]:
    """How often each label occurs in each image."""
    rows = [np.bincount(of, minlength=classes) for of in labels]
    return np.array(rows, np.int64).reshape(len(labels), classes)


def _root_mean(squares: np.ndarray, of: np.ndarray) -> Float[np.ndarray, " k"]:
    images = of.sum(axis=0)
    return np.sqrt((squares * of).sum(axis=0) / np.where(images > 0, images, np.nan))
