"""Windows of one size that slide over a picture in several sizes, and those that are learned from.

A window is a box in the picture, which may reach beyond it; what is seen there is grey. Sizes are octaves: in octave o
a window has `side` times 2^o pixels of the picture, and the picture is shrunk by 2^-o. Whatever reads pixels reads them
at the same points, so that a window alone shows what it shows in the whole picture (DeepMask, 2015).

Legend: n windows or boxes of objects, k others.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import roi_align

from maskwise import boxes
from maskwise.structures import Targets

GREY = 0.5


def read(
    picture: Float[Tensor, "3 _ _"], windows: Float[Tensor, "n 4"], size: tuple[int, int]
) -> Float[Tensor, "n 3 h w"]:
    """Windows in so many rows and columns: interpolated where that enlarges, averaged where it shrinks."""
    flat = torch.cat([torch.zeros_like(windows[:, :1]), windows], 1)
    return roi_align(picture[None] - GREY, flat, size, aligned=True) + GREY


def around(centres: Float[Tensor, "n 2"], octaves: Float[Tensor, " n"], side: float) -> Float[Tensor, "n 4"]:
    half = (side / 2 * 2**octaves)[:, None]
    return torch.cat([centres - half, centres + half], 1)


# --- sliding


class Level(NamedTuple):
    """A picture in one size, with as much around it as lets a window stand over each border."""

    octave: float
    pixels: Float[Tensor, "1 3 h w"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sliding:
    """Where windows stand: their centres are `stride` pixels apart, from one border of the picture to the other."""

    side: int
    stride: int
    octaves: tuple[float, ...]

    def levels(self, picture: Float[Tensor, "3 _ _"]) -> Iterator[Level]:
        for octave in self.octaves:
            zoom, half = 2.0**octave, self.side / 2
            rows, columns = (math.ceil(extent / zoom / self.stride) * self.stride for extent in picture.shape[1:])
            whole = zoom * picture.new_tensor([[-half, -half, columns + half, rows + half]])
            yield Level(octave, read(picture, whole, (rows + self.side, columns + self.side)))

    def windows(self, rows: Int[Tensor, " n"], columns: Int[Tensor, " n"], octave: float) -> Float[Tensor, "n 4"]:
        """Those that stand so many steps below and right of the first."""
        centres = torch.stack([columns, rows], 1) * (self.stride * 2.0**octave)
        return around(centres, torch.full_like(centres[:, 0], octave), self.side)


def cut(
    maps: Float[Tensor, "1 c _ _"], rows: Int[Tensor, " n"], columns: Int[Tensor, " n"], size: int
) -> Float[Tensor, "n c s s"]:
    """Squares of a map, by their upper left cells."""
    along = torch.arange(size, device=maps.device)
    down, across = rows[:, None, None] + along[:, None], columns[:, None, None] + along
    return maps[0][:, down, across].transpose(0, 1)


# --- learning


@dataclass(frozen=True, slots=True, kw_only=True)
class Canonical:
    """How an object lies in its window: at the centre, with a long side of `long` pixels. What is near that is learned
    as a mask, what is far from it as a window with no object; between the two nothing is."""

    side: int
    long: float
    shift: float
    """Greatest distance from the centre along an axis, in pixels of the window."""
    octaves: float
    """Greatest difference in size."""
    away: float
    """A window without object is at least so far from the centre of each, in its pixels ..."""
    octaves_away: float
    """... or has an object of so many octaves more or less."""
    smallest: float
    """Octave of the smallest windows without object, and of the largest."""
    largest: float
    bin: float = 0.25
    """Octaves that are not told apart."""

    def octave(self, objects: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
        """Octaves of the windows in which objects have their canonical size."""
        return (boxes.sides(objects).amax(1).clamp(min=1e-3) / self.long).log2()

    def near(self, objects: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
        """A window for each object, drawn from those that show its mask."""
        octave = self.octave(objects) + self.octaves * _spread(objects[:, 0])
        shift = self.shift * 2 ** octave[:, None] * _spread(objects[:, :2])
        return around(boxes.centres(objects) + shift, octave, self.side)

    def exact(self, objects: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
        """The window of each object, in the nearest size."""
        octave = (self.octave(objects) / self.bin).round() * self.bin
        return around(boxes.centres(objects), octave, self.side)

    def without(self, targets: Targets, count: int, *, tries: int = 16) -> Float[Tensor, "k 4"]:
        """Windows far from all objects, in all sizes; fewer than asked for where there is no room."""
        height, width = targets.masks.size
        draws = torch.rand(count * tries, 3, device=targets.boxes.device)
        sizes = int((self.largest - self.smallest) / self.bin) + 1
        octave = self.smallest + self.bin * (draws[:, 2] * sizes).floor()
        centre = draws[:, :2] * draws.new_tensor([width, height])
        return around(centre, octave, self.side)[self._far(centre, octave, targets)][:count]

    def _far(self, centre: Float[Tensor, "k 2"], octave: Float[Tensor, " k"], targets: Targets) -> Bool[Tensor, " k"]:
        """Crowds hold objects at places that nobody told: there everything is near."""
        known, crowds = targets.boxes[~targets.crowd], targets.boxes[targets.crowd]
        away = torch.linalg.vector_norm(centre[:, None] - boxes.centres(known), dim=2)
        distance = away / 2 ** octave[:, None]
        alike = (octave[:, None] - self.octave(known)).abs() <= self.octaves_away
        inside = (centre[:, None] >= crowds[:, :2]) & (centre[:, None] < crowds[:, 2:])
        return ~((distance < self.away) & alike).any(1) & ~inside.all(2).any(1)


def _spread(like: Tensor) -> Tensor:
    """Evenly from -1 to 1."""
    return 2 * torch.rand_like(like) - 1
