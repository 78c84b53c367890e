"""Boxes: pure geometry on absolute xyxy boxes in continuous coordinates (width is x1 - x0).

The oldest checkpoints count pixels inclusively (width x1 - x0 + 1). `to_inclusive` and `to_continuous` translate where
such a model begins and ends, so that nothing in between has two rules. Legend: n, k boxes.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchvision import ops

MOST_GROWTH = math.log(1000 / 16)
"""A predicted box is at most this much (as a logarithm) larger than its reference: exp must not overflow."""

WEIGHTS = (1.0, 1.0, 1.0, 1.0)


def encode(
    boxes: Float[Tensor, "n 4"], references: Float[Tensor, "n 4"], weights: Sequence[float] = WEIGHTS
) -> Float[Tensor, "n 4"]:
    """Offsets that turn `references` into `boxes` (Faster R-CNN, eq. 2)."""
    centre, side = centres(boxes), sides(boxes)
    centre_ref, side_ref = centres(references), sides(references)
    return torch.cat([(centre - centre_ref) / side_ref, (side / side_ref).log()], 1) * boxes.new_tensor(weights)


def decode(
    offsets: Float[Tensor, "n 4"], references: Float[Tensor, "n 4"], weights: Sequence[float] = WEIGHTS
) -> Float[Tensor, "n 4"]:
    """Inverse of `encode`."""
    offsets = offsets / offsets.new_tensor(weights)
    centre = offsets[:, :2] * sides(references) + centres(references)
    half = offsets[:, 2:].clamp(max=MOST_GROWTH).exp() * sides(references) / 2
    return torch.cat([centre - half, centre + half], 1)


def sides(boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 2"]:
    """Width and height."""
    return boxes[:, 2:] - boxes[:, :2]


def centres(boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 2"]:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def area(boxes: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
    return sides(boxes).prod(1)


def iou(boxes: Float[Tensor, "n 4"], others: Float[Tensor, "k 4"]) -> Float[Tensor, "n k"]:
    """Intersection over union; zero for two boxes without area."""
    shared = intersection(boxes, others)
    union = area(boxes)[:, None] + area(others) - shared
    return torch.where(union > 0, shared / union, 0)


def intersection(boxes: Float[Tensor, "n 4"], others: Float[Tensor, "k 4"]) -> Float[Tensor, "n k"]:
    low = torch.maximum(boxes[:, None, :2], others[:, :2])
    high = torch.minimum(boxes[:, None, 2:], others[:, 2:])
    return (high - low).clamp(min=0).prod(2)


def clip(boxes: Float[Tensor, "n 4"], size: tuple[int, int]) -> Float[Tensor, "n 4"]:
    """Into a picture of (height, width)."""
    return ops.clip_boxes_to_image(boxes, size)


def scale(boxes: Float[Tensor, "n 4"], *, x: float, y: float) -> Float[Tensor, "n 4"]:
    return boxes * boxes.new_tensor([x, y, x, y])


def at_least(boxes: Float[Tensor, "n 4"], side: float) -> Bool[Tensor, " n"]:
    """Which boxes are wider and higher than `side`."""
    return (sides(boxes) > side).all(1)


def flip_horizontal(boxes: Float[Tensor, "n 4"], width: float) -> Float[Tensor, "n 4"]:
    return torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)


def flip_vertical(boxes: Float[Tensor, "n 4"], height: float) -> Float[Tensor, "n 4"]:
    return torch.stack([boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]], 1)


def to_inclusive(boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
    """To the first and the last pixel of the legacy convention."""
    return boxes - boxes.new_tensor([0, 0, 1, 1])


def to_continuous(boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
    """From the first and the last pixel of the legacy convention."""
    return boxes + boxes.new_tensor([0, 0, 1, 1])
