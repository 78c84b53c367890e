"""Annotations of one picture of a COCO data set, from what the file says to masks. Legend: n instances, k keypoints."""

import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from maskwise import outlines, rle
from maskwise.data.dataset import Id, Labelled, Problem, Severity
from maskwise.data.formats.folders import far_beyond
from maskwise.data.formats.rings import Complain, finite_numbers, usable
from maskwise.data.formats.sidecars import scores_of
from maskwise.data.images import image_size
from maskwise.masks import Masks
from maskwise.outlines import Polygon
from maskwise.rle import Size, Window
from maskwise.structures import Targets

MOST_AREA = 1e12
MIDDLE = (0.5, 0.5, 0.0)
"""Of a pixel, from its corner: COCO's keypoints name the pixel they lie in, ours are places, as those of polygons."""


class Row(NamedTuple):
    """One annotation; what is `object` is as the file has it and not yet judged."""

    id: Id
    label: int
    is_crowd: bool
    area: object
    box: object
    segmentation: object
    keypoints: object
    scores: tuple[float, float, float] | None
    """score, quality, mask score"""


@dataclass(frozen=True, slots=True)
class Source:
    """What all pictures of a data set share."""

    file: str
    keypoints: int
    """How many a category has."""


def pack(rows: Sequence[Row]) -> bytes:
    """Rows of one picture in one object.

    Millions of small Python objects would be copied into each worker as soon as their references are counted there.
    """
    return pickle.dumps([tuple(row) for row in rows], protocol=pickle.HIGHEST_PROTOCOL)


def labelled(packed: bytes, size: Size | None, path: Path, source: Source) -> Labelled:
    """Decode the annotations of one picture; those without a mask are left out."""
    size = size or image_size(path)
    rows, windows, boxes = [], [], []
    entries = pickle.loads(packed)
    problems = far_beyond(size, path, len(entries), source.file, f"image {path.name}")
    for row in map(Row._make, () if problems else entries):
        complain = partial(_take_down, problems, source.file, f"annotation {row.id}")
        window = mask_of(row.segmentation, size, complain)
        if window is None:
            continue
        if not window.bits.any():
            complain("empty-mask", "the mask has no pixel in the picture; left out")
            continue
        boxes.append(_stated(row.box, window, complain))
        rows.append((row, complain))
        windows.append(window)
    masks = Masks.of(windows, size)
    targets = Targets.from_masks(
        masks,
        torch.tensor([row.label for row, _ in rows], dtype=torch.int64),
        crowd=torch.tensor([row.is_crowd for row, _ in rows], dtype=torch.bool),
        areas=_areas(rows, masks),
        keypoints=_keypoints(rows, source.keypoints) if source.keypoints else None,
    )
    complain = partial(_take_down, problems, source.file, f"image {path.name}")
    scores = scores_of([row.scores for row, _ in rows], complain)
    return Labelled(
        targets,
        tuple(row.id for row, _ in rows),
        tuple(problems),
        scores,
        torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
    )


def mask_of(segmentation: object, size: Size, complain: Complain) -> Window | None:
    """The mask, or None after a complaint."""
    match segmentation:
        case None | []:
            complain("no-mask", "there is no segmentation; left out")
        case [int() | float(), *_]:
            complain("bad-mask", "a segmentation is a list of polygons, this is one list of numbers; left out")
        case list():
            return _of_polygons(segmentation, size, complain)
        case dict():
            return _of_runs(segmentation, size, complain)
        case _:
            kind = type(segmentation).__name__
            complain("bad-mask", f"a segmentation is polygons or run lengths, this is {kind}; left out")
    return None


def counts_of(counts: object, size: Size) -> np.ndarray:
    """Run lengths, compressed or plain, of which none is longer than the picture."""
    total = size[0] * size[1]
    match counts:
        case str():
            runs = rle.from_string(counts)
        case list() if all(type(run) is int and 0 <= run <= total for run in counts):
            runs = np.array(counts, np.int64)
        case list():
            raise ValueError(f"run lengths must be whole numbers from 0 to {total}")
        case _:
            raise ValueError(f"counts must be text or a list, got {type(counts).__name__}")
    if len(runs) and not (runs.min() >= 0 and runs.max() <= total):
        raise ValueError(f"a run of {int(runs.min() if runs.min() < 0 else runs.max())} in a picture of {total} pixels")
    return runs


def _take_down(
    problems: list[Problem], file: str, where: str, rule: str, message: str, severity: Severity = "error"
) -> None:
    problems.append(Problem(file, where, rule, message, severity))


def _of_polygons(parts: list[object], size: Size, complain: Complain) -> Window | None:
    rings = []
    for i, part in enumerate(parts, 1):
        numbers = finite_numbers(part)
        if numbers is None:
            complain("bad-number", f"polygon {i} of {len(parts)} is no list of finite numbers; left out")
        elif len(numbers) % 2:
            complain(
                "degenerate-polygon",
                f"polygon {i} of {len(parts)} has an odd count of {len(numbers)} numbers; left out",
            )
        elif (ring := usable(numbers.reshape(-1, 2), size, complain)) is not None:
            rings.append(Polygon(ring, []))
    return outlines.fill(rings, size) if rings else None


def _of_runs(code: dict[str, object], size: Size, complain: Complain) -> Window | None:
    stated = code.get("size")
    if stated != list(size):
        rule = "size-swapped" if stated == [size[1], size[0]] else "size-differs"
        complain(rule, f"the mask is for height and width {stated}, the picture has {list(size)}; left out")
        return None
    try:
        return rle.from_counts(counts_of(code.get("counts"), size), size)
    except ValueError as error:
        complain("bad-rle", f"{error}; left out")
        return None


def _stated(box: object, window: Window, complain: Complain) -> tuple[float, float, float, float]:
    """Corners as the file says, which are judged by; else those of the mask, which is what is learned from."""
    height, width = window.bits.shape
    tight = (window.x0, window.y0, window.x0 + width, window.y0 + height)
    if box is None or box == []:
        return tight
    if not isinstance(box, list) or len(box) != 4 or not all(is_number(v) for v in box) or min(box[2:]) < 0:
        complain("bad-number", f"a box is x, y, width, height, got {box!r:.80}; taken from the mask", "warning")
        return tight
    x, y, w, h = map(float, box)
    stated = (x, y, x + w, y + h)
    if max(abs(a - b) for a, b in zip(stated, tight, strict=True)) > max(3, 0.1 * max(width, height)):
        found = (window.x0, window.y0, width, height)
        message = f"the box is {tuple(box)}, that of the mask {found}; the mask is learned from"
        complain("box-differs", message, "warning")
    return stated


def _areas(rows: Sequence[tuple[Row, Complain]], masks: Masks) -> Float[Tensor, " n"]:
    """As stated, and the pixels of the mask where nothing is."""
    areas = masks.area().to(torch.float32)
    for i, (row, complain) in enumerate(rows):
        if row.area is not None:
            if is_number(row.area) and 0 <= cast(float, row.area) <= MOST_AREA:
                areas[i] = float(cast(float, row.area))
            else:
                complain("bad-number", f"area {row.area!r:.40} is none; the pixels were counted", "warning")
    return areas


def is_number(value: object) -> bool:
    """Finite, and no truth value; a whole number may be longer than a float can say."""
    try:
        return type(value) in (int, float) and math.isfinite(cast(float, value))
    except OverflowError:
        return False


def _keypoints(rows: Sequence[tuple[Row, Complain]], count: int) -> Float[Tensor, "n k 3"]:
    """Zeros, which mean not labelled, where an annotation has none."""
    points = np.zeros((len(rows), count, 3), np.float32)
    for place, (row, complain) in zip(points, rows, strict=True):
        if row.keypoints is None or row.keypoints == []:
            continue
        numbers = finite_numbers(row.keypoints)
        if numbers is None or len(numbers) != 3 * count or (np.abs(numbers) > 1e9).any():
            complain("bad-keypoints", f"expected {3 * count} finite numbers (x, y, visibility); left out", "warning")
        else:
            place[:] = numbers.reshape(count, 3)
            is_found = row.scores is not None  # the third number is a score then, and may be negative
            place[(place[:, 2] > 0) | is_found] += MIDDLE
    return torch.from_numpy(points)
