"""Maps in which each pixel belongs to one object at most: from ground truth, and from there to instances.

Legend: b pictures, c classes and background, d channels, n pixels, k objects, h w the picture inside the padding, H W
the original.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from maskwise.masks import Masks
from maskwise.rle import Size
from maskwise.structures import Instances, Targets

NOBODY, IGNORED = -1, -2
"""In the place of an object: what belongs to none, and what teaches nothing."""

# --- ground truth


def owners(targets: Targets) -> Int[Tensor, "h w"]:
    """The object that each pixel belongs to, NOBODY, or IGNORED where there is a crowd and nothing else.

    Where objects overlap, the nearest by depth; where no depth is given the smaller, which else might not be seen.
    """
    rank = targets.masks.area() if targets.depth is None else targets.depth
    objects = torch.where(~targets.crowd)[0]
    order = objects[rank[objects].argsort(stable=True)]
    ids = torch.from_numpy(targets.masks[order].label_map()).to(order.device, torch.int64)
    owner = torch.cat([order.new_tensor([NOBODY]), order])[ids]
    crowd = torch.from_numpy(targets.masks[targets.crowd].label_map() > 0).to(order.device)
    return torch.where(crowd & (owner == NOBODY), IGNORED, owner)


def classes(owner: Int[Tensor, "h w"], labels: Int[Tensor, " k"], *, background: int) -> Int[Tensor, "h w"]:
    """The class of each pixel; IGNORED stays."""
    names = torch.cat([labels, labels.new_tensor([IGNORED, background])])  # positions -2 and -1
    return names[owner]


def semantic_loss(logits: Float[Tensor, "b c h w"], truth: Int[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """Cross-entropy of all pixels of the batch that are not ignored."""
    learned = (truth != IGNORED).sum()
    rows = logits.movedim(1, -1).flatten(0, -2)  # in two dimensions CUDA adds up in any order
    return F.cross_entropy(rows, truth.flatten(), ignore_index=IGNORED, reduction="sum") / learned.clamp(min=1)


class Pixels(NamedTuple):
    """The pixels that something is learned from, and the objects that have any of them."""

    learned: Int[Tensor, " n"]
    """Which pixels of the picture, row by row: all but the ignored ones."""
    owner: Int[Tensor, " n"]
    """NOBODY, or which of the objects below."""
    labels: Int[Tensor, " k"]
    """Their classes."""


def pixels_of(owner: Int[Tensor, "h w"], labels: Int[Tensor, " objects"]) -> Pixels:
    flat = owner.flatten()
    learned = torch.where(flat != IGNORED)[0]
    seen = torch.bincount(flat[flat >= 0], minlength=len(labels)) > 0
    number = torch.cat([torch.where(seen, seen.cumsum(0) - 1, NOBODY), flat.new_tensor([NOBODY])])
    return Pixels(learned, number[flat[learned]], labels[seen])


def mean_of_each(values: Float[Tensor, "d n"], which: Int[Tensor, " n"], count: int) -> Float[Tensor, "d k"]:
    """Mean over the pixels of each object."""
    return sum_of_each(values, which, count) / torch.bincount(which, minlength=count).clamp(min=1)


def sum_of_each(values: Float[Tensor, "d n"], which: Int[Tensor, " n"], count: int) -> Float[Tensor, "d k"]:
    """Sum over the pixels of each object: made pixel by pixel, in 32 bits it is wrong by percents where there are
    millions."""
    exact = values if values.device.type == "mps" else values.double()  # which has no 64 bits
    return exact.new_zeros(len(values), count).index_add(1, which, exact).to(values.dtype)


# --- instances


def mean_probability(
    owner: Int[Tensor, "h w"], labels: Int[Tensor, " k"], probabilities: Float[Tensor, "c h w"]
) -> Float[Tensor, " k"]:
    """Mean probability of its class over the pixels of each object."""
    own = owner.flatten() >= 0
    which = owner.flatten()[own]
    of_class = probabilities.flatten(1)[:, own].gather(0, labels[which][None])
    return mean_of_each(of_class, which, len(labels))[0]


def with_neighbours(owner: Int[Tensor, "h w"]) -> Int[Tensor, "h w"]:
    """For pixels that belong to nobody an object beside them, where there is one: how an edge goes on behind it."""
    grown = F.max_pool2d(owner[None].float(), 3, stride=1, padding=1)[0].long()
    return torch.where(owner == NOBODY, grown, owner)


def instances(
    owner: Int[Tensor, "h w"],
    labels: Int[Tensor, " k"],
    scores: Float[Tensor, " k"],
    *,
    sure: Float[Tensor, "h w"],
    original: Size,
    min_score: float = 0.0,
) -> Instances:
    """What clustering found, as instances of the original picture: those that score more, with their masks' boxes.

    sure: how much each pixel belongs to its owner, more than a half; or to the one beside it where it has none.
    """
    masks, ids = Masks.from_label_map(drawn(owner, sure, original))
    which = torch.tensor(ids, dtype=torch.int64, device=labels.device) - 1
    found = Instances.scored(
        boxes=masks.boxes().to(labels.device),
        labels=labels[which],
        scores=scores[which],
        masks=masks.to(labels.device),
    )
    return found[found.scores > min_score].ranked()


def drawn(owner: Int[Tensor, "h w"], sure: Float[Tensor, "h w"], original: Size) -> Int[np.ndarray, "H W"]:
    """Image of ids in the original picture, 1 for the first object.

    A pixel shows something where `sure`, read there bilinearly, is above a half: so the edge towards the background is
    where the network has it, between its pixels too. What it shows is the object that has most of the pixels around.
    """
    small = (owner + 1).cpu().numpy()
    # where nobody has what would suit an object, for clustering dropped it, the edge is half way
    certain = torch.where(owner == NOBODY, torch.minimum(sure, 1 - sure), sure).cpu().numpy()
    if small.shape == original:
        return small.astype(np.int32)
    ids, most = np.zeros(original, np.int32), np.zeros(original, np.float32)
    for number, place in enumerate(ndimage.find_objects(small), 1):
        if place is None:
            continue
        window = _Window.around(place, small.shape, original)
        share = window.read((small == number).astype(np.float32))
        better = share > most[window.large]
        most[window.large] = np.where(better, share, most[window.large])
        ids[window.large] = np.where(better, number, ids[window.large])
    whole = _Window.around((slice(0, small.shape[0]), slice(0, small.shape[1])), small.shape, original)
    return np.where(whole.read(certain) > 0.5, ids, 0)


class _Window(NamedTuple):
    """A part of a picture before and after the picture is made larger or smaller."""

    rows: "_Axis"
    columns: "_Axis"

    @classmethod
    def around(cls, place: tuple[slice, slice], old: Size, new: Size) -> "_Window":
        rows, columns = (_Axis.around(*axis) for axis in zip(place, old, new, strict=True))
        return cls(rows, columns)

    @property
    def large(self) -> tuple[slice, slice]:
        return self.rows.large, self.columns.large

    def read(self, picture: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "rows columns"]:
        """Bilinearly, at the centres of the new pixels."""
        part = picture[self.rows.small, self.columns.small]
        return self.columns.read(self.rows.read(part).T).T


class _Axis(NamedTuple):
    """A stretch of an axis before and after it is made larger or smaller, and how values are read between pixels."""

    small: slice
    large: slice
    low: Int[np.ndarray, " n"]
    share: Float[np.ndarray, " n"]

    @classmethod
    def around(cls, place: slice, old: int, new: int) -> "_Axis":
        """A pixel wider than the place, on both sides, where the picture goes on."""
        first, end = max(place.start - 1, 0), min(place.stop + 1, old)
        at = (((np.arange(new) + 0.5) * old / new) - 0.5).clip(0, old - 1)
        start, stop = np.searchsorted(at, first), np.searchsorted(at, end - 1, side="right")
        low = np.floor(at[start:stop]).astype(np.int64).clip(max=max(end - 2, first))
        share = (at[start:stop] - low).astype(np.float32)
        return cls(slice(first, end), slice(int(start), int(stop)), low - first, share)

    def read(self, values: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "n columns"]:
        after = values[(self.low + 1).clip(max=len(values) - 1)]
        return values[self.low] + self.share[:, None] * (after - values[self.low])
