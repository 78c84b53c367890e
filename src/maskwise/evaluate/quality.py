"""How far a predicted quality can be trusted: correlation with the true mask IoU, calibration, AP of ranking by it.

The true IoU of a detection is its highest IoU with a ground truth of its class, whichever detection COCO's matching
gives that ground truth to: a duplicate is a wrong detection, but its mask is as good as it is. No overlap is 0. What
lies mostly in a crowd and fits no single object has no true IoU and is left out.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from maskwise.evaluate.coco import COCO, Settings, curves
from maskwise.evaluate.objects import Comparison, Found, Pair
from maskwise.evaluate.overlaps import Overlap, of_kind
from maskwise.evaluate.report import Report, count_ground_truths
from maskwise.evaluate.runs import highest

IN_CROWD = 0.5
"""share of a detection inside a crowd from which on its true IoU is unknown"""

HIT = 0.5
"""true IoU from which on a detection has found an object; that it found one at all is for the class score to say"""

SURE = 0.5
"""class score above which a hit is compared in the paper's Figure 2"""

RANKINGS: dict[str, Callable[[Found], np.ndarray]] = {
    "score": lambda found: found.scores,
    "quality": lambda found: found.quality,
    "mask_score": lambda found: found.mask_scores,
}


class Bin(NamedTuple):
    """Detections whose predicted quality is between `low` and `high`; the outer bins take what is beyond."""

    low: float
    high: float
    detections: int
    predicted: float
    """mean"""
    true: float
    """mean"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    bins: tuple[Bin, ...]
    error: float
    """mean over detections of |mean predicted - mean true| of their bin"""


def quality(
    comparison: Comparison, iou: str = "segm", *, min_iou: float = 0.0, bins: int = 10, settings: Settings = COCO
) -> Report:
    """Correlations and calibration over detections with a true IoU of at least `min_iou`, and AP under each ranking.
    `of_hits`: over those with at least .5 alone, where only masks are compared. `of_sure_hits`: those of the paper's
    Figure 2, whose class score is above .5 as well, so that a cut at a score cannot tell them apart.

    `AP_oracle` is that of Mask Scoring R-CNN's Table 7: the true IoU in the place of the predicted one where it is
    above 0. It is no bound, as what hits nothing keeps the quality that was predicted. `AP_bound` is what a perfect
    quality would reach with the same masks: the true IoU everywhere. A correlation with something constant is NaN.
    """
    true = [true_iou(pair, of_kind(iou)) for pair in comparison.pairs]
    every = np.concatenate([np.zeros(0), *true])
    chosen = every >= min_iou  # NaN is not
    hits = chosen & (every >= HIT)
    ranked_by = {name: _everywhere(comparison, ranking) for name, ranking in RANKINGS.items()}
    populations = {"": chosen, "of_hits_": hits, "of_sure_hits_": hits & (ranked_by["score"] > SURE)}
    calibration = calibrate(ranked_by["quality"][chosen], every[chosen], bins=bins)
    return Report(
        policy="quality",
        iou=iou,
        numbers={
            **{f"pearson_{name}": pearson(values[chosen], every[chosen]) for name, values in ranked_by.items()},
            **{
                f"spearman_{of}{name}": spearman(values[those], every[those])
                for of, those in populations.items()
                for name, values in ranked_by.items()
            },
            "calibration_error": calibration.error,
            **{f"AP_by_{name}": _ap(_reranked(comparison, RANKINGS[name]), iou, settings) for name in RANKINGS},
            "AP_oracle": _ap(_with_true(comparison, true, above=0.0), iou, settings),
            "AP_bound": _ap(_with_true(comparison, true, above=-1.0), iou, settings),
            "detections": int(chosen.sum()),
            "hits": int(hits.sum()),
            "sure_hits": int(populations["of_sure_hits_"].sum()),
        },
        images=len(comparison.pairs),
        ground_truths=sum(count_ground_truths(comparison)),
        thresholds=settings.thresholds,
        max_dets=settings.max_dets,
        data=comparison.data,
        notes=(
            f"true IoU: best ground truth of the class, not one-to-one; at least {min_iou:g}",
            f"{int(np.isnan(every).sum())} detections inside crowds left out",
        ),
        tables={"calibration": tuple(bin_._asdict() for bin_ in calibration.bins)},
    )


def true_iou(pair: Pair, overlap: Overlap) -> Float[np.ndarray, " d"]:
    """Highest IoU of each detection with a ground truth of its class; NaN where only a crowd could tell."""
    met = overlap.touching(pair.truth, pair.found)
    met = met.chosen(pair.found.labels[met.found] == pair.truth.labels[met.truth])
    crowd = pair.truth.crowd[met.truth]
    single, several = met.chosen(~crowd), met.chosen(crowd)
    best = highest(single.found, single.iou, len(pair.found))
    in_crowd = highest(several.found, several.iou, len(pair.found)) >= IN_CROWD
    return np.where(in_crowd & (best < IN_CROWD), np.nan, best)


def calibrate(predicted: Float[np.ndarray, " d"], true: Float[np.ndarray, " d"], *, bins: int = 10) -> Calibration:
    """Mean true IoU against mean predicted quality, in bins of equal width."""
    place = np.clip(np.floor(predicted * bins), 0, bins - 1).astype(np.int64)
    counts = np.bincount(place, minlength=bins)
    with_any = np.maximum(counts, 1)
    means = [
        np.where(counts > 0, np.bincount(place, values, minlength=bins) / with_any, np.nan)
        for values in (predicted, true)
    ]
    rows = tuple(
        Bin(i / bins, (i + 1) / bins, int(n), float(p), float(t))
        for i, (n, p, t) in enumerate(zip(counts, *means, strict=True))
    )
    apart = sum(row.detections * abs(row.predicted - row.true) for row in rows if row.detections)
    return Calibration(bins=rows, error=apart / len(predicted) if len(predicted) else math.nan)


def pearson(first: Float[np.ndarray, " d"], second: Float[np.ndarray, " d"]) -> float:
    """Linear correlation; NaN where one of them is constant."""
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return math.nan
    return float(np.corrcoef(first, second)[0, 1])


def spearman(first: Float[np.ndarray, " d"], second: Float[np.ndarray, " d"]) -> float:
    """Correlation of the ranks; equal values share their mean rank."""
    return pearson(_ranks(first), _ranks(second))


def _ranks(values: Float[np.ndarray, " d"]) -> Float[np.ndarray, " d"]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[place]


def _everywhere(comparison: Comparison, ranking: Callable[[Found], np.ndarray]) -> Float[np.ndarray, " d"]:
    return np.concatenate([np.zeros(0), *(ranking(pair.found) for pair in comparison.pairs)])


def _ap(comparison: Comparison, iou: str, settings: Settings) -> float:
    return curves(comparison, iou, settings).average_precision()


def _reranked(comparison: Comparison, ranking: Callable[[Found], np.ndarray]) -> Comparison:
    """The same detections in another order, by boxes and by masks."""
    pairs = (p._replace(found=_ranked_by(p.found, ranking(p.found))) for p in comparison.pairs)
    return replace(comparison, pairs=tuple(pairs))


def _with_true(comparison: Comparison, true: list[np.ndarray], *, above: float) -> Comparison:
    """Class score times true IoU. What has none above this, or lies in a crowd, keeps its mask score."""
    pairs = (
        p._replace(found=_ranked_by(p.found, np.where(t > above, p.found.scores * t, p.found.mask_scores)))
        for p, t in zip(comparison.pairs, true, strict=True)
    )
    return replace(comparison, pairs=tuple(pairs))


def _ranked_by(found: Found, scores: Float[np.ndarray, " d"]) -> Found:
    return replace(found, scores=scores, mask_scores=scores)
