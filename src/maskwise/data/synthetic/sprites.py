"""Sprites: pictures of objects cut out of their background, as bodies of scenes.

Pillow resizes and turns them: bytes are the same for one version of Pillow, not for all as with drawn shapes.
"""

from functools import lru_cache
from math import hypot, pi, sqrt
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image
from scipy import ndimage

from maskwise.data.images import list_images, read_image
from maskwise.data.synthetic.dice import Vector
from maskwise.data.synthetic.shapes import Field

MOST_PIXELS = 512
"""Along the longer side; larger sprites are reduced once, when they are read."""


@lru_cache(maxsize=8)
def sprite_files(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Pictures by class: the names of the sub-folders; those outside of any are of a class named like the folder."""
    found: dict[str, list[Path]] = {}
    for file in list_images(folder):
        inside = file.relative_to(folder).parts
        found.setdefault(inside[0] if len(inside) > 1 else folder.resolve().name, []).append(file)
    if not found:
        raise ValueError(f"no pictures for objects in {folder}")
    return {name: tuple(files) for name, files in sorted(found.items())}


def sprite_reach(file: Path, radius: float) -> float:
    """Half of the diagonal that a sprite has if its opaque part is as large as a disc of this radius."""
    sprite = read_sprite(file)
    return hypot(*sprite.shape[:2]) / 2 * _scale(sprite, radius)


@lru_cache(maxsize=256)
def read_sprite(file: Path) -> UInt8[np.ndarray, "h w 4"]:
    """RGBA, cut to what is opaque. The decoder hands out no alpha: the picture over black and over white tells it."""
    black, white = (read_image(file, background=(grey, grey, grey)) for grey in (0, 255))
    alpha = 255 - (white - black)[..., 1:2]
    if alpha.min() == 255:
        raise ValueError(f"{file}: expected an object cut out of its background, this picture is opaque everywhere")
    rows, columns = (np.flatnonzero((alpha[..., 0] >= 128).any(axis)) for axis in (1, 0))
    if not len(rows):
        raise ValueError(f"{file}: expected an object cut out of its background, this picture is transparent")
    colour = np.minimum(black * (255 / np.maximum(alpha, np.float32(1))), 255).astype(np.uint8)
    cut = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    sprite = Image.fromarray(np.concatenate([colour[cut], alpha[cut]], 2))
    sprite.thumbnail((MOST_PIXELS, MOST_PIXELS))
    return np.asarray(sprite)


def drawn_sprite(
    file: Path, radius: float, facing: Vector, x: Float32[np.ndarray, " w"], y: Float32[np.ndarray, "h 1"]
) -> tuple[Field, Float32[np.ndarray, "3 h w"]]:
    """Signed distance in pixels to its outline (inside: half opaque or more), and its colours.

    x and y are the centres of the pixels, seen from the centre of the sprite.
    """
    stored = read_sprite(file)
    scale = _scale(stored, radius)
    wide, high = max(round(stored.shape[1] * scale), 1), max(round(stored.shape[0] * scale), 1)
    sprite = Image.fromarray(stored).resize((wide, high))
    (c, s), left, top = facing, float(x[0]) - 0.5, float(y[0, 0]) - 0.5
    matrix = (c, s, c * left + s * top + wide / 2, -s, c, c * top - s * left + high / 2)
    shown = sprite.transform((len(x), len(y)), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    planes = np.asarray(shown).astype(np.float32).transpose(2, 0, 1)
    return _distance(planes[3] / np.float32(255)), planes[:3].copy()


def _scale(sprite: UInt8[np.ndarray, "h w 4"], radius: float) -> float:
    return radius * sqrt(pi / np.count_nonzero(sprite[..., 3] >= 128))


def _distance(alpha: Field) -> Field:
    """1/2 - alpha where that says something, which makes the cover alpha; whole distances elsewhere."""
    inside = alpha >= 0.5
    outwards, inwards = (np.asarray(ndimage.distance_transform_edt(region)) for region in (~inside, inside))
    away = np.where(inside, 0.5 - inwards, outwards - 0.5)
    return np.where((alpha > 0) & (alpha < 1), 0.5 - alpha, away).astype(np.float32)
