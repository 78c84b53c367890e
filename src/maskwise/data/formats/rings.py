"""Polygons of foreign files made safe to draw, and polygons with holes or several parts as one ring.

A rasteriser walks along every edge: a coordinate of a billion would hang it. So a ring is judged before it is drawn,
and what reaches far out of the picture is cut off. Legend: k corners, as x, y.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

from maskwise.data.dataset import Severity
from maskwise.outlines import Polygon
from maskwise.rle import Size

FARTHEST = 1e9
"""Coordinates beyond this are no places in a picture but damage."""


@runtime_checkable
class Complain(Protocol):
    """Takes down one thing that is wrong with one annotation."""

    def __call__(self, rule: str, message: str, severity: Severity = "error") -> None: ...


def finite_numbers(value: object) -> Float[np.ndarray, " k"] | None:
    """A list of finite numbers, or None where it is anything else."""
    if not isinstance(value, list) or not {type(v) for v in value} <= {int, float}:
        return None
    try:
        numbers = np.array(value, np.float64)
    except OverflowError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def usable(points: Float[np.ndarray, "k 2"], size: Size, complain: Complain) -> Float[np.ndarray, "k 2"] | None:
    """The ring as it may be drawn; None where nothing of it can be.

    In plain Python: for the few dozen corners of a ring that is several times faster than arrays.
    """
    corners = points.tolist()
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    if not all(-FARTHEST <= value <= FARTHEST for value in (*xs, *ys)):
        complain("bad-number", f"a coordinate is {_largest(points)}, which is no place in a picture; left out")
        return None
    if (distinct := len(set(zip(xs, ys, strict=True)))) < 3:
        complain("degenerate-polygon", f"a polygon of {distinct} distinct points, expected 3 or more; left out")
        return None
    (height, width), (x0, y0, x1, y1) = size, (min(xs), min(ys), max(xs), max(ys))
    # Near the picture the rasteriser does the cutting, so that masks stay equal to those of pycocotools.
    if not (x0 >= -width and y0 >= -height and x1 <= 2 * width and y1 <= 2 * height):
        points = clipped(points, np.array([-width, -height], float), 2 * np.array([width, height], float))
    extent = f"from ({x0:.6g}, {y0:.6g}) to ({x1:.6g}, {y1:.6g}) in {width} x {height}"
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height or len(points) < 3:
        complain("outside-image", f"a polygon wholly outside the picture, {extent}; left out")
        return None
    if x0 < -1 or y0 < -1 or x1 > width + 1 or y1 > height + 1:
        complain("outside-image", f"a polygon reaches out of the picture, {extent}; cut off", "warning")
    return points


def clipped(
    points: Float[np.ndarray, "k 2"], low: Float[np.ndarray, "2"], high: Float[np.ndarray, "2"]
) -> Float[np.ndarray, "j 2"]:
    """The part of a ring inside a rectangle (Sutherland and Hodgman); it may run along the border there and back."""
    for axis in (0, 1):
        for sign, limit in ((1.0, low[axis]), (-1.0, -high[axis])):
            points = _one_side(points, sign * points[:, axis] - limit)
    return points


def _one_side(points: Float[np.ndarray, "k 2"], depth: Float[np.ndarray, " k"]) -> Float[np.ndarray, "j 2"]:
    """The part with positive depth; where an edge crosses depth 0 there is a new corner."""
    onward, depth_onward = np.roll(points, -1, 0), np.roll(depth, -1)
    is_inside, crosses = depth >= 0, (depth >= 0) != (depth_onward >= 0)
    share = np.divide(depth, depth - depth_onward, out=np.zeros_like(depth), where=crosses)
    corners = np.stack([points, points + (onward - points) * share[:, None]], 1)
    return corners[np.stack([is_inside, crosses], 1)]


def one_ring(polygons: Sequence[Polygon]) -> Float[np.ndarray, "k 2"]:
    """All rings of an object as one, joined by keyholes: paths of no width, walked there and back.

    Drawn by the even-odd rule it shows exactly the object, with its holes and parts: a path that is walked twice
    changes nothing. Each ring hangs on the nearest corner of the longest outer ring.
    """
    rings = [ring for polygon in polygons for ring in (polygon.outer, *polygon.holes)]
    trunk = max((polygon.outer for polygon in polygons), key=len)
    tree = KDTree(trunk)
    hung: dict[int, list[np.ndarray]] = {}
    for ring in rings:
        if ring is not trunk:
            away, corner = tree.query(ring)
            nearest = int(np.argmin(away))
            around = np.roll(ring, -nearest, 0)
            hung.setdefault(int(corner[nearest]), []).append(np.concatenate([around, around[:1]]))
    pieces, done = [], 0
    for corner in sorted(hung):
        pieces.append(trunk[done : corner + 1])
        for loop in hung[corner]:
            pieces += [loop, trunk[corner : corner + 1]]
        done = corner + 1
    return np.concatenate([*pieces, trunk[done:]])


def _largest(points: Float[np.ndarray, "k 2"]) -> str:
    return f"{points.ravel()[np.argmax(np.abs(points))]:.6g}"
