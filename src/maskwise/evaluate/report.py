"""What every evaluation policy returns: numbers that say which policy, data and settings they belong to."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from maskwise.evaluate.objects import Comparison

Numbers: TypeAlias = Mapping[str, float | int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRow:
    """One line of the table per class."""

    name: str
    ground_truths: int
    """crowds not counted"""
    numbers: Numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Numbers by name, best known first. NaN: there was nothing to measure (pycocotools writes -1)."""

    policy: str
    iou: str
    """what overlaps: bbox, segm, boundary, keypoints ..."""
    numbers: Numbers
    images: int
    ground_truths: int
    """crowds not counted"""
    thresholds: tuple[float, ...] = ()
    max_dets: tuple[int, ...] = ()
    classes: tuple[ClassRow, ...] = ()
    data: str = ""
    notes: tuple[str, ...] = ()
    """what a reader must know to compare these numbers with others"""
    tables: Mapping[str, tuple[Numbers, ...]] = field(default_factory=dict)
    """further tables by name, one mapping a row"""

    def to_json(self) -> dict[str, object]:
        """One flat object: policy, kind of overlap and the numbers come first. NaN becomes null."""
        return {
            "policy": self.policy,
            "iou": self.iou,
            **finite(self.numbers),
            "images": self.images,
            "ground_truths": self.ground_truths,
            "thresholds": [round(threshold, 10) for threshold in self.thresholds],
            "max_dets": list(self.max_dets),
            "data": self.data,
            "notes": list(self.notes),
            "classes": [
                {"name": row.name, "ground_truths": row.ground_truths, **finite(row.numbers)} for row in self.classes
            ],
            **{name: [finite(row) for row in rows] for name, rows in self.tables.items()},
        }


def finite(numbers: Numbers) -> dict[str, object]:
    """JSON has no NaN and no infinity: both become null."""
    return {name: _plain(value) if math.isfinite(value) else None for name, value in numbers.items()}


def _plain(value: float | int) -> float | int:
    return value if isinstance(value, int) else float(value)


def count_ground_truths(comparison: Comparison) -> list[int]:
    """Per class, crowds not counted."""
    labels = [pair.truth.labels[~pair.truth.crowd] for pair in comparison.pairs]
    return np.bincount(np.concatenate([np.zeros(0, np.int64), *labels]), minlength=len(comparison.categories)).tolist()
