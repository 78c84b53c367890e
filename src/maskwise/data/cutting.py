"""The annotations of a large picture, cut as its tiles are.

An object is in each tile that has pixels of it. A small piece of one that another tile shows far better would teach a
wrong shape, and left out it would teach background: it becomes a crowd, which does neither. Pieces are compared with
the largest and not with the object, of which no tile may show much.

Legend: n instances of a picture, m of them in a tile, k keypoints.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskwise.data.dataset import Labelled
from maskwise.data.tiles import Tile, tiles
from maskwise.masks import Masks
from maskwise.rle import Size
from maskwise.structures import Parts, Targets

EMPTY = "tiles without objects"
MIN_VISIBLE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How pictures are cut that are larger than a tile."""

    side: int
    overlap: int | None = None
    """Pixels that neighbours share at least: objects up to that size are whole in one of them. None: an eighth."""
    min_visible: float = MIN_VISIBLE
    """Pieces of an object with a smaller share of the pixels of its largest piece are marked as crowds."""
    skip_empty: bool = False
    """Leave out tiles without objects; crowds are none."""

    def __post_init__(self) -> None:
        if self.side < 1:
            raise ValueError(f"tile: a side of at least 1 pixel is needed, got {self.side}")
        if self.overlap is not None and not 0 <= self.overlap < self.side:
            raise ValueError(f"overlap: expected 0 or more and less than the tile of {self.side}, got {self.overlap}")
        if not 0 <= self.min_visible <= 1:
            raise ValueError(f"min-visible: expected a share from 0 to 1, got {self.min_visible}")

    def cuts(self, size: Size) -> bool:
        return max(size) > self.side

    def skips(self, labelled: Labelled) -> bool:
        return self.skip_empty and bool(labelled.targets.crowd.all())

    def tiles(self, size: Size) -> list[Tile]:
        return tiles(size, self.side, self.side // 8 if self.overlap is None else self.overlap)


class View(NamedTuple):
    """What a tile shows, in its own coordinates."""

    tile: Tile
    labelled: Labelled
    which: Int[Tensor, " m"]
    """Positions of its instances among those of the picture."""


class Cut(NamedTuple):
    parts: tuple[tuple[Tile, Labelled], ...]
    """Row by row."""
    losses: Counter[str]


def cut(read: Labelled, tiling: Tiling) -> Cut:
    """The annotations of one picture."""
    views = _views(read, tiling.tiles(read.targets.masks.size))
    largest = _largest(views, len(read.targets))
    losses = Counter({"instances without pixels": int((largest == 0).sum())})
    losses["keypoints outside of all tiles of their object"] = _unseen_keypoints(read.targets, views)
    kept = []
    for view in views:
        remainders = _remainders(view.labelled.targets, largest[view.which], tiling.min_visible)
        labelled, what = _without(view.labelled, remainders)
        if tiling.skips(labelled):
            losses[EMPTY] += 1
        else:
            kept.append((view.tile, labelled))
            losses[what] += int(remainders.sum())
    return Cut(tuple(kept), +losses)


def _views(read: Labelled, places: Sequence[Tile]) -> list[View]:
    """All that has a pixel in each tile."""
    masks = read.targets.masks
    areas = masks.area()
    bare = replace(read, targets=replace(read.targets, masks=Masks.empty(len(masks), masks.size)))
    shown = zip(places, masks.in_frames(places), strict=True)
    return [View(tile, _seen(bare[which], tile, part, areas[which]), which) for tile, (which, part) in shown]


def _seen(bare: Labelled, tile: Tile, masks: Masks, areas: Int[Tensor, " m"]) -> Labelled:
    """What is in the tile of instances that have the `masks` there; `areas` are those of the whole ones."""
    before, boxes = bare.targets, masks.windows.to(torch.float32)
    left = masks.area() / areas
    after = replace(
        before,
        masks=masks,
        boxes=boxes,
        areas=None if before.areas is None else before.areas * left,
        keypoints=_keypoints(before.keypoints, tile, is_truth=bare.scores is None),
        parts=_parts(before.parts, tile),
    )
    return replace(bare, targets=after, stated_boxes=_boxes(bare.stated_boxes, boxes, left == 1, tile))


def _parts(parts: Parts | None, tile: Tile) -> Parts | None:
    if parts is None:
        return None
    [(which, masks)] = parts.masks.in_frames([tile])
    return Parts(masks=masks, labels=parts.labels[which], owner=parts.owner[which])


def _keypoints(points: Float[Tensor, "m k 3"] | None, tile: Tile, *, is_truth: bool) -> Float[Tensor, "m k 3"] | None:
    """Zeros, which mean not labelled, outside of the tile. Predictions have a score there, which may be negative."""
    if points is None:
        return None
    at, state = points[..., :2] - points.new_tensor(tile[:2]), points[..., 2:]
    inside = ((at >= 0) & (at <= at.new_tensor(tile.size[::-1]))).all(-1, keepdim=True)
    return torch.where(inside & (state > 0) if is_truth else inside, torch.cat([at, state], -1), 0)


def _boxes(
    stated: Float[Tensor, "m 4"] | None, tight: Float[Tensor, "m 4"], is_whole: Bool[Tensor, " m"], tile: Tile
) -> Float[Tensor, "m 4"] | None:
    """Those of the file for what is whole, as far as they are in the tile; tight ones for what is cut."""
    if stated is None:
        return None
    corner, limits = (stated.new_tensor([*sides, *sides]) for sides in (tile[:2], tile.size[::-1]))
    inside = (stated - corner).clamp(min=0).minimum(limits)
    is_box = (inside[:, 2:] > inside[:, :2]).all(1)
    return torch.where((is_whole & is_box)[:, None], inside, tight)


def _largest(views: Sequence[View], count: int) -> Int[Tensor, " n"]:
    """Pixels of each instance in the tile that has most of them."""
    largest = torch.zeros(count, dtype=torch.int64)
    for view in views:
        largest[view.which] = largest[view.which].maximum(view.labelled.targets.masks.area())
    return largest


def _remainders(targets: Targets, largest: Int[Tensor, " m"], least: float) -> Bool[Tensor, " m"]:
    return (targets.masks.area().double() / largest < least) & ~targets.crowd


def _without(read: Labelled, remainders: Bool[Tensor, " m"]) -> tuple[Labelled, str]:
    """And what that is called. Predictions have no crowds."""
    if read.scores is not None:
        return read[~remainders], "remainders left out"
    targets = replace(read.targets, crowd=read.targets.crowd | remainders)
    return replace(read, targets=targets), "remainders marked as crowds"


def _unseen_keypoints(targets: Targets, views: Sequence[View]) -> int:
    """Labelled ones that lie in no tile in which their object has a pixel."""
    if targets.keypoints is None:
        return 0
    labelled = targets.keypoints[..., 2] > 0
    seen = torch.zeros_like(labelled)
    for view in views:
        assert view.labelled.targets.keypoints is not None
        seen[view.which] |= view.labelled.targets.keypoints[..., 2] > 0
    return int((labelled & ~seen).sum())
