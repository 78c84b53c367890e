"""Masks, worst first, and what looking at the worst ones finds where the truth is known.

The true IoU of a mask is its highest IoU with an object of any class: masks are judged, not names. Legend: n masks.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Float

from maskwise.data.dataset import DataSet, Record
from maskwise.evaluate.overlaps import of_kind
from maskwise.evaluate.quality import true_iou
from maskwise.evaluate.structures import pair
from maskwise.predict import Result
from maskwise.structures import Targets

BAD = 0.7
"""A mask whose IoU is lower needs an annotator."""
LOOKED_AT = 0.2
"""Share of the masks that somebody has the time for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """One mask and how good it seems."""

    picture: int
    """Position among the results."""
    instance: int
    name: str
    category: str
    quality: float
    score: float
    mask_score: float
    area: int
    box: tuple[int, int, int, int]
    """x0, y0, x1, y1, tight around the mask."""
    true_iou: float | None
    """None: nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catch:
    """What looking at the worst-ranked masks finds, by each ranking."""

    masks: int
    """Whose true IoU is known."""
    bad: int
    """Among them, with an IoU below `BAD`."""
    looked_at: int
    found: Mapping[str, int]
    """Of the bad ones, by the name of the ranking."""


@dataclass(frozen=True, slots=True)
class Truth:
    """Records of a data set, found by the picture of a result."""

    by_path: Mapping[Path, Record]
    by_name: Mapping[str, Record]
    """Only of names that one picture has."""

    @classmethod
    def of(cls, data: DataSet) -> "Truth":
        names = Counter(_bare(record.name) for record in data)
        single = {n: r for r in data if names[n := _bare(r.name)] == 1}
        return cls({record.path.resolve(): record for record in data}, single)

    def targets(self, result: Result) -> Targets | None:
        """None where there is no truth for this picture."""
        record = self.named(result) or self.by_name.get(_bare(result.name))
        return None if record is None else record.labelled().targets

    def named(self, result: Result) -> Record | None:
        """The one whose picture is the very file."""
        return None if result.path is None else self.by_path.get(result.path.resolve())


def rank(results: Iterable[Result], truth: Truth | None = None) -> list[Doubt]:
    """All masks, lowest predicted quality first; equal ones by what they score, then as they come."""
    doubts: list[Doubt] = []
    names: Counter[str] = Counter()
    by_path: dict[int, str] = {}
    for i, result in enumerate(results):
        doubts += _doubts(i, result, truth)
        names[_bare(result.name)] += 1
        if truth is not None and (record := truth.named(result)) is not None:
            by_path[i] = _bare(record.name)
    taken = {*by_path.values(), *(name for name, count in names.items() if count > 1)}
    known = [_unjudged(d) if d.picture not in by_path and _bare(d.name) in taken else d for d in doubts]
    return sorted(known, key=lambda doubt: (doubt.quality, doubt.mask_score))


def _unjudged(doubt: Doubt) -> Doubt:
    """By the name alone nobody can tell whose truth it was: several pictures have it, or another is that file."""
    return replace(doubt, true_iou=None)


def _bare(name: str) -> str:
    """Without folders."""
    return PurePosixPath(name).name


def _doubts(picture: int, result: Result, truth: Truth | None) -> list[Doubt]:
    found, names = result.instances, result.categories.names
    targets = None if truth is None else truth.targets(result)
    true = [math.nan] * len(found) if targets is None else _true_iou(result, targets).tolist()
    columns = (found.labels, found.quality, found.scores, found.mask_scores, found.masks.area())
    boxes = found.masks.boxes().int().tolist()
    rows = zip(*(column.tolist() for column in columns), boxes, true, strict=True)
    return [
        Doubt(
            picture=picture,
            instance=i,
            name=result.name,
            category=names[label],
            quality=quality,
            score=score,
            mask_score=mask_score,
            area=area,
            box=tuple(box),
            true_iou=None if math.isnan(iou) else iou,
        )
        for i, (label, quality, score, mask_score, area, box, iou) in enumerate(rows)
    ]


def _true_iou(result: Result, targets: Targets) -> Float[np.ndarray, " n"]:
    found = result.instances
    one_class = replace(targets, labels=torch.zeros_like(targets.labels))
    both = pair(result.name, one_class, replace(found, labels=torch.zeros_like(found.labels)))
    return true_iou(both, of_kind("segm"))


def catch(doubts: Iterable[Doubt]) -> Catch:
    """By mask score, by predicted quality alone, and by the score that other programs rank by."""
    known = [d for d in doubts if d.true_iou is not None]
    bad = np.array([d.true_iou < BAD for d in known if d.true_iou is not None], bool)
    most = math.ceil(LOOKED_AT * len(known))
    rankings: dict[str, Callable[[Doubt], float]] = {
        "mask_scores": lambda d: d.mask_score,
        "quality": lambda d: d.quality,
        "scores": lambda d: d.score,
    }
    found = {}
    for name, value in rankings.items():
        worst = np.argsort([value(d) for d in known], kind="stable")[:most]
        found[name] = int(bad[worst.astype(np.int64)].sum())
    return Catch(masks=len(known), bad=int(bad.sum()), looked_at=most, found=found)
