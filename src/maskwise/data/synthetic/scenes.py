"""Scenes: synthetic pictures with exact ground truth, made when they are asked for.

The same settings and index give the same bytes in every process and on every machine (with sprites or photographs: for
the same version of Pillow). Layout, background and noise are separate streams of chance, so that to turn one dial
leaves the rest as it is. A pixel belongs to the nearest object whose outline holds the pixel's centre.

    scenes = Scenes(count=(4, 4), overlap=0.5)
    scene = scenes.scene(7)
    scene.pixels, scene.targets
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import floor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int8, UInt8
from torch import Tensor

from maskwise.categories import PEOPLE, Categories
from maskwise.data.sample import Sample
from maskwise.data.synthetic.bodies import Body, Lamp, crowd_of, of_shape, of_sprite, overlap, put
from maskwise.data.synthetic.dice import Dice, Vector
from maskwise.data.synthetic.figures import PARTS, of_person
from maskwise.data.synthetic.placing import Board, Placed, Relation, place, place_at
from maskwise.data.synthetic.shapes import SHAPES
from maskwise.data.synthetic.sprites import sprite_files
from maskwise.data.synthetic.textures import COLOURS, TEXTURES, clutter, exposed, ground, light
from maskwise.masks import Masks
from maskwise.rle import Size, Window
from maskwise.structures import Parts, Targets

Mode = Literal["still", "clip", "salient", "parts"]

COLOURED = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)
"""A class for each colour of each shape: for methods that learn some and are asked for the others."""

_LAYOUT, _GROUND, _NOISE, _ORDER = range(4)  # streams of chance
_RADII: dict[Mode, tuple[float, float]] = {
    "still": (1 / 16, 1 / 5),
    "clip": (1 / 16, 1 / 5),
    "salient": (1 / 5, 1 / 3),
    "parts": (1 / 13, 1 / 6),
}  # of the shorter side


@dataclass(frozen=True, slots=True)
class Attributes:
    """How an object of a scene was made."""

    shape: str
    colour: str
    """'' of a sprite."""
    texture: str
    """'' of a sprite."""
    radius: float
    """Of the disc with about its area."""
    centre: Vector
    hidden: float
    """Share of its pixels in the picture that nearer objects hide."""


@dataclass(frozen=True, slots=True)
class Scene:
    pixels: UInt8[np.ndarray, "h w 3"]
    targets: Targets
    attributes: tuple[Attributes, ...]
    """One an instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenes:
    """The dials of a stream of scenes. Everything follows from them and an index."""

    size: Size = (128, 128)
    """Height and width."""
    count: tuple[int, int] = (2, 6)
    """Least and most objects, as far as there is room."""
    radius: tuple[float, float] | None = None
    """Of the smallest and largest, in pixels; None: as the mode has it. Small ones are more often."""
    overlap: float = 0.3
    """Share of the objects after the first that lie partly behind another one."""
    touching: float = 0.1
    """Share of the objects after the first that touch another one; the rest keep apart."""
    visible: int = 16
    """Objects that show fewer pixels than this are left out."""
    crowds: int = 0
    """Regions of many small ones, marked as a crowd."""
    classes: tuple[str, ...] = tuple(SHAPES)[:8]
    """Shapes, or shapes of one colour: 'disc', 'red disc'. Sprites and `parts` bring their own."""
    mode: Mode = "still"
    """`clip`: moving; `salient`: one large object near the middle; `parts`: people with parts and keypoints."""
    frames: int = 5
    """Of a clip."""
    noise: float = 5.0
    """Standard deviation, in steps of 255."""
    clutter: float = 0.5
    """How much there is that is no object; 0 none, 1 much."""
    lighting: float = 1.0
    """Strength of shadows, shading and uneven light."""
    blur: float = 1.0
    """Width in pixels of the blend along outlines; the masks stay exact."""
    sprites: Path | None = None
    """A folder of pictures with transparency, to be the objects; sub-folders are classes."""
    backgrounds: Path | None = None
    """A folder of photographs."""
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self)

    @property
    def categories(self) -> Categories:
        if self.mode == "parts":
            return PEOPLE
        if self.sprites is not None:
            return Categories(names=self._names)
        return Categories(names=self._names, supercategories=tuple(_kind(name)[1] for name in self._names))

    @property
    def _names(self) -> tuple[str, ...]:
        if self.mode == "parts":
            return PEOPLE.names
        return self.classes if self.sprites is None else tuple(sprite_files(self.sprites))

    @property
    def parts(self) -> Categories:
        """What the labels of `Targets.parts` mean in the mode `parts`."""
        return PARTS

    def scene(self, index: int) -> Scene:
        """One picture; in the mode `clip`, clips count as their frames one after another."""
        if self.mode == "clip":
            return self._frame(index // self.frames, index % self.frames)
        return self._frame(index, 0)

    def clip(self, index: int) -> list[Scene]:
        if self.mode != "clip":
            raise ValueError(f"clips are made in the mode 'clip', this is {self.mode!r}")
        return [self._frame(index, frame) for frame in range(self.frames)]

    def samples(self, count: int, *, start: int = 0) -> "SceneSamples":
        """Scenes `start` to `start + count` as a source of samples, such as a data set of files is."""
        return SceneSamples(self, count, start)

    def attribute_table(self) -> tuple[tuple[str, ...], Float32[np.ndarray, "k a"]]:
        """Names of attributes (shapes, then colours), and 1 where a class has one: word vectors of the classes."""
        if self.mode == "parts" or self.sprites is not None:
            raise ValueError("only classes of shapes have an attribute table, not people or sprites")
        kinds = [_kind(name) for name in self.classes]
        names = (*SHAPES, *COLOURS)
        table = [[name in kind for name in names] for kind in kinds]
        return names, np.array(table, np.float32)

    # --- making

    def _frame(self, index: int, frame: int) -> Scene:
        if index < 0:
            raise ValueError(f"the index of a scene must not be negative, got {index}")
        behind = Dice(self.seed, index, _GROUND)
        lamp = Lamp(behind.direction(), self.lighting)
        rays = light(behind, self.size, self.lighting)
        placed = self._placed(Dice(self.seed, index, _LAYOUT), frame, lamp)
        canvas = ground(behind, self.size, photos=self.backgrounds)
        clutter(behind, canvas, self.clutter)
        for thing in reversed(placed):
            put(canvas, thing.layer, lamp=lamp, radius=thing.body.radius)
        pixels = exposed(canvas, Dice(self.seed, index, _NOISE, frame), light=rays, noise=self.noise)
        return self._with_truth(pixels, placed, Dice(self.seed, index, _ORDER, frame))

    def _placed(self, dice: Dice, frame: int, lamp: Lamp) -> list[Placed]:
        """Bodies and where they are, the nearest first."""
        board = Board(self.size)
        if self.mode == "salient":
            h, w = self.size
            at = (w * dice.uniform(0.4, 0.6), h * dice.uniform(0.4, 0.6))
            place_at(board, self._body(dice), at, blur=self.blur, lamp=lamp)
            return board.placed
        for number in range(self.crowds + dice.whole(*self.count)):
            body = self._crowd(dice) if number < self.crowds else self._body(dice)
            relation = "apart" if number < self.crowds else self._relation(dice)
            place(dice, board, body, relation, visible=self.visible, blur=self.blur, lamp=lamp)
        if self.mode == "clip":
            return self._moved(board.placed, frame - self.frames // 2, lamp)
        return board.placed

    def _relation(self, dice: Dice) -> Relation:
        chance = dice.uniform()
        if chance < self.overlap:
            return "behind"
        return "touching" if chance < self.overlap + self.touching else "apart"

    def _moved(self, placed: list[Placed], steps: int, lamp: Lamp) -> list[Placed]:
        """Where the bodies of the middle frame are some frames later or earlier."""
        board = Board(self.size)
        for body, (x, y), _ in placed:
            c, s = body.spin
            for _ in range(abs(steps)):
                body = body.turned((c, s if steps > 0 else -s))
            at = (x + steps * body.velocity[0], y + steps * body.velocity[1])
            place_at(board, body, at, blur=self.blur, lamp=lamp)
        return board.placed

    def _body(self, dice: Dice) -> Body:
        label, radius = dice.whole(0, len(self._names) - 1), self._radius(dice)
        if self.mode == "parts":
            body = of_person(dice, label, dice.pick(tuple(COLOURS)), dice.pick(TEXTURES), radius)
        elif self.sprites is not None:
            name, files = tuple(sprite_files(self.sprites).items())[label]
            body = of_sprite(dice, label, name, dice.pick(files), radius)
        else:
            colour, shape = _kind(self.classes[label])
            body = of_shape(dice, label, shape, colour or dice.pick(tuple(COLOURS)), radius)
        if self.mode != "clip":
            return body
        way, speed = dice.direction(), min(self.size) * dice.uniform(0.01, 0.05)
        return replace(body, velocity=(way[0] * speed, way[1] * speed), spin=dice.around(0.06))

    def _crowd(self, dice: Dice) -> Body:
        label = dice.whole(0, len(self.classes) - 1)
        colour, shape = _kind(self.classes[label])
        return crowd_of(dice, label, shape, colour or dice.pick(tuple(COLOURS)), self._limits()[1])

    def _radius(self, dice: Dice) -> float:
        low, high = self._limits()
        return low + (high - low) * dice.uniform() * dice.uniform()

    def _limits(self) -> tuple[float, float]:
        if self.radius is not None:
            return self.radius
        low, high = _RADII[self.mode]
        return min(self.size) * low, min(self.size) * high

    # --- truth

    def _with_truth(self, pixels: UInt8[np.ndarray, "h w 3"], placed: list[Placed], dice: Dice) -> Scene:
        visible = list(_visible(placed, self.size, self.visible))
        order = sorted(range(len(visible)), key=[dice.uniform() for _ in visible].__getitem__)
        chosen = [visible[i] for i in order]  # so that nothing learns depth or size from the order of instances
        crowd = torch.tensor([v.placed.body.crowd for v in chosen], dtype=torch.bool)
        masks = Masks.of([v.window for v in chosen], self.size)  # of tight windows
        targets = Targets(
            boxes=masks.windows.to(torch.float32),
            labels=_numbers(v.placed.body.label for v in chosen),
            masks=masks,
            crowd=crowd,
            depth=_numbers(order),
            tracks=_numbers(v.number for v in chosen) if self.mode == "clip" else None,
            keypoints=_keypoints(chosen, self.size) if self.mode == "parts" else None,
            parts=_parts(chosen, self.size) if self.mode == "parts" else None,
        )
        return Scene(pixels, targets, tuple(v.attributes() for v in chosen))


@dataclass(frozen=True, slots=True)
class SceneSamples:
    """A stretch of a stream of scenes, made one by one when they are asked for."""

    scenes: Scenes
    count: int
    start: int = 0

    @property
    def categories(self) -> Categories:
        return self.scenes.categories

    def __len__(self) -> int:
        return self.count

    def size(self, _: int) -> Size:
        return self.scenes.size

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < self.count:
            raise IndexError(f"sample {i} of {self.count}")
        scene = self.scenes.scene(self.start + i)
        pixels = torch.from_numpy(scene.pixels.transpose(2, 0, 1).copy())
        return Sample(pixels=pixels, targets=scene.targets, name=f"scene-{self.start + i:06d}")


class _Visible(NamedTuple):
    """What is seen of a body in the picture."""

    placed: Placed
    number: int
    """Among all bodies of the scene, the nearest first."""
    window: Window
    hidden: float
    parts: Int8[np.ndarray, "h w"] | None

    def attributes(self) -> Attributes:
        body = self.placed.body
        return Attributes(body.shape, body.colour, body.texture, body.radius, self.placed.at, self.hidden)

    def shows(self, x: float, y: float) -> bool:
        row, column = floor(y) - self.window.y0, floor(x) - self.window.x0
        h, w = self.window.bits.shape
        return 0 <= row < h and 0 <= column < w and bool(self.window.bits[row, column])


def _visible(placed: list[Placed], size: Size, least: int) -> Iterator[_Visible]:
    """The bodies of which enough is seen, the nearest first."""
    taken = np.zeros(size, bool)
    for number, thing in enumerate(placed):
        (rows, columns), here = overlap(thing.layer.x0, thing.layer.y0, thing.layer.inside.shape, size)
        inside = thing.layer.inside[here]
        bits = inside > taken[rows, columns]
        taken[rows, columns] |= inside
        if (shown := int(np.count_nonzero(bits))) < least:
            continue
        down, right = np.flatnonzero(bits.any(1)), np.flatnonzero(bits.any(0))
        tight = slice(down[0], down[-1] + 1), slice(right[0], right[-1] + 1)
        window = Window(int(columns.start + right[0]), int(rows.start + down[0]), bits[tight])
        parts = None if thing.layer.parts is None else thing.layer.parts[here][tight]
        yield _Visible(thing, number, window, 1 - shown / int(np.count_nonzero(inside)), parts)


def _numbers(values: Iterable[int]) -> Int[Tensor, " n"]:
    return torch.tensor(list(values), dtype=torch.int64)


def _keypoints(several: list[_Visible], size: Size) -> Float[Tensor, "n k 3"]:
    """Seen where the pixel shows the figure; hidden where it shows another one; not labelled outside of the picture."""
    out = torch.zeros(len(several), len(PEOPLE.keypoints), 3)
    for row, one in zip(out, several, strict=True):
        for point, (x, y) in zip(row, one.placed.body.keypoints, strict=True):
            x, y = x + one.placed.at[0], y + one.placed.at[1]
            if 0 <= x < size[1] and 0 <= y < size[0]:
                point[:] = torch.tensor((x, y, 2.0 if one.shows(x, y) else 1.0))
    return out


def _parts(several: list[_Visible], size: Size) -> Parts:
    windows, labels, owners = [], [], []
    for owner, one in enumerate(several):
        assert one.parts is not None
        for label in range(len(PARTS)):
            bits = one.window.bits & (one.parts == label)
            if bits.any():
                windows.append(one.window._replace(bits=bits))
                labels.append(label)
                owners.append(owner)
    return Parts(masks=Masks.of(windows, size).tight(), labels=_numbers(labels), owner=_numbers(owners))


def _kind(name: str) -> tuple[str, str]:
    """Colour and shape of a class; any colour: ''."""
    colour, _, shape = name.rpartition(" ")
    if shape not in SHAPES or (colour and colour not in COLOURS):
        known = f"shapes {', '.join(SHAPES)}, alone or after one of the colours {', '.join(COLOURS)}"
        raise ValueError(f"unknown class {name!r} of scenes; known: {known}")
    return colour, shape


def _check(scenes: Scenes) -> None:
    low, high = scenes.radius or (1.0, 1.0)
    demands = {
        "size must be positive": min(scenes.size) > 0,
        "count must be two numbers, 0 <= least <= most": 0 <= scenes.count[0] <= scenes.count[1],
        "radius must be two numbers, 0 < smallest <= largest": 0 < low <= high,
        "overlap and touching must be shares whose sum is at most 1": (
            scenes.overlap >= 0 and scenes.touching >= 0 and scenes.overlap + scenes.touching <= 1
        ),
        "visible must be at least 1": scenes.visible >= 1,
        "frames must be at least 1": scenes.frames >= 1,
        f"mode must be one of {', '.join(_RADII)}": scenes.mode in _RADII,
        "noise, clutter, lighting, blur, crowds and seed must not be negative": min(
            scenes.noise, scenes.clutter, scenes.lighting, scenes.blur, scenes.crowds, scenes.seed
        )
        >= 0,
        "crowds are made of shapes, not of people or sprites": not (
            scenes.crowds and (scenes.mode == "parts" or scenes.sprites is not None)
        ),
        "there must be a class": len(scenes.classes) > 0,
    }
    if broken := [demand for demand, holds in demands.items() if not holds]:
        raise ValueError(f"{'; '.join(broken)}; got {scenes}")
    for name in scenes.classes:
        _kind(name)
