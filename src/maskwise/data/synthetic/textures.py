"""Textures of objects, and what lies behind objects: ground, clutter, light and noise of the camera.

Colours are planes `3 h w` of 32-bit floats from 0 to 255; only operations that IEEE 754 fixes are used (see `dice`).
"""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from maskwise.data.images import list_images, read_image
from maskwise.data.synthetic.dice import Dice, Vector, turned
from maskwise.data.synthetic.shapes import Field, limited
from maskwise.rle import Size

Planes = Float32[np.ndarray, "3 h w"]
Colour = tuple[float, float, float]

COLOURS: dict[str, Colour] = {
    "red": (212, 52, 46),
    "orange": (238, 132, 32),
    "yellow": (236, 206, 58),
    "green": (66, 158, 70),
    "cyan": (62, 188, 200),
    "blue": (52, 96, 204),
    "purple": (138, 74, 178),
    "pink": (236, 128, 172),
}
TEXTURES = ("flat", "stripes", "checks", "dots", "gradient", "noise", "rim")

_CELLS = 16


class Texture(NamedTuple):
    """How a piece is painted: two shades of one colour, and what mixes them."""

    name: str
    first: Colour
    second: Colour
    pitch: float
    """How many repeats there are along the radius."""
    phase: float
    grain: Float32[np.ndarray, "c c"] | None = None


def texture(dice: Dice, colour: Colour, *, name: str) -> Texture:
    """An individual of a texture; both shades keep the hue."""
    first = jittered(dice, colour, 14)
    second = (
        shade(first, 0.42 + 0.12 * dice.uniform()) if dice.happens(0.6) else tint(first, 0.5 + 0.15 * dice.uniform())
    )
    grain = dice.grid(_CELLS, _CELLS) if name == "noise" else None
    return Texture(name, first, second, dice.uniform(1.3, 2.4), dice.uniform(), grain)


def flat(colour: Colour) -> Texture:
    return Texture("flat", colour, colour, 1.0, 0.0)


def jittered(dice: Dice, colour: Colour, most: float) -> Colour:
    r, g, b = (min(max(c + dice.uniform(-most, most), 0.0), 255.0) for c in colour)
    return r, g, b


def shade(colour: Colour, by: float) -> Colour:
    return colour[0] * by, colour[1] * by, colour[2] * by


def tint(colour: Colour, by: float) -> Colour:
    r, g, b = (c + (255 - c) * by for c in colour)
    return r, g, b


def painted(paint: Texture, u: Field, v: Field, distance: Field) -> Planes:
    """Colours of a piece in its own frame; u, v and distance in units of its radius."""
    first, second = planes(paint.first), planes(paint.second)
    if paint.name == "flat":
        return np.broadcast_to(first, (3, *distance.shape))
    return first + (second - first) * _mix(paint, u, v, distance)


def _mix(paint: Texture, u: Field, v: Field, distance: Field) -> Field:
    pitch, phase = paint.pitch, paint.phase
    match paint.name:
        case "stripes":
            return limited(_wave(v * pitch + phase) * 10 - 4.5, 0, 1)
        case "checks":
            across, down = _wave(u * pitch + phase) - 0.5, _wave(v * pitch + phase) - 0.5
            return limited(across * down * 60 + 0.5, 0, 1)
        case "dots":
            across, down = _wave(u * pitch + phase), _wave(v * pitch + phase)
            return limited((0.3 - across * across - down * down) * 9 + 0.5, 0, 1)
        case "gradient":
            return limited(0.5 + 0.5 * u, 0, 1)
        case "noise":
            assert paint.grain is not None
            row, column = (np.floor(x * (3 * pitch)).astype(np.intp) % _CELLS for x in (v, u))
            return paint.grain[row, column]
        case "rim":
            return limited((distance + 0.26) * 12, 0, 1)
        case unknown:
            raise AssertionError(unknown)


def _wave(x: Field) -> Field:
    """Triangles of height 1 and period 1."""
    return np.abs(x - np.floor(x) - 0.5) * 2


def planes(colour: Colour) -> Float32[np.ndarray, "3 1 1"]:
    return np.array(colour, np.float32)[:, None, None]


# --- behind the objects


def ground(dice: Dice, size: Size, *, photos: Path | None) -> Planes:
    """A muted background with large and small unevenness and often a pattern; or a part of a photograph."""
    if photos is not None:
        return _photograph(dice, size, photos)
    grey = dice.uniform(70, 215)
    first = jittered(dice, (grey, grey, grey), 26)
    second = jittered(dice, shade(first, dice.uniform(0.62, 1.3)), 16)
    uneven = smooth(dice.grid(dice.whole(3, 6), dice.whole(3, 6)), size) * 0.75
    uneven += smooth(dice.grid(dice.whole(14, 40), dice.whole(14, 40)), size) * 0.25
    drawn = _pattern(dice, size)
    if drawn is not None:
        uneven += drawn * dice.uniform(-0.5, 0.5)
    start = planes(first)
    return start + (planes(second) - start) * uneven


def _pattern(dice: Dice, size: Size) -> Field | None:
    """Planks, tiles or cloth all over, 0..1."""
    kind = dice.pick(("none", "none", "planks", "tiles", "cloth"))
    if kind == "none":
        return None
    c, s = dice.direction()
    y, x = centres(0, size[0])[:, None], centres(0, size[1])
    scale = 1 / (min(size) * dice.uniform(0.09, 0.2))
    u, v = x * (c * scale) + y * (s * scale), y * (c * scale) - x * (s * scale)
    match kind:
        case "planks":
            return _wave(np.floor(v) * np.float32(0.381)) + limited(_wave(v) * 9 - 8, 0, 1)
        case "tiles":
            return limited(np.maximum(_wave(u), _wave(v)) * 9 - 8, 0, 1)
        case _:
            return _wave(u * 3) * _wave(v * 3)


def smooth(grid: Float32[np.ndarray, "a b"], size: Size) -> Field:
    """A field that takes the numbers of a coarse grid, with smooth steps between them."""
    low, high, part = _between(size[1], grid.shape[1])
    wide = grid[:, low] + (grid[:, high] - grid[:, low]) * part
    low, high, part = _between(size[0], grid.shape[0])
    return wide[low] + (wide[high] - wide[low]) * part[:, None]


def _between(length: int, cells: int) -> tuple[np.ndarray, np.ndarray, Float32[np.ndarray, " n"]]:
    place = centres(0, length) * np.float32((cells - 1) / length)
    low = np.floor(place).astype(np.intp)
    part = place - low.astype(np.float32)
    return low, np.minimum(low + 1, cells - 1), part * part * (3 - 2 * part)


def centres(start: int, stop: int) -> Float32[np.ndarray, " n"]:
    """Coordinates of the centres of pixels."""
    return np.arange(start, stop, dtype=np.float32) + np.float32(0.5)


def clutter(dice: Dice, canvas: Planes, amount: float) -> None:
    """Draw what is no object: smudges without an outline, lines that bend, specks."""
    h, w = canvas.shape[1:]
    scale = min(h, w) / 128
    for _ in range(round(amount * 4)):
        at, wide, strength = (dice.uniform(0, w), dice.uniform(0, h)), dice.uniform(5, 14), dice.uniform(0.15, 0.45)
        _stroke(canvas, at, (1.0, 0.0), wide * scale, 0.0, soft=1.6, colour=_stain(dice), strength=strength)
    for _ in range(round(amount * 4)):
        _line(dice, canvas, scale)
    _specks(dice, canvas, round(amount * 20 * scale * scale))


def _stain(dice: Dice) -> Colour:
    if dice.happens(0.5):
        return jittered(dice, dice.pick(tuple(COLOURS.values())), 30)
    grey = dice.uniform(20, 235)
    return jittered(dice, (grey, grey, grey), 25)


def _line(dice: Dice, canvas: Planes, scale: float) -> None:
    """A thin line that bends."""
    h, w = canvas.shape[1:]
    at, way, colour = (dice.uniform(0, w), dice.uniform(0, h)), dice.direction(), _stain(dice)
    wide, bend, strength = dice.uniform(0.35, 0.8) * scale, dice.around(0.25), dice.uniform(0.4, 0.85)
    for _ in range(dice.whole(1, 5)):
        half = dice.uniform(5, 9) * scale
        at = (at[0] + way[0] * half, at[1] + way[1] * half)
        _stroke(canvas, at, way, wide, half, soft=1.0, colour=colour, strength=strength)
        at = (at[0] + way[0] * half, at[1] + way[1] * half)
        way = turned(turned(way, bend), dice.around(0.12))


def _specks(dice: Dice, canvas: Planes, count: int) -> None:
    """Dots of about a pixel, each shared by the four pixels nearest to it."""
    h, w = canvas.shape[1:]
    y, x = (np.array([dice.uniform(0, n - 1) for _ in range(count)], np.float32) for n in (h, w))
    colours = dice.grid(3, count) * np.float32(255)
    top, left = y.astype(np.intp), x.astype(np.intp)
    lower, further = y - top.astype(np.float32), x - left.astype(np.float32)
    for rows, down in ((top, 1 - lower), (np.minimum(top + 1, h - 1), lower)):
        for columns, right in ((left, 1 - further), (np.minimum(left + 1, w - 1), further)):
            old = canvas[:, rows, columns]
            canvas[:, rows, columns] = old + (colours - old) * (down * right)


def _stroke(
    canvas: Planes, at: Vector, way: Vector, wide: float, half: float, *, soft: float, colour: Colour, strength: float
) -> None:
    """Blend one colour into the canvas within `wide` of a line of length 2 `half`."""
    reach = half + wide + soft * wide + 1
    x0, x1 = max(int(at[0] - reach), 0), min(int(at[0] + reach) + 2, canvas.shape[2])
    y0, y1 = max(int(at[1] - reach), 0), min(int(at[1] + reach) + 2, canvas.shape[1])
    if x0 >= x1 or y0 >= y1:
        return
    x, y = centres(x0, x1) - at[0], centres(y0, y1)[:, None] - at[1]
    u, v = x * way[0] + y * way[1], y * way[0] - x * way[1]
    if half:
        u = u - limited(u, -half, half)
    cover = limited(0.5 - (np.sqrt(u * u + v * v) - wide) / max(soft * wide, 1), 0, 1) * strength
    window = canvas[:, y0:y1, x0:x1]
    window += (planes(colour) - window) * cover


def light(dice: Dice, size: Size, strength: float) -> Field:
    """By what every pixel is multiplied: brighter towards one side, darker towards the corners."""
    c, s = dice.direction()
    y, x = (centres(0, n) * np.float32(2 / n) - 1 for n in size)
    slope, dark = strength * dice.uniform(0.05, 0.25), strength * dice.uniform(0.0, 0.13)
    return (1 + y * (s * slope) - y * y * dark)[:, None] + (x * (c * slope) - x * x * dark)


def exposed(canvas: Planes, dice: Dice, *, light: Field, noise: float) -> UInt8[np.ndarray, "h w 3"]:
    """What a camera makes of it. The noise is the sum of three even ones: bell-shaped, of deviation `noise`."""
    canvas *= light
    canvas += 0.5  # to round
    if noise:
        # Three bytes have mean 382.5 and variance 3 (256^2 - 1) / 12.
        several = dice.bytes(3, *canvas.shape)
        total = np.add(several[0], several[1], dtype=np.uint16)
        total += several[2]
        canvas += (total - np.float32(382.5)) * np.float32(noise / 127.99902)
    np.clip(canvas, 0, 255, out=canvas)
    pixels = np.empty((*canvas.shape[1:], 3), np.uint8)
    for channel, plane in enumerate(canvas):
        pixels[..., channel] = plane
    return pixels


def _photograph(dice: Dice, size: Size, folder: Path) -> Planes:
    """A part of a photograph, half of it or more, in the proportions of the scene."""
    pixels = _photo(dice.pick(_photos(folder)), max(size))
    h, w = pixels.shape[:2]
    side = min(h / size[0], w / size[1]) * dice.uniform(0.5, 1.0)
    high, wide = max(side * size[0], 1), max(side * size[1], 1)
    x, y = dice.uniform(0, w - wide), dice.uniform(0, h - high)
    part = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR, box=(x, y, x + wide, y + high))
    return np.asarray(part).astype(np.float32).transpose(2, 0, 1).copy()


@lru_cache(maxsize=8)
def _photos(folder: Path) -> tuple[Path, ...]:
    if not (found := list_images(folder)):
        raise ValueError(f"no pictures for backgrounds in {folder}")
    return tuple(found)


@lru_cache(maxsize=64)
def _photo(path: Path, side: int) -> UInt8[np.ndarray, "h w 3"]:
    """Not larger than needed: twice the longer side of a scene."""
    picture = Image.fromarray(read_image(path))
    picture.thumbnail((2 * side, 2 * side))
    return np.asarray(picture)
