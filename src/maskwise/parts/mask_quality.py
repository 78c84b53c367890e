"""How good a mask is: a head that predicts the IoU of a mask with its object, and what it learns from.

Of Mask Scoring R-CNN (Huang et al., 2019); others have taken it over.
Legend: n regions, c classes, m cells along a side of a small mask.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from maskwise.parts.roi import Regions
from maskwise.structures import Targets


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


def loss(found: Float[Tensor, " n"], wanted: Float[Tensor, " n"], *, above: float = 0.0) -> Float[Tensor, ""]:
    """Half the squared error over masks that are better than `above`; those that miss their object teach nothing."""
    keep = wanted > above
    error = 0.5 * (found[keep] - wanted[keep]) ** 2
    return error.sum() / keep.sum().clamp(min=1) + found.sum() * 0
