"""Placing: where the bodies of a scene go. The nearest is placed first, so that what a body shows is settled at once.

Bodies are drawn once and moved by whole pixels, which changes no bitmap.
"""

from dataclasses import dataclass, field
from math import ceil
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool

from maskwise.data.synthetic.bodies import Body, Lamp, Layer, draw, overlap
from maskwise.data.synthetic.dice import Dice, Vector
from maskwise.rle import Size

Relation = Literal["apart", "touching", "behind"]
"""To the bodies placed before: a pixel or more between them, side by side, or partly hidden."""

TRIES = 24
INSIDE_LEAST = 0.4  # share of a body that lies in the picture
HIDDEN = (0.04, 0.7)  # least and largest share that is hidden of one that lies behind
SMALLER = (1.0, 0.75, 0.5)  # tried in turn where there is no room


class Placed(NamedTuple):
    body: Body
    at: Vector
    layer: Layer


class Seen(NamedTuple):
    """Pixels of a body: all, in the picture, and not hidden."""

    whole: int
    inside: int
    shown: int


@dataclass(slots=True)
class Board:
    """What is taken so far. The maps have one more row or column on each side than the picture."""

    size: Size
    placed: list[Placed] = field(default_factory=list)
    taken: Bool[np.ndarray, "H2 W2"] = field(init=False)
    beside: Bool[np.ndarray, "H2 W2"] = field(init=False)
    """Taken, or next to it in a row or column."""
    around: Bool[np.ndarray, "H2 W2"] = field(init=False)
    """Taken, or next to it in any direction."""

    def __post_init__(self) -> None:
        self.taken, self.beside, self.around = np.zeros((3, self.size[0] + 2, self.size[1] + 2), bool)

    def look(self, layer: Layer) -> Seen:
        there, here = overlap(layer.x0, layer.y0, layer.inside.shape, self.size)
        bits = layer.inside[here]
        shown = np.count_nonzero(bits > self.taken[1:-1, 1:-1][there])
        return Seen(int(np.count_nonzero(layer.inside)), int(np.count_nonzero(bits)), int(shown))

    def meets(self, layer: Layer, marked: Bool[np.ndarray, "H2 W2"]) -> bool:
        there, here = overlap(layer.x0, layer.y0, layer.inside.shape, self.size)
        return bool((layer.inside[here] & marked[1:-1, 1:-1][there]).any())

    def take(self, placed: Placed) -> None:
        self.placed.append(placed)
        layer = placed.layer
        (rows, columns), here = overlap(layer.x0, layer.y0, layer.inside.shape, self.size)
        own = np.zeros((rows.stop - rows.start + 2, columns.stop - columns.start + 2), bool)
        own[1:-1, 1:-1] = layer.inside[here]
        wide = own.copy()
        wide[:, 1:] |= own[:, :-1]
        wide[:, :-1] |= own[:, 1:]
        around, beside = wide.copy(), wide
        around[1:] |= wide[:-1]
        around[:-1] |= wide[1:]
        beside[1:] |= own[:-1]
        beside[:-1] |= own[1:]
        grown = slice(rows.start, rows.stop + 2), slice(columns.start, columns.stop + 2)
        for marked, bits in ((self.taken, own), (self.beside, beside), (self.around, around)):
            marked[grown] |= bits


def place(dice: Dice, board: Board, body: Body, relation: Relation, *, visible: int, blur: float, lamp: Lamp) -> bool:
    """Put a body on the board so that `visible` pixels show; false where there is no room even for a small one."""
    relation = relation if board.placed else "apart"
    for by in SMALLER:
        smaller = body if by == 1 else body.resized(by)
        fraction = (dice.uniform(), dice.uniform())
        drawn = Placed(smaller, fraction, draw(smaller, fraction, blur=blur, lamp=lamp))
        for _ in range(TRIES):
            found = _TRIED[relation](dice, board, drawn)
            seen = board.look(found.layer)
            enough = seen.shown >= visible and seen.inside >= INSIDE_LEAST * seen.whole
            if enough and _fits(board, found, seen, relation):
                board.take(found)
                return True
    return False


def place_at(board: Board, body: Body, at: Vector, *, blur: float, lamp: Lamp) -> None:
    board.take(Placed(body, at, draw(body, at, blur=blur, lamp=lamp)))


def _fits(board: Board, found: Placed, seen: Seen, relation: Relation) -> bool:
    match relation:
        case "apart":
            return not board.meets(found.layer, board.around)
        case "touching":
            return seen.shown == seen.inside and board.meets(found.layer, board.beside)
        case "behind":
            least, most = HIDDEN
            return least * seen.inside <= seen.inside - seen.shown <= most * seen.inside


def _moved(drawn: Placed, x: float, y: float) -> Placed:
    """As near to x, y as whole pixels allow."""
    dx, dy = round(x - drawn.at[0]), round(y - drawn.at[1])
    at = (drawn.at[0] + dx, drawn.at[1] + dy)
    return Placed(drawn.body, at, drawn.layer._replace(x0=drawn.layer.x0 + dx, y0=drawn.layer.y0 + dy))


def _anywhere(dice: Dice, board: Board, drawn: Placed) -> Placed:
    """Seldom cut by the border: the centre keeps away from it."""
    margin = 0.6 * drawn.body.reach
    x, y = (dice.uniform(min(margin, n / 2), max(n - margin, n / 2)) for n in (board.size[1], board.size[0]))
    return _moved(drawn, x, y)


def _behind(dice: Dice, board: Board, drawn: Placed) -> Placed:
    other, way = dice.pick(board.placed), dice.direction()
    far = (other.body.radius + drawn.body.radius) * dice.uniform(0.25, 1.0)
    return _moved(drawn, other.at[0] + way[0] * far, other.at[1] + way[1] * far)


def _touching(dice: Dice, board: Board, drawn: Placed) -> Placed:
    """Pushed towards another one, by halving the distance, as far as nothing is hidden."""
    other, way = dice.pick(board.placed), dice.direction()

    def moved(far: int) -> Placed:
        return _moved(drawn, other.at[0] + way[0] * far, other.at[1] + way[1] * far)

    hits, free = 0, ceil(other.body.reach + drawn.body.reach) + 2
    while free - hits > 1:
        middle = (hits + free) // 2
        if board.meets(moved(middle).layer, board.taken):
            hits = middle
        else:
            free = middle
    return moved(free)


_TRIED = {"apart": _anywhere, "behind": _behind, "touching": _touching}
