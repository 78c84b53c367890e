"""Deformable convolution (Dai et al., 2017), and how it takes the place of ordinary ones in a backbone.

All groups of a grouped convolution move together.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from maskwise.interpolation import at_points

Sides = tuple[int, int]


class DeformableConvolution(nn.Module):
    """A convolution whose taps are moved by what a second one predicts: not at all, to begin with."""

    def __init__(self, plain: nn.Conv2d):
        super().__init__()
        self.weight, self.bias = plain.weight, plain.bias
        self.geometry = {k: getattr(plain, k) for k in ("stride", "padding", "dilation")}
        self.offset = nn.Conv2d(plain.in_channels, 18, 3, **self.geometry)
        for parameter in self.offset.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        offset, bias = self.offset(x), None if self.bias is None else self.bias.float()
        convolve = by_reading if x.device.type == "cpu" else deform_conv2d
        with torch.autocast(x.device.type, enabled=False):  # there is no half-precision kernel on CPUs
            moved = convolve(x.float(), offset.float(), self.weight.float(), bias, **self.geometry)
        return moved.to(offset.dtype)


def by_reading(
    x: Float[Tensor, "b c h w"],
    offset: Float[Tensor, "b kk2 h2 w2"],
    weight: Float[Tensor, "d cg k k"],
    bias: Float[Tensor, " d"] | None,
    *,
    stride: Sides,
    padding: Sides,
    dilation: Sides,
) -> Float[Tensor, "b d h2 w2"]:
    """What torchvision's operator gives, which takes several times as long on a CPU.

    Where a point lies on the middle of a cell, as all do at first, its gradient is that of either side.
    """
    height, width = offset.shape[2:]
    groups, side = x.shape[1] // weight.shape[1], weight.shape[-1]
    taps, rows, columns = (torch.arange(n, device=x.device) for n in (side, height, width))
    plain_y = (taps * dilation[0])[:, None] + rows * stride[0] - padding[0]  # k h2
    plain_x = (taps * dilation[1])[:, None] + columns * stride[1] - padding[1]  # k w2
    dy, dx = offset.unflatten(1, (side, side, 2)).unbind(3)  # b k k h2 w2
    points = torch.stack((dx + plain_x[:, None], dy + plain_y[:, None, :, None]), -1)
    read = at_points(x, points.flatten(1, 3)).reshape(len(x), groups, weight[0].numel(), height * width)
    moved = (weight.reshape(groups, -1, read.shape[2]) @ read).reshape(len(x), len(weight), height, width)
    return moved if bias is None else moved + bias[:, None, None]


def deform(network: nn.Module, stages: Iterable[nn.Module]) -> None:
    """Replace every 3x3 convolution of some stages, except depthwise ones. Each stage must have one."""
    for stage in stages:
        inside = set(stage.modules())
        places = [
            (module, name, child)
            for module in network.modules()
            for name, child in module.named_children()
            if child in inside
            and isinstance(child, nn.Conv2d)
            and child.kernel_size == (3, 3)
            and child.groups < child.in_channels
        ]
        if not places:
            raise ValueError("deformable: a stage of this backbone has no 3x3 convolution that could be")
        for module, name, child in places:
            setattr(module, name, DeformableConvolution(child))
