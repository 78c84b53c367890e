"""Moving a sample: pixels, masks, boxes, areas, keypoints and parts all follow. No chance here; see `transforms`.

Coordinates are continuous, so a mirror takes x to width - x. Masks follow by nearest centre, and boxes are made anew
from them, tight. An instance without pixels is dropped and counted in `Sample.lost`. Legend: n instances, k keypoints.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.v2 import functional

from maskwise.data.sample import Pixels, Sample
from maskwise.masks import Masks
from maskwise.rle import Size
from maskwise.structures import Parts, Targets

Points = Float[Tensor, "n k 2"]


def resize(sample: Sample, size: Size) -> Sample:
    """To `size`, height and width: pixels bilinear with antialiasing."""
    (h, w), (new_h, new_w) = sample.size, size
    x, y = new_w / w, new_h / h
    moved = _moved(
        sample,
        _resized(sample.pixels, size),
        masks=lambda masks: masks.resize(size),
        points=lambda points: points * points.new_tensor([x, y]),
        scale=(sample.scale[0] * x, sample.scale[1] * y),
    )
    return dropping_empty(_with_areas(moved, x * y), "without pixels after resizing")


def _resized(pixels: Pixels, size: Size) -> Pixels:
    if pixels.dtype != torch.uint8 or pixels.shape[-1] > 1:
        return functional.resize(pixels, list(size), antialias=True)
    # torch's resizing of bytes reads beyond pictures of one column: the result is another each time
    exact = functional.resize(pixels.float(), list(size), antialias=True)
    return exact.round().clamp(0, 255).to(torch.uint8)


def crop(sample: Sample, x0: int, y0: int, size: Size, *, least_left: float = 0.0, fill: float = 0.5) -> Sample:
    """What a frame of `size` shows whose corner lies at (x0, y0); where it leaves the picture it is grey (`fill`).

    Instances of which less than the share `least_left` stays are dropped, crowds only when nothing stays: they mark
    what nobody shall learn from. Keypoints that leave are no longer labelled.
    """
    moved = _moved(
        sample,
        _framed(sample.pixels, x0, y0, size, fill),
        masks=lambda masks: masks.crop(x0, y0, size),
        points=lambda points: points - points.new_tensor([x0, y0]),
        scale=sample.scale,
    )
    return shrunk(sample, _within(moved), least_left=least_left, doing="cropping")


def flip_horizontal(sample: Sample, *, keypoints: Sequence[int] = (), parts: Sequence[int] = ()) -> Sample:
    """Left and right change places.

    `keypoints` says which keypoint each becomes, `parts` the same of part labels (none given: labels stay).
    """
    width = sample.size[1]
    moved = _moved(
        sample,
        functional.horizontal_flip(sample.pixels),
        masks=Masks.flip_horizontal,
        points=lambda points: torch.stack([width - points[..., 0], points[..., 1]], -1),
        scale=sample.scale,
    )
    return _mirrored(moved, keypoints, parts)


def flip_vertical(sample: Sample, *, keypoints: Sequence[int] = (), parts: Sequence[int] = ()) -> Sample:
    """Top and bottom change places. A mirror too, so that a left hand becomes a right one."""
    height = sample.size[0]
    moved = _moved(
        sample,
        functional.vertical_flip(sample.pixels),
        masks=Masks.flip_vertical,
        points=lambda points: torch.stack([points[..., 0], height - points[..., 1]], -1),
        scale=sample.scale,
    )
    return _mirrored(moved, keypoints, parts)


def rotate(sample: Sample, quarters: int) -> Sample:
    """By right angles, anticlockwise as `torch.rot90`."""
    for _ in range(quarters % 4):
        sample = _quarter(sample)
    return sample


def _quarter(sample: Sample) -> Sample:
    width = sample.size[1]
    return _moved(
        sample,
        sample.pixels.rot90(1, (1, 2)).contiguous(),
        masks=lambda masks: masks.rotate(1),
        points=lambda points: torch.stack([points[..., 1], width - points[..., 0]], -1),
        scale=(sample.scale[1], sample.scale[0]),
    )


# What becomes of the instances


def shrunk(before: Sample, after: Sample, *, least_left: float, doing: str) -> Sample:
    """After pixels were taken from instances: areas follow, and those that have too little left are dropped."""
    old, new = before.targets.masks.area(), after.targets.masks.area()
    left = new / old.clamp(min=1)
    after = dropping_empty_parts(_with_areas(after, left))
    enough = (new > 0) & ((left >= least_left) | after.targets.crowd)
    gone, few = int((new == 0).sum()), int(((new > 0) & ~enough).sum())
    kept = replace(after, targets=after.targets[enough])
    return kept.losing(f"without pixels after {doing}", gone).losing(f"with too little left after {doing}", few)


def dropping_empty(sample: Sample, reason: str) -> Sample:
    has_pixels = sample.targets.masks.area() > 0
    kept = replace(sample, targets=sample.targets[has_pixels])
    return dropping_empty_parts(kept).losing(reason, int((~has_pixels).sum()))


def dropping_empty_parts(sample: Sample) -> Sample:
    """Without parts that have no pixels; their instances stay."""
    parts = sample.targets.parts
    if parts is None:
        return sample
    seen = parts.masks.area() > 0
    left = Parts(masks=parts.masks[seen], labels=parts.labels[seen], owner=parts.owner[seen])
    return replace(sample, targets=replace(sample.targets, parts=left))


def with_masks(targets: Targets, change: Callable[[Masks], Masks]) -> Targets:
    """With other masks of the instances and of their parts, and tight boxes."""
    masks, parts = change(targets.masks).tight(), targets.parts
    if parts is not None:
        parts = replace(parts, masks=change(parts.masks).tight())
    return replace(targets, masks=masks, boxes=masks.windows.to(torch.float32), parts=parts)


def _moved(
    sample: Sample,
    pixels: Pixels,
    *,
    masks: Callable[[Masks], Masks],
    points: Callable[[Points], Points],
    scale: tuple[float, float],
) -> Sample:
    """Everything that has a place in the picture, moved; no instance is dropped."""
    targets = with_masks(sample.targets, masks)
    if targets.keypoints is not None:
        at, state = targets.keypoints[..., :2], targets.keypoints[..., 2:]
        at = torch.where(state > 0, points(at), at)  # files give (0, 0) to points that are not labelled
        targets = replace(targets, keypoints=torch.cat([at, state], -1))
    return replace(sample, pixels=pixels, targets=targets, scale=scale)


def _mirrored(sample: Sample, keypoints: Sequence[int], parts: Sequence[int]) -> Sample:
    targets = sample.targets
    if targets.keypoints is not None:
        if len(keypoints) != (needed := targets.keypoints.shape[1]):
            raise ValueError(
                f"{sample.name}: a mirror must be told what each of {needed} keypoints becomes, got {len(keypoints)} "
                f"(Categories.keypoint_flip; where each stays what it is: range({needed}))"
            )
        targets = replace(targets, keypoints=targets.keypoints[:, list(keypoints)])
    if targets.parts is not None and parts and len(labels := targets.parts.labels):
        if len(parts) <= (most := int(labels.max())):
            raise ValueError(f"{sample.name}: a part has the label {most}, the mirror knows {len(parts)} labels")
        targets = replace(targets, parts=replace(targets.parts, labels=labels.new_tensor(parts)[labels]))
    return replace(sample, targets=targets)


def _within(sample: Sample) -> Sample:
    """Without keypoints that lie outside of the picture."""
    keypoints = sample.targets.keypoints
    if keypoints is None:
        return sample
    (h, w), at = sample.size, keypoints[..., :2]
    inside = ((at >= 0) & (at <= at.new_tensor([w, h]))).all(-1, keepdim=True)
    return replace(sample, targets=replace(sample.targets, keypoints=torch.where(inside, keypoints, 0)))


def _with_areas(sample: Sample, factor: float | Float[Tensor, " n"]) -> Sample:
    areas = sample.targets.areas
    return sample if areas is None else replace(sample, targets=replace(sample.targets, areas=areas * factor))


def _framed(pixels: Pixels, x0: int, y0: int, size: Size, fill: float) -> Pixels:
    (h, w), (height, width) = size, pixels.shape[1:]
    grey = round(fill * 255) if pixels.dtype == torch.uint8 else fill
    out = pixels.new_full((3, h, w), grey)
    top, bottom, left, right = max(y0, 0), min(y0 + h, height), max(x0, 0), min(x0 + w, width)
    if top < bottom and left < right:
        out[:, top - y0 : bottom - y0, left - x0 : right - x0] = pixels[:, top:bottom, left:right]
    return out
