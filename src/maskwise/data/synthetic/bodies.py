"""Bodies: the objects of synthetic scenes, made of pieces, and how they are drawn with their exact masks.

A pixel belongs to a body if its centre lies inside one of the pieces; colours blend along the outline. Coordinates are
continuous, x to the right and y down. Legend: h w the window of a body.
"""

from dataclasses import dataclass, replace
from math import ceil, floor, sqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int8

from maskwise.data.synthetic.dice import Dice, Vector, turned
from maskwise.data.synthetic.shapes import PLAIN, SHAPES, Distance, Field, Form, limited
from maskwise.data.synthetic.sprites import drawn_sprite, sprite_reach
from maskwise.data.synthetic.textures import COLOURS, TEXTURES, Planes, Texture, centres, flat, painted, texture
from maskwise.rle import Size

NO_PART = -1
Place = tuple[slice, slice]
"""Rows and columns."""
Row = Float32[np.ndarray, " w"]
Column = Float32[np.ndarray, "h 1"]


@dataclass(frozen=True, slots=True)
class Piece:
    """One shape, or one cut-out picture, at a place of a body."""

    kind: Distance | Path
    """The distance function of a shape, or the file of a sprite."""
    at: Vector
    """Of its centre, from the centre of the body."""
    facing: Vector
    """Where its own x axis points."""
    radius: float
    paint: Texture
    form: Form = PLAIN
    reach: float = 1.0
    """Radius of a circle that holds it, in pixels."""
    part: int = NO_PART


@dataclass(frozen=True, slots=True)
class Body:
    """An object before it has a place."""

    label: int
    pieces: tuple[Piece, ...]
    """Later ones lie on top."""
    radius: float
    shape: str
    colour: str
    texture: str
    crowd: bool = False
    keypoints: tuple[Vector, ...] = ()
    """From the centre of the body."""
    velocity: Vector = (0.0, 0.0)
    """Pixels a frame."""
    spin: Vector = (1.0, 0.0)
    """What a frame turns (1, 0) into."""

    @property
    def reach(self) -> float:
        return max(sqrt(p.at[0] ** 2 + p.at[1] ** 2) + p.reach for p in self.pieces)

    def shifted(self, by: Vector) -> "Body":
        def moved(at: Vector) -> Vector:
            return at[0] + by[0], at[1] + by[1]

        pieces = tuple(replace(p, at=moved(p.at)) for p in self.pieces)
        return replace(self, pieces=pieces, keypoints=tuple(map(moved, self.keypoints)))

    def resized(self, by: float) -> "Body":
        def moved(at: Vector) -> Vector:
            return at[0] * by, at[1] * by

        pieces = tuple(replace(p, at=moved(p.at), radius=p.radius * by, reach=p.reach * by) for p in self.pieces)
        return replace(self, pieces=pieces, radius=self.radius * by, keypoints=tuple(map(moved, self.keypoints)))

    def turned(self, by: Vector) -> "Body":
        pieces = tuple(replace(p, at=turned(p.at, by), facing=turned(p.facing, by)) for p in self.pieces)
        return replace(self, pieces=pieces, keypoints=tuple(turned(k, by) for k in self.keypoints))


class Layer(NamedTuple):
    """A body as drawn: a window whose corner lies at x0, y0 of the picture, or outside of it."""

    x0: int
    y0: int
    inside: Bool[np.ndarray, "h w"]
    cover: Field
    """How much of each pixel shows the body, 0..1."""
    colours: Planes
    shadow: Field
    parts: Int8[np.ndarray, "h w"] | None


class Lamp(NamedTuple):
    """Where light comes from and how strong it is."""

    way: Vector
    strength: float


# --- drawing


def draw(body: Body, at: Vector, *, blur: float, lamp: Lamp) -> Layer:
    """The body with its centre at `at`; its outline takes `blur` pixels from full cover to none."""
    soft = 1 + 0.5 * body.radius
    margin = 1 + max(blur, soft * bool(lamp.strength)) / 2
    reach = body.reach + margin
    x0, y0 = floor(at[0] - reach), floor(at[1] - reach)
    x, y = centres(x0, ceil(at[0] + reach)) - at[0], centres(y0, ceil(at[1] + reach))[:, None] - at[1]
    first, *others = body.pieces
    nearest, paint = _piece(first, x, y)
    colours = paint.copy()
    cover = _cover(nearest, blur)
    parts = None if first.part == NO_PART else np.where(nearest <= 0, first.part, NO_PART).astype(np.int8)
    for piece in others:
        near = _near(piece, x, y, margin)
        distance, paint = _piece(piece, x[near[1]], y[near[0]])
        own, under = _cover(distance, blur), cover[near]
        np.maximum(under, own, out=under)
        # At the outer border of the body this piece alone decides the colour, however little it covers.
        shown = colours[:, *near]
        shown += (paint - shown) * (own / np.maximum(under, 1e-3))
        np.minimum(nearest[near], distance, out=nearest[near])
        if parts is not None:
            parts[near][distance <= 0] = piece.part
    if lamp.strength:
        colours *= _shading(body, x, y, nearest, lamp)
        shadow = limited(0.5 - nearest / soft, 0, 1) * (0.45 * lamp.strength)
    else:
        shadow = cover
    return Layer(x0, y0, nearest <= 0, cover, colours, shadow, parts)


def _near(piece: Piece, x: Row, y: Column, margin: float) -> Place:
    """The part of a window in which a piece or its shadow may be."""
    reach = piece.reach + margin
    left, top = floor(piece.at[0] - reach - float(x[0])), floor(piece.at[1] - reach - float(y[0, 0]))
    side = ceil(2 * reach) + 2
    return slice(max(top, 0), max(top + side, 0)), slice(max(left, 0), max(left + side, 0))


def _cover(distance: Field, blur: float) -> Field:
    return limited(0.5 - distance / max(blur, 1e-3), 0, 1)


def _piece(piece: Piece, x: Row, y: Column) -> tuple[Field, Planes]:
    """Distance in pixels from each pixel centre to the piece (negative: inside), and its colours."""
    c, s = piece.facing[0] / piece.radius, piece.facing[1] / piece.radius
    x, y = x - piece.at[0], y - piece.at[1]
    if isinstance(piece.kind, Path):
        return drawn_sprite(piece.kind, piece.radius, piece.facing, x, y)
    u, v = x * c + y * s, y * c - x * s
    distance = piece.kind(u, v, piece.form)
    return distance * np.float32(piece.radius), painted(piece.paint, u, v, distance)


def _shading(body: Body, x: Row, y: Column, distance: Field, lamp: Lamp) -> Field:
    """Brighter on the side of the lamp, darker towards the outline, as of something that bulges."""
    slope = 0.16 * lamp.strength / body.radius
    field = (1 + y * (lamp.way[1] * slope)) + x * (lamp.way[0] * slope)
    if not isinstance(body.pieces[0].kind, Path):
        near = limited(1 + distance * np.float32(2.5 / body.radius), 0, 1)
        field -= near * near * np.float32(0.22 * lamp.strength)
    return field


def put(canvas: Planes, layer: Layer, *, lamp: Lamp, radius: float) -> None:
    """Lay a body over the canvas, its shadow first."""
    h, w = canvas.shape[1:]
    if lamp.strength:
        dx, dy = (round(-0.25 * radius * way) for way in lamp.way)
        there, here = overlap(layer.x0 + dx, layer.y0 + dy, layer.inside.shape, (h, w))
        canvas[:, *there] *= 1 - layer.shadow[here]
    there, here = overlap(layer.x0, layer.y0, layer.inside.shape, (h, w))
    window = canvas[:, *there]
    window += (layer.colours[:, *here] - window) * layer.cover[here]


def overlap(x0: int, y0: int, shape: tuple[int, ...], size: Size) -> tuple[Place, Place]:
    """Where a window meets a picture: rows and columns of the picture, and of the window; empty where they do not."""
    top, bottom = min(max(y0, 0), size[0]), min(max(y0 + shape[0], 0), size[0])
    left, right = min(max(x0, 0), size[1]), min(max(x0 + shape[1], 0), size[1])
    return (slice(top, bottom), slice(left, right)), (slice(top - y0, bottom - y0), slice(left - x0, right - x0))


# --- making


def of_shape(dice: Dice, label: int, shape: str, colour: str, radius: float) -> Body:
    """One shape, somehow turned."""
    name = dice.pick(TEXTURES)
    paint = texture(dice, COLOURS[colour], name=name)
    return Body(label, (_shape_piece(dice, shape, (0.0, 0.0), radius, paint),), radius, shape, colour, name)


def _shape_piece(dice: Dice, shape: str, at: Vector, radius: float, paint: Texture) -> Piece:
    form = (dice.uniform(-1, 1), dice.uniform(-1, 1), dice.uniform(-1, 1), dice.uniform(-1, 1))
    return Piece(SHAPES[shape].distance, at, dice.direction(), radius, paint, form, SHAPES[shape].reach * radius)


def crowd_of(dice: Dice, label: int, shape: str, colour: str, radius: float) -> Body:
    """Many small ones side by side, as a crowd in COCO."""
    pieces = []
    for _ in range(dice.whole(9, 15)):
        way, far, small = dice.direction(), 1.8 * radius * dice.uniform(), radius * dice.uniform(0.26, 0.4)
        paint = texture(dice, COLOURS[colour], name="rim")
        pieces.append(_shape_piece(dice, shape, (way[0] * far, way[1] * far), small, paint))
    return Body(label, tuple(pieces), radius, shape, colour, "rim", crowd=True)


def of_sprite(dice: Dice, label: int, name: str, file: Path, radius: float) -> Body:
    """A cut-out picture, turned by up to 35 degrees."""
    reach = sprite_reach(file, radius)
    piece = Piece(file, (0.0, 0.0), dice.around(0.31), radius, flat((0.0, 0.0, 0.0)), reach=reach)
    return Body(label, (piece,), radius, name, "", "")
