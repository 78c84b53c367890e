"""Outlines: the exact border of a bitmap as polygons along its pixel edges, with holes told apart, and back.

Corners of pixels have whole coordinates: pixel (x, y) is the square from (x, y) to (x+1, y+1). Outer rings run
clockwise as seen on the screen, holes the other way; no ring crosses itself. Legend: k corners of a ring, e unit edges.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from hotcoco import mask as coco
from jaxtyping import Bool, Int
from scipy import ndimage

from maskwise.rle import Size, Window, decode

RIGHT, DOWN, LEFT, UP = range(4)


class Polygon(NamedTuple):
    """One connected part of an object: its outer ring (k 2, as x, y) and the rings of what is cut out of it."""

    outer: np.ndarray
    holes: list[np.ndarray]


def trace(bits: Bool[np.ndarray, "h w"], *, corner: tuple[int, int] = (0, 0), tolerance: float = 0.0) -> list[Polygon]:
    """Polygons of the parts of a bitmap whose first pixel lies at `corner`.

    Pixels that meet only at a corner belong to different parts. With a `tolerance` in pixels, corners closer than that
    to the simplified line are left out; with 0 the polygons fill exactly the bitmap again.
    """
    parts, count = ndimage.label(bits)
    outer, holes = [np.zeros((0, 2))] * count, [[] for _ in range(count)]
    for ring, part in _rings(parts):
        moved = simplify(ring, tolerance) + np.array(corner)
        if _signed_area(ring) > 0:
            outer[part - 1] = moved
        else:
            holes[part - 1].append(moved)
    return [Polygon(o, h) for o, h in zip(outer, holes, strict=True)]


def fill(polygons: Sequence[Polygon], size: Size) -> Window:
    """Bitmap of an object: the union of its parts, each without its holes.

    COCO's own rasteriser draws each ring, so that areas and masks equal those of pycocotools.
    """
    windows = [_without(_draw([p.outer], size), _draw(p.holes, size)) for p in polygons if p.holes]
    if solid := [p.outer for p in polygons if not p.holes]:
        windows.append(_draw(solid, size))
    return windows[0] if len(windows) == 1 else union(windows)


def simplify(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """Fewer corners (Douglas and Peucker), never fewer than a triangle."""
    if tolerance <= 0 or len(ring) <= 3:
        return ring
    far = int(np.square(ring - ring[0]).sum(1).argmax())
    closed = np.concatenate([ring, ring[:1]])
    keep = np.zeros(len(closed), bool)
    keep[[0, far, len(ring)]] = True
    spans = [(0, far), (far, len(ring))]
    while spans:
        a, b = spans.pop()
        if b - a < 2:
            continue
        away = _distance(closed[a + 1 : b], closed[a], closed[b])
        worst = int(away.argmax())
        if away[worst] > tolerance:
            middle = a + 1 + worst
            keep[middle] = True
            spans += [(a, middle), (middle, b)]
    return ring[keep[:-1]] if keep[:-1].sum() >= 3 else ring


def _rings(parts: Int[np.ndarray, "h w"]) -> Iterator[tuple[np.ndarray, int]]:
    """Closed walks along all edges between a set and an unset pixel, the set pixel to the right; and its part."""
    start, way, follower, part = _edges(np.pad(parts, 1))
    turns = (way != way[follower]).tolist()
    corners, onward, label = start[follower], follower.tolist(), part.tolist()
    unseen = bytearray(b"\1") * len(onward)
    for first in range(len(onward)):
        if not unseen[first]:
            continue
        ring, edge = [], first
        while unseen[edge]:
            unseen[edge] = 0
            if turns[edge]:
                ring.append(edge)
            edge = onward[edge]
        yield corners[ring].astype(np.float64), label[first]


def _edges(
    parts: Int[np.ndarray, "h w"],
) -> tuple[Int[np.ndarray, "e 2"], Int[np.ndarray, " e"], Int[np.ndarray, " e"], Int[np.ndarray, " e"]]:
    """Of each unit edge of a padded label image: where it starts, its direction, the edge after it, the part beside it.

    Where two pixels meet at a corner, the walk turns right and so stays on its own pixel.
    """
    height, width = parts.shape
    on = parts > 0
    number = np.full((4, height, width), -1, np.int64)  # [direction, y, x] of the corner that an edge leaves
    labels = []
    beside = {  # which pixels have an unset neighbour on that side, and the corner of the pixel that the edge leaves
        RIGHT: (on[1:, :] & ~on[:-1, :], (slice(1, None), slice(None)), (0, 0)),
        DOWN: (on[:, :-1] & ~on[:, 1:], (slice(None), slice(None, -1)), (0, 1)),
        LEFT: (on[:-1, :] & ~on[1:, :], (slice(None, -1), slice(None)), (1, 1)),
        UP: (on[:, 1:] & ~on[:, :-1], (slice(None), slice(1, None)), (1, 0)),
    }
    ways, starts = [], []
    for way, (border, region, (down, right)) in beside.items():
        y, x = np.nonzero(border)
        y, x = y + (region[0].start or 0), x + (region[1].start or 0)
        number[way, y + down, x + right] = np.arange(len(y)) + sum(map(len, ways))
        labels.append(parts[y, x])
        starts.append(np.stack([x + right - 1, y + down - 1], 1))  # minus one: the padding
        ways.append(np.full(len(y), way))
    way, start = np.concatenate(ways), np.concatenate(starts)
    ahead = start + 1 + np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])[way]
    follower = np.full(len(way), -1, np.int64)
    for turn in (-1, 0, 1):  # the last one written wins: right before straight on before left
        candidate = number[(way + turn) % 4, ahead[:, 1], ahead[:, 0]]
        follower = np.where(candidate >= 0, candidate, follower)
    return start, way, follower, np.concatenate(labels)


def _signed_area(ring: np.ndarray) -> float:
    x, y = ring[:, 0], ring[:, 1]
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2


def _distance(points: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of points from the piece of line between a and b."""
    line = b - a
    along = ((points - a) @ line / (line @ line or 1.0)).clip(0, 1)
    return np.hypot(*(points - a - along[:, None] * line).T)


def _draw(rings: list[np.ndarray], size: Size) -> Window:
    """Fewer than three corners enclose nothing; two would be taken for corner, width and height of a box."""
    enclosing = [ring.ravel().tolist() for ring in rings if len(ring) >= 3]
    if not enclosing:
        return Window(0, 0, np.zeros((0, 0), bool))
    drawn = coco.merge(coco.fr_py_objects(enclosing, *size))
    return decode({"size": list(size), "counts": drawn["counts"].decode()})


def _without(whole: Window, holes: Window) -> Window:
    bits = whole.bits.copy()
    h, w = holes.bits.shape
    y, x = holes.y0 - whole.y0, holes.x0 - whole.x0
    inside = bits[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)]
    inside &= ~holes.bits[max(-y, 0) :, max(-x, 0) :][: inside.shape[0], : inside.shape[1]]
    return whole._replace(bits=bits)


def union(windows: Sequence[Window]) -> Window:
    """Everything that any of them shows."""
    windows = [w for w in windows if w.bits.size]
    if not windows:
        return Window(0, 0, np.zeros((0, 0), bool))
    x0, y0 = min(w.x0 for w in windows), min(w.y0 for w in windows)
    x1 = max(w.x0 + w.bits.shape[1] for w in windows)
    y1 = max(w.y0 + w.bits.shape[0] for w in windows)
    bits = np.zeros((y1 - y0, x1 - x0), bool)
    for w in windows:
        bits[w.y0 - y0 :, w.x0 - x0 :][: w.bits.shape[0], : w.bits.shape[1]] |= w.bits
    return Window(x0, y0, bits)
