"""Where the tiles lie that a large picture is cut into, to be learned from or to be looked at, and their names."""

import re
from math import ceil
from pathlib import PurePosixPath
from typing import NamedTuple

from maskwise.rle import Size

_PLACE = re.compile(r"(?:_y\d+_x\d+(?:_leftImg8bit)?)+(?=\.[^./]*$|$)")
"""Of a tile in its name, or of a tile of a tile. Cityscapes adds what its pictures are called."""


class Tile(NamedTuple):
    """A part of a picture, x1 and y1 not included."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def size(self) -> Size:
        return self.y1 - self.y0, self.x1 - self.x0


def tiles(size: Size, side: int, overlap: int) -> list[Tile]:
    """Squares of `side`, row by row, that cover the picture evenly and share at least `overlap`."""
    if not 0 <= overlap < side:
        raise ValueError(f"tiles of {side} pixels cannot overlap by {overlap}")
    height, width = size
    return [
        Tile(x, y, min(x + side, width), min(y + side, height))
        for y in _starts(height, side, overlap)
        for x in _starts(width, side, overlap)
    ]


def _starts(length: int, side: int, overlap: int) -> list[int]:
    if length <= side:
        return [0]
    count = ceil((length - overlap) / (side - overlap))
    return [i * (length - side) // (count - 1) for i in range(count)]


def name_of(picture: str, tile: Tile, size: Size) -> str:
    """'a/b.tif' is 'a/b_y00896_x01792.png': names sort as tiles lie, and say where. PNG, to lose nothing once more."""
    path, digits = PurePosixPath(picture), len(str(max(size)))
    return path.with_name(f"{path.stem}_y{tile.y0:0{digits}}_x{tile.x0:0{digits}}.png").as_posix()


def cut_from(tile: str) -> str | None:
    """What the tiles of a picture have in common, by their names; None of what is no tile."""
    name, places = _PLACE.subn("", tile)
    return name if places else None
