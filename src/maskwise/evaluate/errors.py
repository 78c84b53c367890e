"""What goes wrong, in the manner of TIDE (Bolya et al. 2020, https://arxiv.org/abs/2008.08115).

Each wrong detection has one kind of error, asked in this order: localisation (right class, IoU from background to
foreground, both included), classification (other class, IoU of the foreground), duplicate (right, but its object is
taken), background (touches nothing), both. An object that is neither found nor aimed at by an error of the first two
kinds is missed. What a kind costs is the AP gained when it alone is set right.

What is missed is set right as in TIDE: as if it were found as precisely as the rest of its class, so it is left out of
the count of objects. Where nothing of a class is found there is no precision to go by; TIDE gives such a class no gain,
or drops it from the mean. Here its missed objects are then found, after all that is wrong: m of them and w wrong
detections give a precision of m / (m + w) where there was an AP of 0.

Differs from TIDE besides: detections are matched and limited by COCO's rules, 100 an image and class, not 100 an image;
and classes without ground truth are left out of the mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from maskwise.evaluate.coco import Settings, groups, that_count
from maskwise.evaluate.matching import Ranked, match, precision_recall
from maskwise.evaluate.objects import Comparison, Pair, selected
from maskwise.evaluate.overlaps import Overlap, of_kind
from maskwise.evaluate.report import ClassRow, Report

KINDS = ("classification", "localisation", "both", "duplicate", "background")
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND = range(5)
RIGHT = -1
NOWHERE = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    foreground: float
    """IoU from which a detection is right"""
    background: float
    """IoU up to which it touches nothing"""
    max_dets: int
    """of an image and class"""


class Verdicts(NamedTuple):
    """Detections that count, image by image and best first in each class; and per class the objects."""

    labels: Int[np.ndarray, " d"]
    scores: Float[np.ndarray, " d"]
    kinds: Int[np.ndarray, " d"]
    """index into KINDS, or RIGHT"""
    repaired: Int[np.ndarray, " d"]
    """label under which a detection is right once its error is set right; NOWHERE if it vanishes"""
    objects: Int[np.ndarray, " k"]
    not_found: Int[np.ndarray, " k"]
    missed: Int[np.ndarray, " k"]


def errors(
    comparison: Comparison,
    iou: str = "segm",
    *,
    foreground: float = 0.5,
    background: float = 0.1,
    max_dets: int = 100,
) -> Report:
    """AP at the foreground IoU, the AP that setting right each kind of error gains, and how many there are (`n_...`).

    `false_positive`: as if there were no wrong detection; `false_negative`: as if every object that is not found were
    set right as those are that are missed.
    """
    rules = Rules(foreground=foreground, background=background, max_dets=max_dets)
    verdicts = judge(comparison, of_kind(iou), rules)
    counts = np.bincount(verdicts.kinds[verdicts.kinds != RIGHT], minlength=len(KINDS)).tolist()
    return Report(
        policy="tide",
        iou=iou,
        numbers={
            "AP": mean_ap(verdicts),
            **gains(verdicts),
            **{f"n_{kind}": count for kind, count in zip(KINDS, counts, strict=True)},
            "n_missed": int(verdicts.missed.sum()),
        },
        images=len(comparison.pairs),
        ground_truths=int(verdicts.objects.sum()),
        thresholds=(foreground,),
        max_dets=(max_dets,),
        classes=_class_rows(verdicts, comparison.categories.names),
        data=comparison.data,
        notes=(f"foreground from IoU {foreground:g}, background up to {background:g}",),
    )


def judge(comparison: Comparison, overlap: Overlap, rules: Rules) -> Verdicts:
    """Every detection with its kind of error."""
    images = [_judge_image(pair, overlap, rules) for pair in comparison.pairs]
    classes = len(comparison.categories)
    nothing = np.zeros(0, np.int64)
    labels, scores, kinds, repaired, objects, not_found, missed = (
        np.concatenate([nothing, *column]) for column in (zip(*images, strict=True) if images else [[]] * 7)
    )
    per_class = (np.bincount(found, minlength=classes) for found in (objects, not_found, missed))
    return Verdicts(labels, scores.astype(float), kinds, repaired, *per_class)


def gains(verdicts: Verdicts) -> dict[str, float]:
    """AP gained by setting right one kind of error and leaving the others."""
    right = verdicts.kinds == RIGHT
    repaired = {
        **{name: _repair(verdicts, kind) for kind, name in enumerate(KINDS)},
        "missed": _find(verdicts, verdicts.missed),
        "false_positive": _keep(verdicts, right),
        "false_negative": _find(verdicts, verdicts.not_found),
    }
    known = np.flatnonzero(verdicts.objects)
    base = class_aps(verdicts)[known]
    return {name: _mean(class_aps(better)[known] - base) for name, better in repaired.items()}


def mean_ap(verdicts: Verdicts) -> float:
    """Over the classes that have ground truth."""
    return _mean(class_aps(verdicts)[np.flatnonzero(verdicts.objects)])


def class_aps(verdicts: Verdicts) -> Float[np.ndarray, " k"]:
    """COCO's AP of each class at the one threshold; 0 for a class without objects."""
    aps = np.zeros(len(verdicts.objects))
    for label in np.flatnonzero(verdicts.objects).tolist():
        mine = np.flatnonzero(verdicts.labels == label)
        mine = mine[np.argsort(-verdicts.scores[mine], kind="stable")]
        right = verdicts.kinds[mine] == RIGHT
        ranked = Ranked(verdicts.scores[mine], right[None], ~right[None], int(verdicts.objects[label]))
        aps[label] = precision_recall(ranked).precision.mean()
    return aps


class _Image(NamedTuple):
    """Verdicts of one image; the last three are labels, one an object."""

    labels: Int[np.ndarray, " d"]
    scores: Float[np.ndarray, " d"]
    kinds: Int[np.ndarray, " d"]
    repaired: Int[np.ndarray, " d"]
    objects: Int[np.ndarray, " n"]
    not_found: Int[np.ndarray, " m"]
    missed: Int[np.ndarray, " l"]


def _judge_image(pair: Pair, overlap: Overlap, rules: Rules) -> _Image:
    settings = Settings(thresholds=(rules.foreground,), areas={"all": (0.0, 1e10)}, max_dets=(rules.max_dets,))
    pair = pair._replace(found=selected(pair.found, that_count(pair.found, overlap, settings)))
    iou = overlap.iou(pair.truth, pair.found)
    order, right, taken = _match(pair, iou, overlap, settings)
    objects = np.flatnonzero(~pair.truth.crowd)
    truth_labels, taken = pair.truth.labels[objects], taken[objects]
    labels, scores = pair.found.labels[order], overlap.scores(pair.found)[order]
    kinds, aims = _kinds(iou[np.ix_(order, objects)], labels, truth_labels, taken, rules)
    kinds = np.where(right, RIGHT, kinds)
    aims = np.where(right, NOWHERE, aims)
    free = ~taken
    return _Image(
        labels=labels,
        scores=scores,
        kinds=kinds,
        repaired=_repaired(aims, scores, truth_labels),
        objects=truth_labels,
        not_found=truth_labels[free],
        missed=truth_labels[free & ~np.isin(np.arange(len(free)), aims)],
    )


def _match(
    pair: Pair, iou: Float[np.ndarray, "d n"], overlap: Overlap, settings: Settings
) -> tuple[Int[np.ndarray, " c"], Bool[np.ndarray, " c"], Bool[np.ndarray, " n"]]:
    """Detections that count, which of them are right, and which ground truths are taken."""
    order, right = [np.zeros(0, np.int64)], [np.zeros(0, bool)]
    taken = np.zeros(len(pair.truth), bool)
    for group in groups(pair, iou, overlap, settings):
        found = match(group.candidates, np.array(settings.thresholds), np.array([settings.areas["all"]]))
        truth, counts = found.truth[0, 0], ~found.ignored[0, 0]
        taken[group.truth[truth[truth >= 0]]] = True
        order.append(group.found[counts])
        right.append(truth[counts] >= 0)
    return np.concatenate(order), np.concatenate(right), taken


def _kinds(
    iou: Float[np.ndarray, "d n"],
    labels: Int[np.ndarray, " d"],
    truth_labels: Int[np.ndarray, " n"],
    taken: Bool[np.ndarray, " n"],
    rules: Rules,
) -> tuple[Int[np.ndarray, " d"], Int[np.ndarray, " d"]]:
    """Kind of error of each detection, were it wrong, and the free ground truth that it aims at or NOWHERE."""
    iou = np.pad(iou, ((0, 0), (0, 1)))  # an object that nothing touches, so that there is one
    taken = np.append(taken, True)
    same = labels[:, None] == np.append(truth_labels, NOWHERE)
    own, other = np.where(same, iou, 0.0), np.where(same, 0.0, iou)
    tests = [
        (own.max(axis=1) >= rules.background) & (own.max(axis=1) <= rules.foreground),
        other.max(axis=1) >= rules.foreground,
        np.where(taken, own, 0.0).max(axis=1) >= rules.foreground,
        iou.max(axis=1) <= rules.background,
    ]
    kinds = np.select(tests, [LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND], BOTH)
    aims = np.select(tests[:2], [own.argmax(axis=1), other.argmax(axis=1)], NOWHERE)
    return kinds, np.where(taken[aims], NOWHERE, aims)


def _repaired(
    aims: Int[np.ndarray, " d"], scores: Float[np.ndarray, " d"], truth_labels: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " d"]:
    """Of all that aim at the same object the one of highest score gets it, the others would be duplicates."""
    repaired = np.full(len(aims), NOWHERE)
    best_first = np.argsort(-scores, kind="stable")
    objects, first = np.unique(aims[best_first], return_index=True)
    hits = objects != NOWHERE
    repaired[best_first[first[hits]]] = truth_labels[objects[hits]]
    return repaired


def _repair(verdicts: Verdicts, kind: int) -> Verdicts:
    wrong = verdicts.kinds == kind
    labels = np.where(wrong, verdicts.repaired, verdicts.labels)
    kinds = np.where(wrong, RIGHT, verdicts.kinds)
    return _keep(verdicts._replace(labels=labels, kinds=kinds), ~wrong | (verdicts.repaired != NOWHERE))


def _find(verdicts: Verdicts, unseen: Int[np.ndarray, " k"]) -> Verdicts:
    """Without these objects where others of their class are found; else with them, found last."""
    some = np.isin(np.arange(len(unseen)), verdicts.labels[verdicts.kinds == RIGHT])
    labels = np.repeat(np.arange(len(unseen)), np.where(some, 0, unseen))
    return verdicts._replace(
        labels=np.append(verdicts.labels, labels),
        scores=np.append(verdicts.scores, np.full(len(labels), -np.inf)),
        kinds=np.append(verdicts.kinds, np.full(len(labels), RIGHT)),
        repaired=np.append(verdicts.repaired, np.full(len(labels), NOWHERE)),
        objects=verdicts.objects - np.where(some, unseen, 0),
    )


def _keep(verdicts: Verdicts, chosen: Bool[np.ndarray, " d"]) -> Verdicts:
    return verdicts._replace(
        labels=verdicts.labels[chosen],
        scores=verdicts.scores[chosen],
        kinds=verdicts.kinds[chosen],
        repaired=verdicts.repaired[chosen],
    )


def _class_rows(verdicts: Verdicts, names: Sequence[str]) -> tuple[ClassRow, ...]:
    aps = class_aps(verdicts)
    rows = []
    for label, (name, objects) in enumerate(zip(names, verdicts.objects.tolist(), strict=True)):
        kinds = verdicts.kinds[(verdicts.labels == label) & (verdicts.kinds != RIGHT)]
        counts = dict(zip(KINDS, np.bincount(kinds, minlength=len(KINDS)).tolist(), strict=True))
        ap = float(aps[label]) if objects else np.nan
        numbers = {"AP": ap, **counts, "missed": int(verdicts.missed[label])}
        rows.append(ClassRow(name=name, ground_truths=objects, numbers=numbers))
    return tuple(rows)


def _mean(values: Float[np.ndarray, " k"]) -> float:
    return float(values.mean()) if len(values) else np.nan
