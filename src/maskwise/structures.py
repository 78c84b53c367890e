"""What travels through the library: pictures in, ground truth beside them, instances out.

Legend: b pictures of a batch, n instances of one picture, h w the padded size, k keypoints.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from maskwise.masks import Index, Masks, positions
from maskwise.rle import Size

Losses = dict[str, Tensor]
"""Named scalars, already weighted."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Images:
    """Pictures of a batch, RGB in 0..1, each in the left upper corner of its padding; methods normalise them."""

    pixels: Float[Tensor, "b 3 h w"]
    sizes: tuple[Size, ...]
    """Height and width of each picture inside the padding."""
    originals: tuple[Size, ...]
    """Height and width of the pictures that these came from; results are in their coordinates."""

    def __post_init__(self) -> None:
        _same_length("pictures", pixels=self.pixels, sizes=self.sizes, originals=self.originals)

    @classmethod
    def batch(
        cls, pictures: Sequence[Shaped[Tensor, "3 _ _"]], *, originals: Sequence[Size] | None = None, multiple: int = 32
    ) -> "Images":
        """Pad pictures with zeros at the right and the bottom to one size that `multiple` divides."""
        if not pictures:
            raise ValueError("expected at least one picture, got none")
        for i, picture in enumerate(pictures):
            if not picture.is_floating_point():
                raise ValueError(f"expected pixels in 0..1: picture {i} is {picture.dtype}, divide bytes by 255")
        sizes = tuple((int(p.shape[1]), int(p.shape[2])) for p in pictures)
        h, w = (-(-max(s[i] for s in sizes) // multiple) * multiple for i in (0, 1))
        pixels = pictures[0].new_zeros(len(pictures), 3, h, w)
        for place, picture in zip(pixels, pictures, strict=True):
            place[:, : picture.shape[1], : picture.shape[2]] = picture
        return cls(pixels=pixels, sizes=sizes, originals=tuple(originals or sizes))

    def __len__(self) -> int:
        return len(self.sizes)

    def to(self, device: torch.device | str) -> "Images":
        return replace(self, pixels=self.pixels.to(device))

    def one(self, i: int) -> "Images":
        """Picture i alone, in the same padding."""
        return Images(pixels=self.pixels[i : i + 1], sizes=(self.sizes[i],), originals=(self.originals[i],))

    def scale(self, i: int) -> tuple[float, float]:
        """By what x and y of picture i are multiplied to get coordinates of the original."""
        (h, w), (height, width) = self.sizes[i], self.originals[i]
        return width / w, height / h

    def inside(self) -> Bool[Tensor, "b h w"]:
        """True on pictures, false on padding."""
        h, w = self.pixels.shape[-2:]
        limits = torch.tensor(self.sizes, device=self.pixels.device)
        y, x = torch.arange(h, device=limits.device)[:, None], torch.arange(w, device=limits.device)
        return (y < limits[:, 0, None, None]) & (x < limits[:, 1, None, None])

    def normalized(self, mean: Sequence[float], std: Sequence[float]) -> Float[Tensor, "b 3 h w"]:
        """Pixels with the mean taken off and divided by the deviation; padding is zero after that, not before."""
        mean_, std_ = (self.pixels.new_tensor(v)[:, None, None] for v in (mean, std))
        return (self.pixels - mean_) / std_ * self.inside()[:, None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parts:
    """Masks of parts of instances, such as the arms and legs of people."""

    masks: Masks
    labels: Int[Tensor, " n"]
    owner: Int[Tensor, " n"]
    """Position of the instance that each part belongs to."""

    def __post_init__(self) -> None:
        _same_length("parts", masks=self.masks, labels=self.labels, owner=self.owner)

    def of(self, keep: Int[Tensor, " m"], total: int) -> "Parts":
        """Parts of the chosen ones among `total` instances, which are then numbered anew."""
        place = self.owner.new_full((total,), -1)
        place[keep] = torch.arange(len(keep), device=place.device)
        owner = place[self.owner]
        left = torch.where(owner >= 0)[0]
        return Parts(masks=self.masks[left], labels=self.labels[left], owner=owner[left])

    def to(self, device: torch.device | str) -> "Parts":
        return Parts(masks=self.masks.to(device), labels=self.labels.to(device), owner=self.owner.to(device))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Targets:
    """Ground truth of one picture, in its coordinates inside the padding."""

    boxes: Float[Tensor, "n 4"]
    """xyxy, continuous, tight around the masks."""
    labels: Int[Tensor, " n"]
    """0-based."""
    masks: Masks
    crowd: Bool[Tensor, " n"]
    """Regions that hold several objects not told apart; neither found nor missed."""
    areas: Float[Tensor, " n"] | None = None
    """As a file states them; COCO sorts objects by these into small, medium and large."""
    keypoints: Float[Tensor, "n k 3"] | None = None
    """x, y, and 0 not labelled, 1 hidden, 2 seen."""
    depth: Int[Tensor, " n"] | None = None
    """0 is nearest."""
    tracks: Int[Tensor, " n"] | None = None
    """The same object has the same number in all frames of a clip."""
    parts: Parts | None = None

    def __post_init__(self) -> None:
        _same_length("instances", **_per_instance(self))

    @classmethod
    def from_masks(cls, masks: Masks, labels: Int[Tensor, " n"], **rest: Any) -> "Targets":
        """With the tight boxes of the masks, and no crowds unless they are given."""
        rest.setdefault("crowd", torch.zeros(len(masks), dtype=torch.bool, device=labels.device))
        return cls(boxes=masks.boxes(), labels=labels, masks=masks, **rest)

    @classmethod
    def none(cls, size: Size) -> "Targets":
        return cls.from_masks(Masks.none(size), torch.zeros(0, dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, keep: Index) -> "Targets":
        return _choose(self, keep)

    def __iter__(self) -> Iterator["Targets"]:
        """One object after another."""
        return (self[i] for i in range(len(self)))

    def to(self, device: torch.device | str) -> "Targets":
        return _map(self, lambda part: part.to(device))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Instances:
    """What a method found in one picture, best first by `mask_scores`, in the coordinates of the original picture."""

    boxes: Float[Tensor, "n 4"]
    labels: Int[Tensor, " n"]
    scores: Float[Tensor, " n"]
    """Confidence in the class; ranks boxes."""
    quality: Float[Tensor, " n"]
    """Predicted IoU of the mask with the object; 1 where a method predicts none."""
    mask_scores: Float[Tensor, " n"]
    """Ranks masks."""
    masks: Masks
    keypoints: Float[Tensor, "n k 3"] | None = None
    """x, y, score."""
    tracks: Int[Tensor, " n"] | None = None

    def __post_init__(self) -> None:
        _same_length("instances", **_per_instance(self))

    @classmethod
    def scored(
        cls, *, boxes: Float[Tensor, "n 4"], labels: Int[Tensor, " n"], scores: Float[Tensor, " n"], masks: Masks
    ) -> "Instances":
        """From a method that predicts no quality: the scores rank boxes and masks."""
        return cls(
            boxes=boxes, labels=labels, scores=scores, quality=torch.ones_like(scores), mask_scores=scores, masks=masks
        )

    @classmethod
    def none(cls, size: Size) -> "Instances":
        labels = torch.zeros(0, dtype=torch.int64)
        return cls.scored(boxes=torch.zeros(0, 4), labels=labels, scores=torch.zeros(0), masks=Masks.none(size))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, keep: Index) -> "Instances":
        return _choose(self, keep)

    def __iter__(self) -> Iterator["Instances"]:
        """One instance after another."""
        return (self[i] for i in range(len(self)))

    def to(self, device: torch.device | str) -> "Instances":
        return _map(self, lambda part: part.to(device))

    def ranked(self) -> "Instances":
        """Best first; equal ones keep their order."""
        return self[self.mask_scores.argsort(descending=True, stable=True)]


T = TypeVar("T", Targets, Instances)


def _per_instance(several: Targets | Instances) -> dict[str, Any]:
    return {f.name: getattr(several, f.name) for f in fields(several) if f.name != "parts"}


def _same_length(what: str, **parts: Any) -> None:
    lengths = {name: len(part) for name, part in parts.items() if part is not None}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"number of {what} differs: " + ", ".join(f"{k} {v}" for k, v in lengths.items()))


def _choose(several: T, keep: Index) -> T:
    which = positions(keep, len(several), device=several.labels.device)
    chosen = {k: None if v is None else v[which] for k, v in _per_instance(several).items()}
    if isinstance(several, Targets) and several.parts is not None:
        chosen["parts"] = several.parts.of(which, len(several))
    return type(several)(**chosen)


def _map(several: T, change: Callable[[Any], Any]) -> T:
    values = {f.name: getattr(several, f.name) for f in fields(several)}
    return type(several)(**{k: None if v is None else change(v) for k, v in values.items()})
