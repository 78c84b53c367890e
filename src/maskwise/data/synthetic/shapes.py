"""Shapes: how far a point lies outside each (negative: inside), in units of the shape's radius.

Every shape has about the area of the disc of its radius. `form` are four numbers from -1 to 1 by which individuals of a
class differ. Exactness asks only for the right sign; near the outline the value is close to the distance, which is what
smooth edges, rims and shadows are made of. Legend: u, v coordinates in the shape's own frame, its centre at 0, 0.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

Field = Float32[np.ndarray, "h w"]
Form = tuple[float, float, float, float]
Distance = Callable[[Field, Field, Form], Field]
PLAIN: Form = (0.0, 0.0, 0.0, 0.0)


class Shape(NamedTuple):
    """`distance` of points, and the `reach` of a circle around the centre that holds every individual."""

    distance: Distance
    reach: float


def limited(values: Field, low: float, high: float) -> Field:
    """`np.clip`, which takes three times as long for a small window."""
    return np.minimum(np.maximum(values, low), high)


def length(u: Field, v: Field) -> Field:
    return np.sqrt(u * u + v * v)


def disc(u: Field, v: Field, _: Form) -> Field:
    return length(u, v) - 1


def ellipse(u: Field, v: Field, form: Form) -> Field:
    """First-order distance to (u/a)^2 + (v/b)^2 = 1."""
    a = 1.45 + 0.12 * form[0]
    b = 1 / a
    outside = length(u / a, v / b)
    steep = length(u / (a * a), v / (b * b))
    return outside * (outside - 1) / np.maximum(steep, 1e-6)


def square(u: Field, v: Field, _: Form) -> Field:
    return np.maximum(np.abs(u), np.abs(v)) - 0.886


def triangle(u: Field, v: Field, _: Form) -> Field:
    """Of equal sides, standing."""
    return np.maximum(v, 0.8660254 * np.abs(u) - 0.5 * v) - 0.777


def ring(u: Field, v: Field, form: Form) -> Field:
    return np.abs(length(u, v) - 0.95) - (0.26 + 0.05 * form[0])


def star(u: Field, v: Field, _: Form) -> Field:
    """A pentagram: the points that lie beyond at most one of the five sides of a pentagon."""
    farthest, second = np.full_like(u, -np.inf), np.full_like(u, -np.inf)
    for x, y in (
        (0.0, 1.0),
        (0.9510565, 0.3090170),
        (0.5877853, -0.8090170),
        (-0.5877853, -0.8090170),
        (-0.9510565, 0.3090170),
    ):
        side = x * u + y * v
        second = np.maximum(second, np.minimum(farthest, side))
        farthest = np.maximum(farthest, side)
    return second - 0.517


def cross(u: Field, v: Field, form: Form) -> Field:
    wide, long = 0.42 + 0.07 * form[0], 1.18
    u, v = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(u - wide, v - long), np.maximum(u - long, v - wide))


def crescent(u: Field, v: Field, form: Form) -> Field:
    """A disc without a second, somewhat smaller one that covers part of it."""
    return np.maximum(length(u, v) - 1.3, 1.08 - length(u - (0.72 + 0.1 * form[0]), v))


def capsule(u: Field, v: Field, form: Form) -> Field:
    """What lies within reach of a piece of a line."""
    half = 1.0 + 0.15 * form[0]
    return length(u - limited(u, -half, half), v) - 0.55


def limb(u: Field, v: Field, form: Form) -> Field:
    """A capsule whose radius is its half width; `form` says its half length without the round ends."""
    return length(u - limited(u, -form[0], form[0]), v) - 1


def blob(u: Field, v: Field, form: Form) -> Field:
    """The radius swings with two and three times the angle; its sines come from the direction, not from the angle."""
    far = np.maximum(length(u, v), 1e-6)
    c, s = u / far, v / far
    two_c, two_s = c * c - s * s, 2 * c * s
    three_c, three_s = two_c * c - two_s * s, two_s * c + two_c * s
    swing = form[0] * two_c + form[1] * two_s + form[2] * three_c + form[3] * three_s
    return far - (0.97 + 0.13 * swing)


SHAPES: dict[str, Shape] = {
    "disc": Shape(disc, 1.0),
    "square": Shape(square, 1.26),
    "triangle": Shape(triangle, 1.56),
    "ring": Shape(ring, 1.27),
    "star": Shape(star, 1.68),
    "cross": Shape(cross, 1.28),
    "crescent": Shape(crescent, 1.3),
    "capsule": Shape(capsule, 1.71),
    "ellipse": Shape(ellipse, 1.58),
    "blob": Shape(blob, 1.35),
}
