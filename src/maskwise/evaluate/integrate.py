"""Five ways to turn one ranking into one number; the field calls each of them average precision.

On the same ranking of 3 ground truths (right, wrong, wrong, right, right) they say .7000 (oxford), .7333 (sds), .7347
(coco), .7455 (voc07) and .6556 (cityscapes). Legend: n detections.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float

from maskwise.evaluate.matching import RECALLS, last_of_equals


class Ranking(NamedTuple):
    """Detections of one class over all images, best first, those to be ignored left out."""

    scores: Float[np.ndarray, " n"]
    right: Bool[np.ndarray, " n"]
    positives: int
    """ground truths, found or not"""


Integral: TypeAlias = Callable[[Ranking], float]


def ranking(scores: Sequence[np.ndarray], right: Sequence[np.ndarray], positives: int) -> Ranking:
    """Of the detections of each image. Equal scores keep the order of the images and of the detections in them."""
    joined = np.concatenate([np.zeros(0), *scores])
    order = np.argsort(-joined, kind="stable")
    return Ranking(joined[order], np.concatenate([np.zeros(0, bool), *right])[order], positives)


def oxford(ranking: Ranking) -> float:
    """Sum of the precision at every right detection / ground truths: no envelope.

    Above 1 if detections outnumber the ground truths that they may share.
    """
    if not ranking.positives:
        return math.nan
    return float(_precision(ranking)[ranking.right].sum() / ranking.positives)


def sds(ranking: Ranking) -> float:
    """Area under the envelope, at every step of recall (VOC from 2010 on)."""
    if not ranking.positives:
        return math.nan
    steps = ranking.right / ranking.positives
    return float(steps @ _envelope(ranking))


def coco(ranking: Ranking) -> float:
    """Mean of the envelope at recall 0, .01 ... 1; zero where recall is never reached."""
    return _mean_at(ranking, RECALLS)


def voc07(ranking: Ranking) -> float:
    """Mean of the envelope at recall 0, .1 ... 1. Scripts that count to these in floats miss a recall of just .3, .6
    or .7: they ask for 0.30000000000000004."""
    return _mean_at(ranking, np.arange(11) / 10)


def cityscapes(ranking: Ranking) -> float:
    """Trapezoids under raw precision from (recall 0, precision 1) on. Equal scores are one point of the curve.

    So a method that gives every mask the same score gets recall * (1 + precision) / 2, not recall * precision.
    """
    if not ranking.positives:
        return math.nan
    last = last_of_equals(ranking.scores)
    recall = np.concatenate([[0.0], _recall(ranking)[last]])
    precision = np.concatenate([[1.0], _precision(ranking)[last]])
    return float(np.diff(recall) @ (precision[1:] + precision[:-1]) / 2)


def mean_known(values: Sequence[float] | np.ndarray) -> float:
    """Mean of what could be measured; NaN if nothing could."""
    known = np.asarray(values, float)
    known = known[~np.isnan(known)]
    return float(known.mean()) if known.size else math.nan


def _precision(ranking: Ranking) -> Float[np.ndarray, " n"]:
    return ranking.right.cumsum() / np.arange(1, len(ranking.right) + 1)


def _recall(ranking: Ranking) -> Float[np.ndarray, " n"]:
    return ranking.right.cumsum() / ranking.positives


def _envelope(ranking: Ranking) -> Float[np.ndarray, " n"]:
    """The best precision at this rank or any later."""
    return np.maximum.accumulate(_precision(ranking)[::-1])[::-1]


def _mean_at(ranking: Ranking, recalls: np.ndarray) -> float:
    if not ranking.positives:
        return math.nan
    at = np.searchsorted(_recall(ranking), recalls, side="left")
    return float(np.append(_envelope(ranking), 0.0)[at].mean())
