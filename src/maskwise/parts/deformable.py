"""Deformable convolution (Dai et al., 2017), and how it takes the place of ordinary ones in a backbone.

All groups of a grouped convolution move together.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import deform_conv2d


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
        with torch.autocast(x.device.type, enabled=False):  # of which a CPU has no half
            moved = deform_conv2d(x.float(), offset.float(), self.weight.float(), bias, **self.geometry)
        return moved.to(offset.dtype)


def deform(stages: Iterable[nn.Module]) -> None:
    """Replace every 3x3 convolution of some stages, but those of each channel for itself. Each stage must have one."""
    for stage in stages:
        places = [
            (module, name, child)
            for module in stage.modules()
            for name, child in module.named_children()
            if isinstance(child, nn.Conv2d) and child.kernel_size == (3, 3) and child.groups < child.in_channels
        ]
        if not places:
            raise ValueError("deformable: a stage of this backbone has no 3x3 convolution that could be")
        for module, name, child in places:
            setattr(module, name, DeformableConvolution(child))
