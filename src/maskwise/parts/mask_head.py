"""Heads of Mask R-CNN that draw: in each region, for each class, which cells are the object. And how good that is: the
head of Mask Scoring R-CNN (Huang et al., 2019) predicts the IoU of a mask with its object.

Legend: n regions, c classes, m cells along a side of a small mask.
"""

from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from maskwise import boxes
from maskwise.parts import norms
from maskwise.parts.convention import Convention
from maskwise.parts.norms import Norm
from maskwise.parts.roi import Regions
from maskwise.structures import Targets


class ConvolutionalMaskHead(nn.Module):
    """Four convolutions, one that doubles the side, one logit a class and cell."""

    def __init__(
        self, channels: int, outputs: int, *, width: int = 256, convolutions: int = 4, norm: Norm | None = None
    ):
        super().__init__()
        self.convolutions = nn.Sequential(*norms.stack(channels, convolutions, width=width, norm=norm))
        self.enlarge = nn.ConvTranspose2d(width if convolutions else channels, width, 2, stride=2)
        self.predict = nn.Conv2d(width, outputs, 1)
        for layer in (self.enlarge, self.predict):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.get_parameter("bias"))
        if outputs == 1:  # the wide start diverges where one map serves all classes
            nn.init.normal_(self.predict.weight, std=0.001)

    def forward(self, features: Float[Tensor, "n d s s"]) -> Float[Tensor, "n c m m"]:
        return self.predict(self.enlarge(self.convolutions(features)).relu())


class LinearMaskHead(nn.Module):
    """The ablation of Table 2e: hidden layers that see the whole region, and one more that draws."""

    def __init__(self, channels: int, outputs: int, *, size: int = 14, layers: int = 2, hidden: int = 1024):
        super().__init__()
        widths = [channels * size**2] + [hidden] * layers
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.predict = nn.Linear(widths[-1], outputs * (2 * size) ** 2)
        self.shape = (outputs, 2 * size, 2 * size)

    def forward(self, features: Float[Tensor, "n d s s"]) -> Float[Tensor, "n c m m"]:
        x = features.flatten(1)
        for layer in self.hidden:
            x = layer(x).relu()
        return self.predict(x).unflatten(1, self.shape)


@torch.no_grad()
def masks_of(
    regions: list[Regions], targets: list[Targets], *, cells: int, convention: Convention
) -> Float[Tensor, "n m m"]:
    """What the positives' objects show inside the regions: shares of cells, or at least half of them."""
    parts = []
    for r, t in zip(regions, targets, strict=True):
        region = boxes.to_inclusive(r.positive) if convention.inclusive else r.positive
        parts.append(t.masks.sample(region + convention.target_shift, r.matched, cells))
    shares = torch.cat(parts)
    return shares if convention.soft_targets else (shares >= 0.5).to(shares.dtype)


def own(values: Float[Tensor, "n c *rest"], labels: Tensor) -> Float[Tensor, "n *rest"]:
    """The part for the class of each instance of what was predicted for every class."""
    return values[torch.arange(len(labels), device=labels.device), labels]


# --- how good a mask is


class MaskIoUHead(nn.Module):
    """Four convolutions, the last `halvings` of them with stride 2, and three layers; a raw number a class."""

    def __init__(
        self, channels: int, classes: int, *, width: int = 256, size: int = 14, halvings: int = 1, hidden: int = 1024
    ):
        super().__init__()
        strides = [1] * (4 - halvings) + [2] * halvings
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width if i else channels, width, 3, stride=stride, padding=1) for i, stride in enumerate(strides)
        )
        self.layers = nn.ModuleList(
            [nn.Linear(width * (-(-size // 2**halvings)) ** 2, hidden), nn.Linear(hidden, hidden)]
        )
        self.predict = nn.Linear(hidden, classes)
        self._start()

    def forward(self, x: Float[Tensor, "n d s s"]) -> Float[Tensor, "n c"]:
        for layer in self.convolutions:
            x = layer(x).relu()
        x = x.flatten(1)
        for layer in self.layers:
            x = layer(x).relu()
        return self.predict(x)

    def _start(self) -> None:
        for layer in self.convolutions:
            nn.init.kaiming_normal_(layer.get_parameter("weight"), mode="fan_out", nonlinearity="relu")
        for layer in self.layers:
            nn.init.kaiming_uniform_(layer.get_parameter("weight"), a=1)
        nn.init.normal_(self.predict.weight, std=0.01)
        for layer in (*self.convolutions, *self.layers, self.predict):
            nn.init.zeros_(layer.get_parameter("bias"))


@torch.no_grad()
def share_inside(regions: list[Regions], targets: list[Targets]) -> Float[Tensor, " n"]:
    """Which share of its object each positive region holds, in pixels of the picture."""
    shares = []
    for r, t in zip(regions, targets, strict=True):
        whole = t.masks.area_inside(t.masks.windows[r.matched].to(r.boxes.dtype), r.matched)
        shares.append(t.masks.area_inside(r.positive, r.matched) / whole.clamp(min=1))
    return torch.cat(shares)


@torch.no_grad()
def mask_iou(
    drawn: Bool[Tensor, "n m m"], wanted: Bool[Tensor, "n m m"], share: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """IoU of a mask, which ends at its region, with an object of which the region holds only a share.

    The part of the object outside counts against the mask: its area in cells is what lies inside, over the share.
    """
    area = wanted.flatten(1).sum(1) / share.clamp(min=1e-10)
    shared = (drawn & wanted).flatten(1).sum(1)
    union = drawn.flatten(1).sum(1) + area - shared
    return shared / union.clamp(min=1)


def mask_iou_loss(
    predicted: Float[Tensor, " n"], wanted: Float[Tensor, " n"], *, above: float = 0.0
) -> Float[Tensor, ""]:
    """Half the squared error over masks that are better than `above`; those that miss their object teach nothing."""
    keep = wanted > above
    error = 0.5 * (predicted[keep] - wanted[keep]) ** 2
    return error.sum() / keep.sum().clamp(min=1) + predicted.sum() * 0
