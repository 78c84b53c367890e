"""How large a data set is, and of what kind."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from maskwise.data.dataset import DataSet, Record
from maskwise.data.images import ImageReadError, image_size
from maskwise.data.survey import over, read_labels
from maskwise.rle import Size, Window

SMALL, LARGE = 32**2, 96**2
"""Pixels below which COCO calls an object small, and from which large."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Least, middle and most of some numbers."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        return cls(min(values), median(values), max(values)) if values else None


@dataclass(frozen=True, slots=True)
class ClassStats:
    name: str
    instances: int
    """Crowds not counted, as everywhere here but in `Stats.crowd`."""
    pictures: int
    """With at least one of them."""
    small: int
    medium: int
    large: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """One split."""

    format: str
    split: str
    pictures: int
    unreadable: int
    """Pictures or annotations that could not be read; the rest is about the others."""
    empty: int
    """Pictures without an instance."""
    widths: Spread | None
    heights: Spread | None
    sizes: int
    """How many different ones."""
    instances: int
    crowd: int
    small: int
    medium: int
    large: int
    areas: Spread | None
    """In pixels."""
    per_picture: Spread | None
    """Instances."""
    with_holes: int
    in_parts: int
    """Instances whose mask has more than one connected part."""
    covered: float
    """Share of all pixels that belong to an instance."""
    overlap: float
    """Share of these that belong to more than one."""
    classes: tuple[ClassStats, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """One picture."""

    size: Size
    labels: tuple[int, ...]
    areas: tuple[int, ...]
    crowd: int
    with_holes: int
    in_parts: int
    covered: int
    overlapping: int


def stats(data: DataSet, *, workers: int = 0) -> Stats:
    pictures = list(over(_measure, [data], workers=workers))
    known = [picture for picture in pictures if picture is not None]
    areas = [area for picture in known for area in picture.areas]
    covered = sum(picture.covered for picture in known)
    small, medium, large = _by_size(areas)
    return Stats(
        format=data.format,
        split=data.split,
        pictures=len(pictures),
        unreadable=len(pictures) - len(known),
        empty=sum(not picture.labels for picture in known),
        widths=Spread.of([picture.size[1] for picture in known]),
        heights=Spread.of([picture.size[0] for picture in known]),
        sizes=len({picture.size for picture in known}),
        instances=len(areas),
        crowd=sum(picture.crowd for picture in known),
        small=small,
        medium=medium,
        large=large,
        areas=Spread.of(areas),
        per_picture=Spread.of([len(picture.labels) for picture in known]),
        with_holes=sum(picture.with_holes for picture in known),
        in_parts=sum(picture.in_parts for picture in known),
        covered=covered / max(1, sum(picture.size[0] * picture.size[1] for picture in known)),
        overlap=sum(picture.overlapping for picture in known) / max(1, covered),
        classes=_classes(data.categories.names, known),
    )


def _classes(names: Sequence[str], pictures: Sequence[Measured]) -> tuple[ClassStats, ...]:
    areas: list[list[int]] = [[] for _ in names]
    present = Counter(label for picture in pictures for label in set(picture.labels))
    for picture in pictures:
        for label, area in zip(picture.labels, picture.areas, strict=True):
            areas[label].append(area)
    return tuple(
        ClassStats(name, len(of_class), present[label], *_by_size(of_class))
        for label, (name, of_class) in enumerate(zip(names, areas, strict=True))
    )


def _by_size(areas: Sequence[int]) -> tuple[int, int, int]:
    small, large = sum(area < SMALL for area in areas), sum(area >= LARGE for area in areas)
    return small, len(areas) - small - large, large


# One picture


def _measure(record: Record) -> Measured | None:
    labelled, _ = read_labels(record)
    if labelled is None:
        return None
    targets = labelled.targets[~labelled.targets.crowd]
    windows = targets.masks.crops()
    shapes = [_shape(window) for window in windows]
    covered, overlapping = _cover(windows, targets.masks.size)
    return Measured(
        size=_size(record.path) or targets.masks.size,
        labels=tuple(targets.labels.tolist()),
        areas=tuple(targets.masks.area().tolist()),
        crowd=int(labelled.targets.crowd.sum()),
        with_holes=sum(holes for holes, _ in shapes),
        in_parts=sum(parts for _, parts in shapes),
        covered=covered,
        overlapping=overlapping,
    )


def _size(path: Path) -> Size | None:
    try:
        return image_size(path)
    except ImageReadError:
        return None


def _shape(window: Window) -> tuple[bool, bool]:
    """Whether a mask has holes, and more than one part. Pixels that meet at a corner are of one part."""
    if _is_simple(window.bits) or _is_simple(window.bits.T):
        return False, False
    parts = ndimage.label(window.bits, structure=np.ones((3, 3)))[1]
    outside = ndimage.label(np.pad(~window.bits, 1, constant_values=True))[1]
    return outside > 1, parts > 1


def _is_simple(bits: Bool[np.ndarray, "h w"]) -> bool:
    """One run in every row that touches that of the row before: no hole, one part. True of most objects, and quick."""
    if not bits.any(1).all():
        return False
    start, end = bits.argmax(1), bits.shape[1] - bits[:, ::-1].argmax(1)
    is_one_run = np.array_equal(np.count_nonzero(bits, 1), end - start)
    return is_one_run and bool((start[1:] <= end[:-1]).all() and (start[:-1] <= end[1:]).all())


def _cover(windows: Sequence[Window], size: Size) -> tuple[int, int]:
    """Pixels of at least one mask, and of more than one."""
    depth = np.zeros(size, np.uint16)
    for window in windows:
        height, width = window.bits.shape
        depth[window.y0 : window.y0 + height, window.x0 : window.x0 + width] += window.bits
    return int(np.count_nonzero(depth)), int(np.count_nonzero(depth > 1))
