"""Prediction that fits: where memory is short, the batch is halved, then the picture, and then the CPU is asked.

And where a picture holds more objects than the finder reports of one, it is cut into tiles, too, so that none is lost.
"""

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from maskwise.out_of_memory import is_out_of_memory
from maskwise.predictions.finder import Finder, Placed
from maskwise.predictions.pictures import Picture
from maskwise.predictions.tiles import OVERLAP, in_tiles
from maskwise.rle import Size
from maskwise.structures import Instances

SMALLEST = 256
"""Side of the smallest tile."""
SHRUNK = 8.0
"""A picture that is seen this much smaller has lost its objects; it is cut into tiles."""
MOST_SEEN = 1 << 23
"""Pixels that are looked at at once."""
TILE = 1024
"""Side of a tile where the finder sees pictures as they are."""

Keep = Callable[[Instances], Instances]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Of the instances that a finder reports of one picture."""

    most: int | None = None
    least_score: float = 0.0
    """Instances that score less are not wanted anyway."""
    divide: bool = True
    """Cut pictures with more of them into tiles."""

    def is_reached(self, found: Instances) -> bool:
        """Whether there may be more that are wanted: finders report those with the best scores."""
        return self.most is not None and len(found) >= self.most and bool((found.scores >= self.least_score).all())


NO_LIMIT = Limit()


class Found(NamedTuple):
    """What is in a picture, and whether that is all."""

    instances: Instances
    tile: int | None = None
    """Side of the smallest tiles that it was cut into because it holds more than the finder reports at once."""
    limited: bool = False
    """There may be more."""


def find(finder: Finder, pictures: list[Picture], keep: Keep, limit: Limit = NO_LIMIT) -> list[Found]:
    """What `keep` leaves of what is in each picture."""
    try:
        found = finder.instances(pictures)
        kept = [keep(of_one) for of_one in found]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failed = error.with_traceback(None)  # which would hold what there was no memory for
    else:
        several = zip(pictures, found, kept, strict=True)
        return [complete(finder, picture, whole, left, keep, limit) for picture, whole, left in several]
    _release()
    if len(pictures) > 1:
        middle = len(pictures) // 2
        log.warning("out of memory with %d pictures at once: trying %d", len(pictures), middle)
        return [*find(finder, pictures[:middle], keep, limit), *find(finder, pictures[middle:], keep, limit)]
    return [_smaller(finder, pictures[0], keep, limit, failed)]


def tiled(
    finder: Finder,
    picture: Picture,
    keep: Keep,
    limit: Limit = NO_LIMIT,
    *,
    side: int,
    batch: int = 1,
    whole: Instances | None = None,
) -> Found:
    """What is in the tiles of a picture, joined; with what was seen in all of it, where that is known."""
    parts: list[Found] = []

    def look(several: list[Picture]) -> list[Instances]:
        found = find(finder, several, keep, limit)
        parts.extend(found)
        return [part.instances for part in found]

    joint = in_tiles(picture, look, side=side, batch=batch, whole=whole)
    cut = [part.tile for part in parts if part.tile is not None]
    return Found(joint, min(cut, default=None), any(part.limited for part in parts))


def complete(
    finder: Finder, picture: Picture, whole: Instances, found: Instances, keep: Keep, limit: Limit = NO_LIMIT
) -> Found:
    """`found` is what `keep` left of the whole. With as many as are reported of one picture, this is cut into tiles, of
    which each may be cut again."""
    if not limit.is_reached(whole):
        return Found(found)
    side = (max(picture.shape[:2]) + 1) // 2
    if not limit.divide or side < SMALLEST:
        return Found(found, limited=True)
    log.debug("%d instances or more: trying tiles of %d", limit.most, side)
    spread = (found.boxes[:, 2:] - found.boxes[:, :2]).amax(1)
    parts = tiled(finder, picture, keep, limit, side=side, whole=found[spread > side // OVERLAP])
    return parts._replace(tile=side if parts.tile is None else parts.tile)


def _smaller(finder: Finder, picture: Picture, keep: Keep, limit: Limit, failed: Exception) -> Found:
    """In tiles, if that helps; on the CPU, if that is another place."""
    size = (picture.shape[0], picture.shape[1])
    side = (max(size) + 1) // 2
    tile = (min(side, size[0]), min(side, size[1]))
    if side >= SMALLEST and _area(viewed_size(finder, tile)) < _area(viewed_size(finder, size)):
        log.warning("out of memory with a picture of %d x %d: trying tiles of %d", size[1], size[0], side)
        return tiled(finder, picture, keep, limit, side=side)
    if isinstance(finder, Placed) and finder.device.type != "cpu":
        log.warning("out of memory on %s: trying the CPU", finder.device)
        return find(finder.to(torch.device("cpu")), [picture], keep, limit)[0]
    raise failed


def tile_side(finder: Finder, size: Size) -> int | None:
    """Side of the tiles that a picture should be cut into, such that their pixels are seen as they are; None: none."""
    shown = viewed_size(finder, size)
    if max(size) <= SHRUNK * max(shown) and _area(shown) <= MOST_SEEN:
        return None
    return max(SMALLEST, min(*viewed_size(finder, (TILE, TILE)), TILE))


def viewed_size(finder: Finder, size: Size) -> Size:
    return finder.viewed_size(size) if isinstance(finder, Placed) else size


def _area(size: Size) -> int:
    return size[0] * size[1]


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
