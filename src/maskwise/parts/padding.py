"""Symmetric padding: beyond its border a map goes on as its own mirror image, the outermost row and column included.

Zeros beyond the border tell a convolution where it is. A network that is learned on crops and used on whole pictures
must not know.
"""

import torch
from jaxtyping import Float
from timm.layers import Conv2dSame
from torch import Tensor, nn

Margin = tuple[int, int, int, int]
"""Cells at the left, right, top and bottom."""


class SymmetricConv2d(nn.Conv2d):
    """A convolution that pads so; with the names and shapes of the weights of `nn.Conv2d`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, margin: Margin | None = None, **rest):
        super().__init__(inputs, outputs, kernel, **rest)
        self.margin = margin or (kernel // 2,) * 4

    def forward(self, input: Float[Tensor, "b c _ _"]) -> Float[Tensor, "b d _ _"]:
        return super().forward(mirrored(input, self.margin))


def mirrored(x: Float[Tensor, "*rest h w"], margin: Margin) -> Float[Tensor, "*rest _ _"]:
    """Put together from slices: that has the same gradient each time on a GPU too, unlike `F.pad`."""
    left, right, top, bottom = margin
    return _mirrored(_mirrored(x, left, right, -1), top, bottom, -2)


def _mirrored(x: Tensor, before: int, after: int, axis: int) -> Tensor:
    if not before and not after:
        return x
    length = x.shape[axis]
    assert max(before, after) <= length, f"{length} cells have no mirror image of {max(before, after)}"
    first, last = x.narrow(axis, 0, before).flip(axis), x.narrow(axis, length - after, after).flip(axis)
    return torch.cat([first, x, last], axis)


def replace(network: nn.Module) -> None:
    """Let every convolution pad so that pads at all. Pooling needs no change: the largest of a window and of what the
    mirror adds to it is the same."""
    for name, child in list(network.named_children()):
        if isinstance(child, nn.Conv2d) and any(margin := _margin(child)):
            setattr(network, name, _symmetric(child, margin))
        else:
            replace(child)


def _margin(conv: nn.Conv2d) -> Margin:
    """TensorFlow's networks pad less at the left than at the right where a convolution strides."""
    if isinstance(conv, Conv2dSame):
        sides = zip(conv.kernel_size, conv.dilation, conv.stride, strict=True)
        down, across = (max((k - 1) * d + 1 - s, 0) for k, d, s in sides)
        return across // 2, across - across // 2, down // 2, down - down // 2
    assert not isinstance(conv.padding, str)
    down, across = conv.padding
    return across, across, down, down


def _symmetric(old: nn.Conv2d, margin: Margin) -> SymmetricConv2d:
    kernel, other = old.kernel_size
    assert kernel == other, "only squares are convolved with"
    new = SymmetricConv2d(
        old.in_channels,
        old.out_channels,
        kernel,
        margin=margin,
        stride=old.stride,
        dilation=old.dilation,
        groups=old.groups,
        bias=old.bias is not None,
    )
    new.load_state_dict(old.state_dict())
    for parameter, before in zip(new.parameters(), old.parameters(), strict=True):
        parameter.requires_grad_(before.requires_grad)
    return new
