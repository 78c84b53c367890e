"""Figures: jointed people seen from the front, with the 17 keypoints of COCO and six kinds of parts.

A figure of radius r is 4 r tall. `left` is the figure's own left, at the right of the picture. Lengths below are in
units of r, y down, the hips at 0, 0.
"""

from math import sqrt

from maskwise.categories import PEOPLE, Categories
from maskwise.data.synthetic.bodies import Body, Piece
from maskwise.data.synthetic.dice import Dice, Vector, turn, turned
from maskwise.data.synthetic.shapes import disc, limb
from maskwise.data.synthetic.textures import COLOURS, Colour, Texture, flat, jittered, shade, texture

PARTS = Categories(names=("head", "torso", "upper arm", "lower arm", "upper leg", "lower leg"))
"""What the labels of `Targets.parts` mean. Left and right are one kind, so that a mirror changes no label."""

HEAD, TORSO, UPPER_ARM, LOWER_ARM, UPPER_LEG, LOWER_LEG = range(len(PARTS))

SKINS: tuple[Colour, ...] = ((241, 204, 172), (224, 172, 130), (188, 128, 88), (124, 80, 54), (92, 58, 42))
HAIRS: tuple[Colour, ...] = ((38, 30, 28), (96, 60, 34), (196, 150, 74), (150, 146, 140))


def of_person(dice: Dice, label: int, colour: str, cloth: str, radius: float) -> Body:
    """Somebody in a shirt of this colour and texture; arms and legs swing freely, the whole leans a little."""
    skin, hair = flat(dice.pick(SKINS)), flat(dice.pick(HAIRS))
    shirt = texture(dice, COLOURS[colour], name=cloth)
    trousers = flat(jittered(dice, shade(dice.pick(tuple(COLOURS.values())), 0.5), 16))
    lean = dice.around(0.09)
    joints: dict[str, Vector] = {}
    pieces: list[Piece] = []

    for side in (1, -1):
        name = "left" if side == 1 else "right"
        hip = joints[f"{name}_hip"] = (side * 0.24, 0.0)
        knee = joints[f"{name}_knee"] = _onward(hip, _down(dice, side * -0.12, 0.22), 0.86)
        ankle = joints[f"{name}_ankle"] = _onward(knee, _down(dice, 0.0, 0.16), 0.76)
        pieces += [
            _limb(knee, ankle, 0.155, skin if cloth == "flat" else trousers, LOWER_LEG),
            _limb(hip, knee, 0.215, trousers, UPPER_LEG),
        ]
    pieces.append(_limb((0.0, -0.86), (0.0, -0.12), 0.36, shirt, TORSO))
    for side in (1, -1):
        name = "left" if side == 1 else "right"
        shoulder = joints[f"{name}_shoulder"] = (side * 0.36, -0.98)
        swing = dice.uniform(-0.15, 0.9)
        elbow = joints[f"{name}_elbow"] = _onward(shoulder, _down(dice, -side * swing, 0.1), 0.6)
        wrist = joints[f"{name}_wrist"] = _onward(
            elbow, _down(dice, -side * (swing + dice.uniform(-0.1, 0.6)), 0.1), 0.54
        )
        pieces += [
            _limb(elbow, wrist, 0.115, skin, LOWER_ARM),
            _limb(shoulder, elbow, 0.15, shirt, UPPER_ARM),
        ]
    pieces += _head(joints, skin, hair)
    keypoints = tuple(joints[name] for name in PEOPLE.keypoints)
    person = Body(label, tuple(pieces), 1.0, "person", colour, cloth, keypoints=keypoints)
    return person.shifted((0.0, 0.15)).turned(lean).resized(radius)


def _head(joints: dict[str, Vector], skin: Texture, hair: Texture) -> list[Piece]:
    dark = flat((34, 28, 30))
    joints |= {"nose": (0.0, -1.6), "left_eye": (0.13, -1.7), "right_eye": (-0.13, -1.7)}
    joints |= {"left_ear": (0.29, -1.63), "right_ear": (-0.29, -1.63)}
    dots = [(joints[f"{side}_eye"], 0.05, dark) for side in ("left", "right")]
    dots.append((joints["nose"], 0.04, flat(shade(skin.first, 0.72))))
    return [
        _limb((0.0, -1.4), (0.0, -1.1), 0.13, flat(shade(skin.first, 0.86)), HEAD),
        Piece(disc, (0.0, -1.72), (1.0, 0.0), 0.36, hair, reach=0.36, part=HEAD),
        Piece(disc, (0.0, -1.6), (1.0, 0.0), 0.32, skin, reach=0.32, part=HEAD),
        *(Piece(disc, at, (1.0, 0.0), size, paint, reach=size, part=HEAD) for at, size, paint in dots),
    ]


def _down(dice: Dice, swing: float, more: float) -> Vector:
    """About downwards; a positive swing turns clockwise, to the left of the picture."""
    t = min(max(swing + dice.uniform(-more, more), -1.2), 1.2)
    return turned((0.0, 1.0), turn(t))


def _onward(start: Vector, way: Vector, far: float) -> Vector:
    return start[0] + way[0] * far, start[1] + way[1] * far


def _limb(start: Vector, end: Vector, wide: float, paint: Texture, part: int) -> Piece:
    """A capsule between two joints."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    long = sqrt(dx * dx + dy * dy)
    middle = (start[0] + dx / 2, start[1] + dy / 2)
    form = (long / 2 / wide, 0.0, 0.0, 0.0)
    return Piece(limb, middle, (dx / long, dy / long), wide, paint, form, reach=long / 2 + wide, part=part)
