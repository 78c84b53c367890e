"""Copy-paste (Ghiasi et al. 2021): instances of another picture laid over this one, with true occlusion.

Legend: m instances that are pasted, k keypoints.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional

from maskwise.data import geometry
from maskwise.data.chance import happens, whole
from maskwise.data.sample import Sample
from maskwise.data.source import Source
from maskwise.data.transforms import Transform
from maskwise.masks import Masks
from maskwise.structures import Parts, Targets


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyPaste:
    """Paste some instances, but no crowds, of a random sample of `source`."""

    source: Source
    prepare: Transform | None = None
    """What is done to the other sample first, such as scale jitter."""
    probability: float = 0.5
    most: int | None = None
    """Instances at a time; None: up to all of them."""
    least_left: float = 0.05
    """Instances below of which less than this share stays visible are dropped."""

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1 or not 0 <= self.least_left <= 1 or (self.most is not None and self.most < 1):
            raise ValueError(
                "expected shares from 0 to 1 and at least one instance at a time, got "
                f"probability {self.probability}, least_left {self.least_left}, most {self.most}"
            )

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        if not happens(generator, self.probability):
            return sample
        other = self.source[whole(generator, 0, len(self.source) - 1)]
        if self.prepare is not None:
            other = self.prepare(other, generator)
        candidates = torch.where(~other.targets.crowd)[0]
        if not len(candidates):
            return sample
        count = whole(generator, 1, min(self.most or len(candidates), len(candidates)))
        chosen = candidates[torch.randperm(len(candidates), generator=generator)[:count]]
        return paste(sample, other, chosen, least_left=self.least_left)


def paste(sample: Sample, other: Sample, chosen: Int[Tensor, " m"], *, least_left: float = 0.0) -> Sample:
    """With the chosen instances of `other` on top, where they are in their own picture, and cut at the frame.

    Masks below lose what is covered; keypoints below that were seen are hidden now. `sample` decides which optional
    fields there are: what `other` lacks of them is made up for (areas of masks, keypoints not labelled, no parts).
    """
    if other.targets.crowd[chosen].any():
        raise ValueError(f"{other.name}: a crowd cannot be pasted, it is several objects not told apart")
    top = geometry.crop(replace(other, targets=other.targets[chosen]), 0, 0, sample.size)
    cover = top.targets.masks.label_map() > 0
    like = functional.to_dtype(top.pixels, sample.pixels.dtype, scale=True)
    pixels = torch.where(torch.from_numpy(cover), like, sample.pixels)
    below = replace(sample, pixels=pixels, targets=_covered(sample.targets, cover))
    below = geometry.shrunk(sample, below, least_left=least_left, doing="pasting")
    return replace(below, targets=_joined(below.targets, top.targets))


def _covered(targets: Targets, cover: Bool[np.ndarray, "H W"]) -> Targets:
    targets = geometry.with_masks(targets, lambda masks: masks.subtract(cover))
    if targets.keypoints is None:
        return targets
    at = targets.keypoints[..., :2].long()
    limits = at.new_tensor([cover.shape[1] - 1, cover.shape[0] - 1])
    x, y = at.clamp(min=0).minimum(limits).unbind(-1)
    keypoints = targets.keypoints.clone()
    keypoints[..., 2][torch.from_numpy(cover)[y, x] & (keypoints[..., 2] == 2)] = 1
    return replace(targets, keypoints=keypoints)


def _joined(below: Targets, top: Targets) -> Targets:
    return Targets(
        boxes=torch.cat([below.boxes, top.boxes]),
        labels=torch.cat([below.labels, top.labels]),
        masks=Masks.cat([below.masks, top.masks]),
        crowd=torch.cat([below.crowd, top.crowd]),
        areas=None if below.areas is None else torch.cat([below.areas, _areas(top)]),
        keypoints=None if below.keypoints is None else _joined_keypoints(below.keypoints, top),
        depth=None if below.depth is None else _joined_depth(below.depth, top),
        tracks=None if below.tracks is None else _joined_tracks(below.tracks, len(top)),
        parts=None if below.parts is None else _joined_parts(below.parts, top.parts, len(below)),
    )


def _areas(targets: Targets) -> Float[Tensor, " m"]:
    return targets.masks.area().to(torch.float32) if targets.areas is None else targets.areas


def _joined_keypoints(below: Float[Tensor, "n k 3"], top: Targets) -> Float[Tensor, "nm k 3"]:
    new = below.new_zeros(len(top), *below.shape[1:]) if top.keypoints is None else top.keypoints
    if new.shape[1] != below.shape[1]:
        raise ValueError(f"instances with {new.shape[1]} keypoints cannot join instances with {below.shape[1]}")
    return torch.cat([below, new])


def _joined_depth(below: Int[Tensor, " n"], top: Targets) -> Int[Tensor, " nm"]:
    """What is pasted is nearer than everything that was there."""
    new = torch.arange(len(top)) if top.depth is None else top.depth
    return torch.cat([below + (int(new.max()) + 1 if len(new) else 0), new])


def _joined_tracks(below: Int[Tensor, " n"], count: int) -> Int[Tensor, " nm"]:
    """Numbers that are free: the tracks of another clip are other objects."""
    first = int(below.max()) + 1 if len(below) else 0
    return torch.cat([below, first + torch.arange(count)])


def _joined_parts(below: Parts, top: Parts | None, first: int) -> Parts:
    if top is None:
        return below
    return Parts(
        masks=Masks.cat([below.masks, top.masks]),
        labels=torch.cat([below.labels, top.labels]),
        owner=torch.cat([below.owner, top.owner + first]),
    )
