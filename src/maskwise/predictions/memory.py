"""Prediction that fits the memory: where it does not, the batch is halved, then the picture, then the CPU is asked."""

import gc
import logging
from collections.abc import Callable

import torch

from maskwise.predictions.finder import Finder, Placed
from maskwise.predictions.pictures import Picture
from maskwise.predictions.tiles import in_tiles
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


def find(finder: Finder, pictures: list[Picture], keep: Keep) -> list[Instances]:
    """What `keep` leaves of what is in each picture."""
    try:
        return [keep(found) for found in finder.instances(pictures)]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failed = error.with_traceback(None)  # which would hold what there was no memory for
    _release()
    if len(pictures) > 1:
        middle = len(pictures) // 2
        log.warning("out of memory with %d pictures at once: trying %d", len(pictures), middle)
        return [*find(finder, pictures[:middle], keep), *find(finder, pictures[middle:], keep)]
    return [_smaller(finder, pictures[0], keep, failed)]


def _smaller(finder: Finder, picture: Picture, keep: Keep, failed: Exception) -> Instances:
    """In tiles, if that helps; on the CPU, if that is another place."""
    size = (picture.shape[0], picture.shape[1])
    side = (max(size) + 1) // 2
    tile = (min(side, size[0]), min(side, size[1]))
    if side >= SMALLEST and _area(seen(finder, tile)) < _area(seen(finder, size)):
        log.warning("out of memory with a picture of %d x %d: trying tiles of %d", size[1], size[0], side)
        return in_tiles(picture, lambda parts: find(finder, parts, keep), side=side)
    if isinstance(finder, Placed) and finder.device.type != "cpu":
        log.warning("out of memory on %s: trying the CPU", finder.device)
        return find(finder.on(torch.device("cpu")), [picture], keep)[0]
    raise failed


def is_out_of_memory(error: Exception) -> bool:
    """As CUDA, Metal, the allocator of torch on the CPU and Python say it."""
    words = str(error).lower()
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or any(
        said in words for said in ("out of memory", "can't allocate memory", "not enough memory")
    )


def tile_side(finder: Finder, size: Size) -> int | None:
    """Side of the tiles that a picture should be cut into, such that their pixels are seen as they are; None: none."""
    shown = seen(finder, size)
    if max(size) <= SHRUNK * max(shown) and _area(shown) <= MOST_SEEN:
        return None
    return max(SMALLEST, min(*seen(finder, (TILE, TILE)), TILE))


def seen(finder: Finder, size: Size) -> Size:
    return finder.seen(size) if isinstance(finder, Placed) else size


def _area(size: Size) -> int:
    return size[0] * size[1]


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
