"""The course of a training: rows of its metrics files, in epochs where the rows say so, else in steps."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

from maskwise.data.failures import read_rows

Row: TypeAlias = Mapping[str, float | int | None]
"""Of metrics.csv (has `epoch`) or metrics.jsonl (only `step`); None: there was no number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    epochs: tuple[Mapping[str, float], ...] = ()
    steps: tuple[Mapping[str, float], ...] = ()

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "History":
        """Both kinds of rows, in any order."""
        known = [{name: float(value) for name, value in row.items() if value is not None} for row in rows]
        epochs = sorted((row for row in known if "epoch" in row), key=lambda row: row["epoch"])
        steps = sorted((row for row in known if "epoch" not in row and "step" in row), key=lambda row: row["step"])
        return cls(epochs=tuple(epochs), steps=tuple(steps))

    @property
    def unit(self) -> str:
        return "epoch" if self.epochs else "step"

    def x(self, rows: Sequence[Mapping[str, float]]) -> list[float]:
        """Where rows lie on the axis: of steps between epochs, how far they are."""
        if not self.epochs:
            return [row["step"] for row in rows]
        last = self.epochs[-1]
        per_epoch = last.get("step", math.nan) / last["epoch"] if last["epoch"] else math.nan
        return [row["epoch"] if "epoch" in row else row["step"] / per_epoch for row in rows]

    @staticmethod
    def names(rows: Sequence[Mapping[str, float]]) -> list[str]:
        """Columns in the order in which they first appear."""
        return list(dict.fromkeys(name for row in rows for name in row))

    @staticmethod
    def column(rows: Sequence[Mapping[str, float]], name: str) -> list[float]:
        """NaN where a row does not have it."""
        return [row.get(name, math.nan) for row in rows]


def read(folder: Path) -> list[Row]:
    """What a run has written so far; the last line may still be being written."""
    rows: list[Row] = []
    if (table := folder / "metrics.csv").exists():
        rows += [_numbers(row) for row in csv.DictReader(io.StringIO(table.read_text(encoding="utf-8")))]
    lines = folder / "metrics.jsonl"
    return rows + [_checked(row, f"{lines}, line {number}") for number, row in enumerate(read_rows(lines), 1)]


def _checked(row: Mapping[str, object], where: str) -> Row:
    for name, value in row.items():
        if not isinstance(value, float | int | None):
            raise ValueError(f"{where}: {name}: expected a number, got {value!r:.40}")
    return cast(Row, row)


def _numbers(row: Mapping[str, str]) -> Row:
    return {name: float(value) if value else None for name, value in row.items()}
