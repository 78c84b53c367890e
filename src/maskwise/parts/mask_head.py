"""The mask head of Mask R-CNN: in each region, for each class, which cells are the object.

Legend: n regions, c classes, m cells along a side of a small mask.
"""

from itertools import pairwise

import torch
from jaxtyping import Float
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
    """The ablation of Table 2e: hidden layers that see the whole region, and one that draws."""

    def __init__(self, channels: int, outputs: int, *, size: int = 14, layers: int = 2, hidden: int = 1024):
        super().__init__()
        widths = [channels * size**2] + [hidden] * (layers - 1)
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
    several = []
    for r, t in zip(regions, targets, strict=True):
        region = boxes.to_inclusive(r.positive) if convention.inclusive else r.positive
        several.append(t.masks.sample(region + convention.target_shift, r.matched, cells))
    shares = torch.cat(several)
    return shares if convention.soft_targets else (shares >= 0.5).to(shares.dtype)
