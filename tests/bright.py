"""A finder without a network: each bright patch is an instance, as sure and as good as it is bright and red."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import ndimage

from maskwise.categories import Categories
from maskwise.masks import Masks
from maskwise.rle import Size
from maskwise.structures import Instances

NAMES = Categories(names=("spot", "blob"), ids=(7, 3))


@dataclass(slots=True)
class Bright:
    """Labels 1 what is mostly blue. `most`: pixels in a batch beyond which memory is short."""

    most: int | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    categories: Categories = NAMES
    calls: list[list[Size]] = field(default_factory=list)
    before: Callable[[], None] = lambda: None

    def viewed_size(self, size: Size) -> Size:
        return size

    def to(self, device: torch.device) -> "Bright":
        return Bright(most=None, device=device, calls=self.calls)

    def instances(self, pictures: Sequence[np.ndarray]) -> list[Instances]:
        self.before()
        self.calls.append([p.shape[:2] for p in pictures])
        if self.most is not None and sum(p.shape[0] * p.shape[1] for p in pictures) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return [found(p) for p in pictures]


def found(picture: np.ndarray) -> Instances:
    ids, count = ndimage.label(picture.max(2) >= 64)
    masks, values = Masks.from_label_map(ids.astype(np.int32))
    if not count:
        return Instances.none(picture.shape[:2])
    mean = np.stack([ndimage.mean(picture[..., c], ids, values) for c in range(3)], 1) / 255
    scores = torch.tensor(mean.max(1), dtype=torch.float32)
    quality = torch.tensor(mean[:, 1], dtype=torch.float32)
    return Instances(
        boxes=masks.boxes(),
        labels=torch.tensor((mean[:, 2] > mean[:, 0]).astype(np.int64)),
        scores=scores,
        quality=quality,
        mask_scores=scores * quality,
        masks=masks,
    ).ranked()


def picture(
    size: Size, *patches: tuple[int, int, int, int], colour: tuple[int, int, int] = (200, 150, 10)
) -> np.ndarray:
    """Black, with rectangles x0, y0, x1, y1."""
    pixels = np.zeros((*size, 3), np.uint8)
    for i, (x0, y0, x1, y1) in enumerate(patches):
        pixels[y0:y1, x0:x1] = np.minimum(255, np.array(colour) + 9 * (i % 7))
    return pixels


def same(one: Instances, other: Instances) -> bool:
    """To the bit."""
    fields = ("boxes", "labels", "scores", "quality", "mask_scores")
    return all(torch.equal(getattr(one, f), getattr(other, f)) for f in fields) and one.masks.rle() == other.masks.rle()


class Few(Bright):
    """Reports a few of many."""

    limit: int = 5

    @property
    def most_instances(self) -> int:
        return self.limit

    def up_to(self, most: int) -> "Few":
        more = Few(calls=self.calls)
        more.limit = most
        return more

    def instances(self, pictures: Sequence[np.ndarray]) -> list[Instances]:
        several = super().instances(pictures)
        return [one[one.scores.argsort(descending=True, stable=True)[: self.limit].sort().values] for one in several]
