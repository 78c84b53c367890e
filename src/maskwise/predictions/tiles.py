"""Pictures that are too large to be looked at whole: cut into tiles that overlap, and what was found joined again.

An object at the border of a tile is found twice, in whole or in part. An object that one tile shows whole is taken from
there, and what another tile has of it is dropped. Parts that are cut by their tiles, and agree where both tiles look,
become one mask. So nothing has a seam and nothing is counted twice. It is done on masks: the boxes of round objects
side by side overlap too. Legend: n instances of one tile, k of another.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from maskwise import outlines
from maskwise.data.tiles import Tile, tiles
from maskwise.masks import Masks
from maskwise.predictions.pictures import Picture
from maskwise.rle import Size
from maskwise.structures import Instances

OVERLAP = 4
"""Tiles share at least the side divided by this, if nothing else is said; smaller objects are whole in one of them."""
SAME = 0.5
"""Share of what two tiles show that must agree for it to be one object."""

Positions = Int64[np.ndarray, " _"]
Find = Callable[[list[Picture]], list[Instances]]


@dataclass(frozen=True, slots=True)
class Part:
    """What one tile shows, in the coordinates of the picture."""

    tile: Tile
    found: Instances
    cut: Bool[np.ndarray, " n"]
    """Touches a border of the tile that is none of the picture, so there may be more of it."""


def in_tiles(
    picture: Picture,
    find: Find,
    *,
    side: int,
    overlap: int | None = None,
    batch: int = 1,
    whole: Instances | None = None,
) -> Instances:
    """What `find` finds in the tiles of a picture, joined. They overlap by a quarter if nothing else is said.

    `whole`: objects that were seen in the picture as a whole, such as those that fit into no tile.
    """
    size = (picture.shape[0], picture.shape[1])
    places = tiles(size, side, side // OVERLAP if overlap is None else overlap)
    parts = [] if whole is None else [_placed(Tile(0, 0, size[1], size[0]), whole, size)]
    for start in range(0, len(places), batch):
        several = places[start : start + batch]
        found = find([picture[t.y0 : t.y1, t.x0 : t.x1] for t in several])
        parts += [_placed(t, f, size) for t, f in zip(several, found, strict=True)]
    return joined(parts, size)


def _placed(tile: Tile, found: Instances, size: Size) -> Part:
    shift = found.boxes.new_tensor([tile.x0, tile.y0, tile.x0, tile.y0])
    keypoints = found.keypoints
    if keypoints is not None:
        keypoints = keypoints + keypoints.new_tensor([tile.x0, tile.y0, 0])
    masks = found.masks.crop(-tile.x0, -tile.y0, size)
    moved = replace(found, boxes=found.boxes + shift, keypoints=keypoints, masks=masks)
    return Part(tile, moved, _cut(masks, tile, size))


def _cut(masks: Masks, tile: Tile, size: Size) -> Bool[np.ndarray, " n"]:
    """Generously: a mask of few cells ends a little before the border, and an object called cut by mistake is joined
    with itself."""
    near = max(2, max(tile.x1 - tile.x0, tile.y1 - tile.y0) // 64)
    x0, y0, x1, y1 = masks.boxes().numpy().T
    return (
        ((x0 < tile.x0 + near) & (tile.x0 > 0))
        | ((y0 < tile.y0 + near) & (tile.y0 > 0))
        | ((x1 > tile.x1 - near) & (tile.x1 < size[1]))
        | ((y1 > tile.y1 - near) & (tile.y1 < size[0]))
    )


# Joining


def joined(parts: Sequence[Part], size: Size) -> Instances:
    """Each object once, best first."""
    parts = [part for part in parts if len(part.found)]
    if not parts:
        return Instances.none(size)
    starts = np.cumsum([0, *(len(part.found) for part in parts)])
    dropped = np.zeros(starts[-1], bool)
    links: list[tuple[int, int]] = []
    corners = np.array([part.tile for part in parts])
    for j, other in enumerate(parts):
        x0, y0, x1, y1 = corners[:j].T
        meet = (x0 < other.tile.x1) & (x1 > other.tile.x0) & (y0 < other.tile.y1) & (y1 > other.tile.y0)
        for i in np.flatnonzero(meet).tolist():
            lost_i, lost_j, same = _compared(parts[i], other)
            dropped[starts[i] + lost_i] = True
            dropped[starts[j] + lost_j] = True
            links += [(int(starts[i]) + a, int(starts[j]) + b) for a, b in same]
    together = _cat([part.found for part in parts])
    return _grouped(together, _groups(dropped, links)).ranked()


def _compared(one: Part, other: Part) -> tuple[Positions, Positions, list[tuple[int, int]]]:
    """Instances of each that the other has better, and pairs of parts of one object."""
    strip = _intersection(one.tile, other.tile)
    mine, theirs = _in(one, strip), _in(other, strip)
    if not len(mine) or not len(theirs):
        return mine[:0], theirs[:0], []
    a, b = one.found[torch.from_numpy(mine)], other.found[torch.from_numpy(theirs)]
    whole_a, whole_b = ~one.cut[mine][:, None], ~other.cut[theirs][None]
    size = (strip.y1 - strip.y0, strip.x1 - strip.x0)
    seen_a, seen_b = (part.masks.crop(strip.x0, strip.y0, size) for part in (a, b))
    shared = seen_a.intersection(seen_b).numpy()
    area_a, area_b = a.masks.area().numpy()[:, None], b.masks.area().numpy()[None]
    smaller = np.minimum(seen_a.area().numpy()[:, None], seen_b.area().numpy()[None])
    same = (a.labels[:, None] == b.labels).numpy() & (shared > 0)
    twice = same & whole_a & whole_b & (shared >= SAME * (area_a + area_b - shared))
    first_wins = (a.mask_scores[:, None] >= b.mask_scores).numpy()
    lost_a = (twice & ~first_wins) | (same & ~whole_a & whole_b & (shared >= SAME * area_a))
    lost_b = (twice & first_wins) | (same & whole_a & ~whole_b & (shared >= SAME * area_b))
    pairs = np.argwhere(same & ~whole_a & ~whole_b & (shared >= SAME * smaller))
    links = [(int(mine[i]), int(theirs[k])) for i, k in pairs]
    return mine[lost_a.any(1)], theirs[lost_b.any(0)], links


def _intersection(one: Tile, other: Tile) -> Tile:
    return Tile(max(one.x0, other.x0), max(one.y0, other.y0), min(one.x1, other.x1), min(one.y1, other.y1))


def _in(part: Part, strip: Tile) -> Positions:
    """Instances whose windows reach into the strip."""
    x0, y0, x1, y1 = part.found.masks.windows.numpy().T
    return np.flatnonzero((x0 < strip.x1) & (x1 > strip.x0) & (y0 < strip.y1) & (y1 > strip.y0))


def _groups(dropped: Bool[np.ndarray, " n"], links: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Positions that are one object, those that were dropped left out."""
    home = list(range(len(dropped)))

    def root(i: int) -> int:
        while home[i] != i:
            home[i] = home[home[i]]
            i = home[i]
        return i

    for i, k in links:
        if not (dropped[i] or dropped[k]):
            home[root(i)] = root(k)
    groups: dict[int, list[int]] = {}
    for i in np.flatnonzero(~dropped).tolist():
        groups.setdefault(root(i), []).append(i)
    return list(groups.values())


def _grouped(found: Instances, groups: Sequence[Sequence[int]]) -> Instances:
    """One instance a group: what its best part says, with the masks and boxes of all."""
    ranks = found.mask_scores.tolist()
    best = [max(group, key=ranks.__getitem__) for group in groups]
    crops = found.masks.crops()
    masks = [crops[g[0]] if len(g) == 1 else outlines.union([crops[i] for i in g]) for g in groups]
    boxes = [found.boxes[g[0]] if len(g) == 1 else _around(found.boxes[list(g)]) for g in groups]
    chosen = found[torch.tensor(best, dtype=torch.int64)]
    return replace(chosen, masks=Masks.of(masks, found.masks.size), boxes=torch.stack(boxes))


def _around(boxes: Float[Tensor, "n 4"]) -> Float[Tensor, " 4"]:
    return torch.cat([boxes[:, :2].amin(0), boxes[:, 2:].amax(0)])


def _cat(several: Sequence[Instances]) -> Instances:
    """Of one picture."""
    first = several[0]
    return Instances(
        boxes=torch.cat([f.boxes for f in several]),
        labels=torch.cat([f.labels for f in several]),
        scores=torch.cat([f.scores for f in several]),
        quality=torch.cat([f.quality for f in several]),
        mask_scores=torch.cat([f.mask_scores for f in several]),
        masks=Masks.cat([f.masks for f in several]),
        keypoints=None if first.keypoints is None else torch.cat([_known(f.keypoints) for f in several]),
    )


def _known(keypoints: Tensor | None) -> Tensor:
    assert keypoints is not None, "a method gives keypoints always or never"
    return keypoints
