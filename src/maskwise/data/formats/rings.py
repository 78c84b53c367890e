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
    """The ring as it may be drawn; None where nothing of it can be."""
    if not (np.abs(points) <= FARTHEST).all():
        complain("bad-number", f"a coordinate is {_largest(points)}, which is no place in a picture; left out")
        return None
    if (distinct := len(set(map(tuple, points.tolist())))) < 3:
        complain("degenerate-polygon", f"a polygon of {distinct} distinct points, expected 3 or more; left out")
        return None
    far = np.array([size[1], size[0]], np.float64)
    low, high = points.min(0), points.max(0)
    extent = _extent(low, high, size)
    # Near the picture the rasteriser does the cutting, so that masks stay equal to those of pycocotools.
    near = points if (low >= -far).all() and (high <= 2 * far).all() else clipped(points, -far, 2 * far)
    if (high <= 0).any() or (low >= far).any() or len(near) < 3:
        complain("outside-image", f"a polygon wholly outside the picture, {extent}; left out")
        return None
    if (low < -1).any() or (high > far + 1).any():
        complain("outside-image", f"a polygon reaches out of the picture, {extent}; cut off", "warning")
    return near


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


def _extent(low: Float[np.ndarray, "2"], high: Float[np.ndarray, "2"], size: Size) -> str:
    corners = ", ".join(f"({x:.6g}, {y:.6g})" for x, y in (low.tolist(), high.tolist()))
    return f"from {corners.replace('), (', ') to (')} in {size[1]} x {size[0]}"


def _largest(points: Float[np.ndarray, "k 2"]) -> str:
    return f"{points.ravel()[np.argmax(np.abs(points))]:.6g}"
