"""Measurements of instances as CSV: one line an instance, for spreadsheets and statistics.

Definitions are those of scikit-image's `regionprops`: centroid of the pixel centres with the first pixel at 0, the
diameter of a circle of the same area. Perimeter, around holes too, is the estimator of Benkrid and Crookes (2000): the
inner border pixels, each counted 1, (1 + √2)/2 or √2 by which of its eight neighbours are border pixels; a single pixel
has 0. A part is connected by edges of pixels, a hole by edges or corners. Where a pixel has a physical size, lengths
are in its unit and areas in the unit squared, as the header says.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from maskwise.categories import Categories
from maskwise.data.dataset import Item
from maskwise.data.files import write_table
from maskwise.rle import Window
from maskwise.structures import Instances

LENGTHS = ("perimeter", "equivalent_diameter", "centroid_x", "centroid_y", "box_x0", "box_y0", "box_x1", "box_y1")

_NEIGHBOURS = np.array([[10, 2, 10], [2, 1, 2], [10, 2, 10]])
_WEIGHTS = np.zeros(50)
_WEIGHTS[[5, 7, 15, 17, 25, 27]] = 1
_WEIGHTS[[21, 33]] = np.sqrt(2)
_WEIGHTS[[13, 23]] = (1 + np.sqrt(2)) / 2

_WRITTEN = re.compile(r"(?P<side>[-+.\d]{1,30}(e[-+]?\d{1,3})?)\s{0,9}(?P<unit>\D{0,20})", re.IGNORECASE)
"""With bounds, as texts of any length come here from outside."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How long the side of a pixel is."""

    side: float = 1.0
    unit: str = "px"

    def __post_init__(self) -> None:
        if not 1e-30 <= self.side <= 1e30:  # so that areas are numbers too
            raise ValueError(f"the size of a pixel must be positive, from 1e-30 to 1e30, got {self.side}")
        if not self.unit.isalpha():  # it becomes a part of names of columns
            raise ValueError(f"the unit of a length: expected letters, such as um, got {self.unit!r}")

    @classmethod
    def of(cls, pixel_size: float | None, unit: str = "um") -> "Scale":
        """None: there is no size but the pixel."""
        return PIXELS if pixel_size is None else cls(pixel_size, unit)

    @classmethod
    def parse(cls, text: str) -> "Scale":
        """From what people write: 0.325um, 0.325 µm, 12cm, or 0.325, which is in µm."""
        if (match := _WRITTEN.fullmatch(text.strip())) is None:
            raise ValueError(f"expected a length, such as 0.325um, got {text[:40]!r}")
        try:
            side = float(match["side"])
        except ValueError:
            raise ValueError(f"expected a length, such as 0.325um, got {text[:40]!r}") from None
        return cls(side, re.sub("[µμ]", "u", match["unit"]) or "um")  # micro sign and the Greek letter

    def __str__(self) -> str:
        return f"{self.side}{self.unit}"


PIXELS = Scale()


def perimeter(bits: Bool[np.ndarray, "h w"]) -> float:
    """In pixels; see the top of this file."""
    padded = np.pad(bits, 1)
    border = padded & ~ndimage.binary_erosion(padded)
    kinds = ndimage.convolve(border.astype(np.int32), _NEIGHBOURS, mode="constant")
    return float(_WEIGHTS[kinds[border]].sum())


def parts(bits: Bool[np.ndarray, "h w"]) -> int:
    return int(ndimage.label(bits)[1])


def holes(bits: Bool[np.ndarray, "h w"]) -> int:
    return int(ndimage.label(~np.pad(bits, 1), np.ones((3, 3)))[1]) - 1


def header(scale: Scale = PIXELS) -> tuple[str, ...]:
    """Names of the columns, with the unit of each that has one."""
    sizes = (f"area_{scale.unit}2", *(f"{name}_{scale.unit}" for name in LENGTHS))
    return ("image", "id", "category", *sizes, "parts", "holes", "score", "quality", "mask_score")


def measure(item: Item, categories: Categories, scale: Scale = PIXELS) -> Iterator[Sequence[object]]:
    """A line an instance; scores are empty for ground truth, what a mask without pixels has not is empty too."""
    labelled = item.labelled
    ids = item.ids or range(1, len(labelled) + 1)
    for i, (id_, window) in enumerate(zip(ids, labelled.masks.tight().crops(), strict=True)):
        name = categories.name(int(labelled.labels[i]))
        counts = (parts(window.bits), holes(window.bits)) if window.bits.size else (0, 0)
        yield (item.name, id_, name, *_sizes(window, scale.side), *counts, *_scores(item, i))


def write(path: Path, categories: Categories, items: Iterable[Item], scale: Scale = PIXELS) -> Path:
    """The table of a whole data set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = (row for item in items for row in measure(item, categories, scale))
    return write_table(path, header(scale), rows)


def _sizes(window: Window, side: float) -> tuple[object, ...]:
    """Area, then the columns of `LENGTHS`."""
    area = int(window.bits.sum())
    if not area:
        return (0, *[""] * len(LENGTHS))
    y, x = np.nonzero(window.bits)
    height, width = window.bits.shape
    lengths = [
        perimeter(window.bits),
        float(np.sqrt(4 * area / np.pi)),
        float(x.mean()) + window.x0,
        float(y.mean()) + window.y0,
        *(window.x0, window.y0, window.x0 + width, window.y0 + height),
    ]
    return (str(area) if side == 1 else _short(area * side**2), *(_short(length * side) for length in lengths))


def _scores(item: Item, i: int) -> tuple[str, ...]:
    found = item.labelled
    if not isinstance(found, Instances):
        return ("", "", "")
    return tuple(_short(float(column[i])) for column in (found.scores, found.quality, found.mask_scores))


def _short(number: float) -> str:
    return f"{number:.8g}"
