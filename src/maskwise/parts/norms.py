"""Normalisation: batch norm with fixed statistics, group norm, and how one replaces the other in a network."""

from math import gcd
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

Norm = Literal["frozen", "batch", "group", "synchronized"]
"""Batch norm that never changes (small batches would spoil it), ordinary batch norm, group norm, or batch norm over the
pictures of all GPUs (of one process it is batch norm)."""


class FrozenBatchNorm(nn.Module):
    """Batch norm as a fixed scale and shift of each channel, in one pass and with nothing kept for the gradient."""

    def __init__(self, channels: int, *, eps: float = 1e-5, activation: nn.Module | None = None):
        super().__init__()
        self.eps = eps
        self.activation = activation or nn.Identity()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return self.activation(torch.addcmul(shift[:, None, None].to(x.dtype), x, scale[:, None, None].to(x.dtype)))


def group_norm(channels: int, *, least: int = 8) -> nn.GroupNorm:
    """32 groups (Wu & He, 2018), or fewer that divide the channels into groups of at least `least`.

    A channel that is a group of its own is told apart from no other: in narrow heads, how much of something there is
    would be forgotten, and with it the class.
    """
    groups = gcd(channels, 32)
    while groups > 1 and channels < groups * least:
        groups //= 2
    return nn.GroupNorm(groups, channels)


def after(convolution: nn.Conv2d, norm: Norm | None) -> nn.Module:
    """A convolution, and the norm that follows it."""
    if norm is None:
        return convolution
    makers = {"frozen": FrozenBatchNorm, "batch": nn.BatchNorm2d, "group": group_norm, "synchronized": nn.SyncBatchNorm}
    make = makers[norm]
    return nn.Sequential(convolution, make(convolution.out_channels))


def replace(network: nn.Module, norm: Norm) -> None:
    """Put another norm in the place of every batch norm. Statistics are kept where the new one has any."""
    if norm == "batch":
        return
    make = {"frozen": _frozen, "group": _grouped, "synchronized": _synchronized}[norm]
    for name, child in list(network.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            setattr(network, name, make(child))
        else:
            replace(child, norm)


def _frozen(old: nn.BatchNorm2d) -> FrozenBatchNorm:
    new = FrozenBatchNorm(old.num_features, eps=old.eps, activation=_activation(old))
    state = {k: v for k, v in old.state_dict().items() if k in new.state_dict()}
    new.load_state_dict(state)
    return new


def _grouped(old: nn.BatchNorm2d) -> nn.Module:
    activation = _activation(old)
    new = group_norm(old.num_features, least=1)  # as published backbones have it, the 64 channels of stems too
    return new if activation is None else nn.Sequential(new, activation)


def _synchronized(old: nn.BatchNorm2d) -> nn.Module:
    activation = _activation(old)
    new = nn.SyncBatchNorm(old.num_features, eps=old.eps, momentum=old.momentum)
    new.load_state_dict({k: v for k, v in old.state_dict().items() if k in new.state_dict()})
    return new if activation is None else nn.Sequential(new, activation)


def _activation(old: nn.BatchNorm2d) -> nn.Module | None:
    """Some of timm's norms have the activation in them."""
    act = getattr(old, "act", None)
    return act if isinstance(act, nn.Module) and not isinstance(act, nn.Identity) else None


def stack(channels: int, count: int, *, width: int | None = None, norm: Norm | None = None) -> list[nn.Module]:
    """3x3 convolutions, each with its norm and ReLU; a bias only where there is no norm."""
    layers: list[nn.Module] = []
    for i in range(count):
        plain = nn.Conv2d(width or channels if i else channels, width or channels, 3, padding=1, bias=norm is None)
        layers += rectified(plain, norm)
    return layers


def rectified(convolution: nn.Conv2d, norm: Norm | None) -> list[nn.Module]:
    """A convolution, started as He et al. (2015), its norm and ReLU."""
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return [after(convolution, norm), nn.ReLU()]
