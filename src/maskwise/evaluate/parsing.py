"""Human parsing as CIHP judges whole people: AP^p and PCP. (AP^r of single parts is `region_ap.cihp`.)

The overlap of two people is the mean IoU over the part classes that either of them has, background of the picture
included. Detections in order of their score take the person they overlap most, once, if that overlap is above t.
AP^p: area under the envelope at every step of recall. PCP of a person found at t: parts with IoU > t / parts of the
person; a person not found has 0; the mean over people. Both at t = .1:.1:.9; `vol` is the mean over these.
Legend: D people found and N true ones of one image, P part classes, 0 is background.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Integer

from maskwise.evaluate import integrate
from maskwise.evaluate.integrate import ranking
from maskwise.evaluate.pixels import cross
from maskwise.evaluate.region_ap import TENTHS, Rules, judge
from maskwise.evaluate.report import Report

RULES = Rules(name="parsing", integral=integrate.sds, at_threshold=False, taken_once=True, means=("vol",))


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """The people of one picture: for each pixel which part, and whose."""

    parts: Integer[np.ndarray, "h w"]
    people: Integer[np.ndarray, "h2 w2"]
    """of the same size; ids, 0 is nobody"""
    scores: Float[np.ndarray, " n"] | None = None
    """of detections, by rising id"""


class Overlaps(NamedTuple):
    """Of all people of one picture."""

    mean: Float[np.ndarray, "d n"]
    parts: Float[np.ndarray, "d n p"]
    """IoU of each part class but the background; NaN where neither has it"""
    true_parts: Int[np.ndarray, " n"]
    """how many part classes a person has"""


def parsing(images: Iterable[tuple[People, People]], parts: Sequence[str], *, data: str = "") -> Report:
    """Of (truth, found) of each image; `parts` names the classes 1, 2 ..."""
    thresholds = np.array(TENTHS)
    scores, right, correct, people, count = [], [], np.zeros(len(thresholds)), 0, 0
    for truth, found in images:
        overlaps = compare_people(truth, found, len(parts))
        order = _order(found, len(overlaps.mean))
        overlaps = overlaps._replace(mean=overlaps.mean[order], parts=overlaps.parts[order])
        scores.append(np.zeros(0) if found.scores is None else found.scores[order])
        right.append(judge(overlaps.mean, thresholds, RULES))
        correct += _correct_parts(overlaps, right[-1], thresholds)
        people, count = people + len(overlaps.true_parts), count + 1
    precision = [RULES.integral(ranking(scores, [r[t] for r in right], people)) for t in range(len(thresholds))]
    shares = correct / people if people else np.full(len(thresholds), np.nan)
    return Report(
        policy="parsing",
        iou="parts",
        numbers=_numbers("APp", np.array(precision)) | _numbers("PCP", shares),
        images=count,
        ground_truths=people,
        thresholds=TENTHS,
        data=data,
        notes=("mean IoU of parts and background > t", "vol = mean over IoU 0.1:.1:0.9"),
    )


def compare_people(truth: People, found: People, parts: int) -> Overlaps:
    """Every person found with every true one, in one pass over the picture."""
    crossed = cross(_keys(found, parts, "prediction"), _keys(truth, parts, "truth"))
    d, n = len(_ids(found)), len(_ids(truth))
    counts = np.zeros((d * parts + 1, n * parts + 1), np.int64)
    counts[np.ix_(crossed.first, crossed.second)] = crossed.counts
    shared = counts[1:, 1:].reshape(d, parts, n, parts)
    both, touching = np.einsum("dpnp->dnp", shared), shared.sum(axis=(1, 3))
    own_found = counts[1:].sum(axis=1).reshape(d, 1, parts)
    own_truth = counts[:, 1:].sum(axis=0).reshape(1, n, parts)
    background = truth.parts.size - own_found.sum(axis=2) - own_truth.sum(axis=2) + touching
    iou = _ratio(both, own_found + own_truth - both)
    with_background = np.concatenate([_ratio(background, truth.parts.size - touching)[:, :, None], iou], axis=2)
    known = ~np.isnan(with_background)
    mean = np.where(known, with_background, 0).sum(axis=2) / np.maximum(known.sum(axis=2), 1)
    return Overlaps(mean, iou, (own_truth[0] > 0).sum(axis=1))


def _keys(of: People, parts: int, what: str) -> Int[np.ndarray, "h w"]:
    """1 + place of the person * parts + part - 1; 0 where there is nobody or background."""
    if of.parts.shape != of.people.shape:
        raise ValueError(f"{what}: parts of size {of.parts.shape}, people of size {of.people.shape}")
    if of.parts.size and not 0 <= of.parts.min() <= of.parts.max() <= parts:
        raise ValueError(f"{what}: parts must be 0 to {parts}, got {of.parts.min()} to {of.parts.max()}")
    ids = _ids(of)
    person = np.searchsorted(ids, of.people)
    return np.where((of.people > 0) & (of.parts > 0), person * parts + of.parts, 0).astype(np.int64)


def _ids(of: People) -> Int[np.ndarray, " n"]:
    return np.unique(of.people[of.people > 0]).astype(np.int64)


def _order(found: People, count: int) -> Int[np.ndarray, " d"]:
    """Best first; equal scores in the order of the ids."""
    given = 0 if found.scores is None else len(found.scores)
    if given != count:
        raise ValueError(f"{count} people found, but {given} scores")
    return np.zeros(0, np.int64) if found.scores is None else np.argsort(-found.scores, kind="stable")


def _correct_parts(overlaps: Overlaps, right: np.ndarray, thresholds: np.ndarray) -> Float[np.ndarray, " t"]:
    """Share of correct parts, summed over the people that were found."""
    sums = np.zeros(len(thresholds))
    for t, row in enumerate(right):
        d = np.flatnonzero(row)
        n = overlaps.mean[d].argmax(axis=1) if len(d) else d
        correct = (np.nan_to_num(overlaps.parts[d, n]) > thresholds[t]).sum(axis=1)
        sums[t] = (correct / np.maximum(overlaps.true_parts[n], 1)).sum()
    return sums


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return part / np.where(whole > 0, whole, np.nan)


def _numbers(name: str, values: Float[np.ndarray, " t"]) -> dict[str, float]:
    by_threshold = {f"{name}{round(100 * t)}": float(v) for t, v in zip(TENTHS, values, strict=True)}
    return {f"{name}vol": float(values.mean()), f"{name}50": by_threshold[f"{name}50"]} | by_threshold
