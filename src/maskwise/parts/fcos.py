"""FCOS (Tian et al., 2019): each location of each level says of which class the object is in whose middle it lies, how
far that object's four sides are, and how near its middle is. No anchors, no regions.

Legend: b pictures, n locations of all levels together, c classes, p positive locations, k objects. Distances are to the
left, upper, right and lower side, in strides of the location's level.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from torchvision.ops import batched_nms, generalized_box_iou_loss, sigmoid_focal_loss

from maskwise import boxes
from maskwise.parts import norms
from maskwise.parts.matching import BACKGROUND
from maskwise.rle import Size
from maskwise.structures import Losses, Targets

PRIOR = 0.01
"""Probability of each class that a new network gives to each location: nearly all are background."""
ALPHA, GAMMA = 0.25, 2.0
"""Weight of what is there, and focus on what is hard, in the focal loss."""
PAIRS_AT_ONCE = 1 << 21
"""Pairs of a location and an object that are looked at together, at most."""


# --- the network


def tower(channels: int, convolutions: int) -> nn.Sequential:
    """Convolutions with group norm and ReLU; they keep their biases."""
    layers: list[nn.Module] = []
    for _ in range(convolutions):
        layers += [prediction(channels, channels), norms.group_norm(channels), nn.ReLU()]
    return nn.Sequential(*layers)


def prediction(channels: int, outputs: int, *, bias: float = 0.0) -> nn.Conv2d:
    """A 3x3 convolution that says nearly `bias` at first."""
    layer = nn.Conv2d(channels, outputs, 3, padding=1)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.constant_(layer.get_parameter("bias"), bias)
    return layer


class HeadOutputs(NamedTuple):
    """What the head says at each location."""

    logits: Float[Tensor, "b n c"]
    distances: Float[Tensor, "b n 4"]
    centre: Float[Tensor, "b n"]
    """Logits of how near the middle is."""
    towers: list[Float[Tensor, "b d _ _"]]
    """The maps that distances are read from on each level, for methods that read more from them."""


class Head(nn.Module):
    """Two towers, the same for all levels: one for what it is, one for where it is. Each level has its own scale."""

    def __init__(self, channels: int, classes: int, *, levels: int, convolutions: int = 4):
        super().__init__()
        self.class_tower, self.box_tower = tower(channels, convolutions), tower(channels, convolutions)
        self.score = prediction(channels, classes, bias=math.log(PRIOR / (1 - PRIOR)))
        self.distance, self.centre = prediction(channels, 4), prediction(channels, 1)
        self.scales = nn.Parameter(torch.ones(levels))

    def forward(self, levels: list[Float[Tensor, "b d _ _"]]) -> HeadOutputs:
        towers = [self.box_tower(x) for x in levels]
        distances = [(s * self.distance(x)).relu() for s, x in zip(self.scales, towers, strict=True)]
        return HeadOutputs(
            flat([self.score(self.class_tower(x)) for x in levels]),
            flat(distances),
            flat([self.centre(x) for x in towers])[..., 0],
            towers,
        )


def flat(maps: list[Float[Tensor, "b m _ _"]]) -> Float[Tensor, "b n m"]:
    """Locations one after the other, level by level, row by row; in float32, as sums over all of them are made."""
    return torch.cat([x.flatten(2).mT for x in maps], 1).float()


# --- locations


class Locations(NamedTuple):
    """The middles of the cells of all levels."""

    points: Float[Tensor, "n 2"]
    """x and y in the picture."""
    strides: Float[Tensor, " n"]
    least: Float[Tensor, " n"]
    """The farthest side of an object that is found here is at least so far, in pixels ..."""
    most: Float[Tensor, " n"]
    """... and at most."""
    counts: tuple[int, ...]
    """How many there are of each level."""


def locations(levels: Sequence[Float[Tensor, "b _ _ _"]], strides: Sequence[int], limits: Sequence[float]) -> Locations:
    """All cells of some maps. `limits`: the farthest side of objects on each level but the last, in pixels."""
    device = levels[0].device
    points = [
        middles((x.shape[2], x.shape[3]), stride, device=device).flatten(0, 1)
        for x, stride in zip(levels, strides, strict=True)
    ]
    counts = tuple(len(p) for p in points)

    def each(values: Sequence[float]) -> Float[Tensor, " n"]:
        of_levels = torch.tensor(values, dtype=torch.float32, device=device)
        return of_levels.repeat_interleave(torch.tensor(counts, device=device))

    return Locations(torch.cat(points), each(strides), each([-1, *limits]), each([*limits, math.inf]), counts)


def middles(shape: tuple[int, int], stride: float, *, device: torch.device) -> Float[Tensor, "h w 2"]:
    """x and y of the middle of each cell of a map."""
    y, x = ((torch.arange(n, device=device) + 0.5) * stride for n in shape)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def decode(at: Locations, places: Int[Tensor, " p"], distances: Float[Tensor, "p 4"]) -> Float[Tensor, "p 4"]:
    """Boxes from distances at some locations."""
    point, far = at.points[places], distances * at.strides[places, None]
    return torch.cat([point - far[:, :2], point + far[:, 2:]], 1)


def encode(at: Locations, places: Int[Tensor, " p"], objects: Float[Tensor, "p 4"]) -> Float[Tensor, "p 4"]:
    """Inverse of `decode`."""
    point = at.points[places]
    return torch.cat([point - objects[:, :2], objects[:, 2:] - point], 1) / at.strides[places, None]


# --- who learns what


@torch.no_grad()
def assign(at: Locations, targets: Targets, *, radius: float = 1.5, inside_mask: bool = False) -> Int[Tensor, " n"]:
    """The object that each location is to find, or BACKGROUND.

    It lies in the object's box, at most `radius` strides from its middle in x and in y, and is on the level of its
    size; of several objects it finds the one with the smallest box. inside_mask: it lies on the object, too.
    """
    order = boxes.area(targets.boxes).argsort(stable=True)
    nobody = len(order)
    best = torch.full_like(at.strides, nobody, dtype=torch.int64)
    step = max(1, PAIRS_AT_ONCE // max(len(best), 1))
    for ranks in torch.arange(nobody, device=order.device).split(step) if nobody else ():
        fits = _candidates(at, targets.boxes[order[ranks]], radius)
        if inside_mask:
            place, rank = torch.where(fits)
            fits[place, rank] = targets.masks.at(at.points[place], order[ranks[rank]])
        best = torch.minimum(best, torch.where(fits, ranks, nobody).amin(1))
    return torch.cat([order, order.new_tensor([BACKGROUND])])[best]


def _candidates(at: Locations, objects: Float[Tensor, "k 4"], radius: float) -> Bool[Tensor, "n k"]:
    """Which locations each object might be found at."""
    point, reach = at.points[:, None], radius * at.strides[:, None, None]
    before, behind = point - objects[:, :2], objects[:, 2:] - point
    off = (point - boxes.centres(objects)).abs()
    inside = ((before > 0) & (behind > 0) & (off < reach)).all(2)
    farthest = torch.maximum(before, behind).amax(2)
    return inside & (farthest >= at.least[:, None]) & (farthest <= at.most[:, None])


def centreness(distances: Float[Tensor, "p 4"]) -> Float[Tensor, " p"]:
    """1 in the middle, 0 at the sides: the root of left over right and of upper over lower, the shorter one first."""
    near = torch.minimum(distances[:, :2], distances[:, 2:])
    far = torch.maximum(distances[:, :2], distances[:, 2:])
    return (near / far).prod(1).sqrt()


def loss(outputs: HeadOutputs, at: Locations, owners: list[Int[Tensor, " n"]], targets: list[Targets]) -> Losses:
    """Focal loss of classes, GIoU of boxes weighted by how near the middle is, and entropy of that.

    Over the positive locations, or their weights, as many as there are on average in all processes.
    """
    owner = torch.stack(owners)
    positive = owner >= 0
    labels, wanted = wanted_of(at, owners, targets)
    truth = torch.zeros_like(outputs.logits)
    truth[(*torch.where(positive), labels)] = 1
    near = centreness(wanted)
    count, weight = mean_of_processes(torch.stack([near.new_tensor(len(near)), near.sum()])).unbind()
    focal = sigmoid_focal_loss(outputs.logits, truth, alpha=ALPHA, gamma=GAMMA, reduction="sum")
    apart = generalized_box_iou_loss(_around(outputs.distances[positive]), _around(wanted))
    entropy = F.binary_cross_entropy_with_logits(outputs.centre[positive], near, reduction="sum")
    count = count.clamp(min=1)
    return {
        "class": focal / count,
        "box": (near * apart).sum() / weight.clamp(min=1e-6),
        "centreness": entropy / count,
    }


def wanted_of(
    at: Locations, owners: list[Int[Tensor, " n"]], targets: list[Targets]
) -> tuple[Int[Tensor, " p"], Float[Tensor, "p 4"]]:
    """Labels and distances at the positive locations, picture by picture."""
    labels, distances = [], []
    for owner, target in zip(owners, targets, strict=True):
        places = torch.where(owner >= 0)[0]
        labels.append(target.labels[owner[places]])
        distances.append(encode(at, places, target.boxes[owner[places]]))
    return torch.cat(labels), torch.cat(distances)


def _around(distances: Float[Tensor, "p 4"]) -> Float[Tensor, "p 4"]:
    """Boxes around the origin."""
    return torch.cat([-distances[:, :2], distances[:, 2:]], 1)


def mean_of_processes(values: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Mean over the processes that learn together.

    Where nothing is learned, which one process may do alone, the values themselves.
    """
    if not (torch.is_grad_enabled() and dist.is_available() and dist.is_initialized()):
        return values
    together = values.clone()
    dist.all_reduce(together)
    return together / dist.get_world_size()


@torch.no_grad()
def best_places(
    distances: Float[Tensor, "n 4"], at: Locations, owner: Int[Tensor, " n"], targets: Targets
) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"]]:
    """Objects that are found at all, and of each the location whose box overlaps it most; of equal ones the first."""
    places = torch.where(owner >= 0)[0]
    wanted = encode(at, places, targets.boxes[owner[places]])
    order = overlap(distances[places], wanted).argsort(descending=True, stable=True)
    order = order[owner[places[order]].argsort(stable=True)]
    objects, counts = torch.unique_consecutive(owner[places[order]], return_counts=True)
    return objects, places[order[counts.cumsum(0) - counts]]


def overlap(distances: Float[Tensor, "p 4"], others: Float[Tensor, "p 4"]) -> Float[Tensor, " p"]:
    """IoU of the boxes with these distances to their sides from the same point in both."""
    shared = torch.minimum(distances, others)
    areas = [(x[:, :2] + x[:, 2:]).prod(1) for x in (shared, distances, others)]
    return areas[0] / (areas[1] + areas[2] - areas[0]).clamp(min=1e-9)


# --- what is found


class Detections(NamedTuple):
    """Boxes of one picture inside the padding, best first."""

    boxes: Float[Tensor, "m 4"]
    labels: Int[Tensor, " m"]
    scores: Float[Tensor, " m"]
    """Probability of the class times how near the middle is."""
    places: Int[Tensor, " m"]
    """Locations that found them."""


@torch.no_grad()
def detect(
    outputs: HeadOutputs,
    at: Locations,
    sizes: Sequence[Size],
    *,
    min_score: float,
    per_level: int,
    nms_iou: float,
    most: int,
) -> list[Detections]:
    """The best locations of each level, of those where a class is more probable than `min_score`, without boxes that
    overlap a better one of their class."""
    detections = []
    for i, size in enumerate(sizes):
        places, labels, scores = _best_of_levels(outputs, at, i, min_score=min_score, per_level=per_level)
        box = boxes.clip(decode(at, places, outputs.distances[i, places]), size)
        large = torch.where(boxes.at_least(box, 0))[0]
        keep = large[batched_nms(box[large], scores[large], labels[large], nms_iou)[:most]]
        detections.append(Detections(box[keep], labels[keep], scores[keep], places[keep]))
    return detections


def _best_of_levels(
    outputs: HeadOutputs, at: Locations, i: int, *, min_score: float, per_level: int
) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"], Float[Tensor, " m"]]:
    """Locations, classes and scores in picture i."""
    probable, near = outputs.logits[i].sigmoid(), outputs.centre[i].sigmoid()
    places, labels = torch.where(probable > min_score)
    scores = probable[places, labels] * near[places]
    ends = torch.tensor(at.counts, device=places.device).cumsum(0)
    level = torch.bucketize(places, ends, right=True)
    keep = []
    for one in range(len(at.counts)):
        here = torch.where(level == one)[0]
        keep.append(here[scores[here].topk(min(per_level, len(here))).indices])
    which = torch.cat(keep)
    return places[which], labels[which], scores[which]
