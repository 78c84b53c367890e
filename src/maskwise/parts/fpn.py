"""Feature Pyramid Network (Lin et al., 2017): every level as meaningful as the last, by adding coarse to fine."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from maskwise.parts import norms
from maskwise.parts.norms import Norm


class FPN(nn.Module):
    """From the maps of a backbone to as many of one width, and what `coarser` makes of the last of them."""

    def __init__(
        self,
        channels: Sequence[int],
        width: int = 256,
        *,
        norm: Norm | None = None,
        coarser: nn.Module | None = None,
    ):
        """`coarser`: from a map to a list of maps; left out, every second cell of it."""
        super().__init__()
        self.lateral = nn.ModuleList(_convolution(c, width, 1, norm) for c in channels)
        self.output = nn.ModuleList(_convolution(width, width, 3, norm) for _ in channels)
        self.coarser = EverySecond() if coarser is None else coarser

    def forward(self, maps: list[Float[Tensor, "b _ _ _"]]) -> list[Float[Tensor, "b c _ _"]]:
        levels = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + F.interpolate(levels[i], size=levels[i - 1].shape[-2:], mode="nearest")
        levels = [output(x) for output, x in zip(self.output, levels, strict=True)]
        return [*levels, *self.coarser(levels[-1])]


class EverySecond(nn.Module):
    """One map more: every second cell."""

    def forward(self, x: Float[Tensor, "b c _ _"]) -> list[Float[Tensor, "b c _ _"]]:
        return [F.max_pool2d(x, 1, stride=2)]


class Strided(nn.Module):
    """So many maps more, P6 and P7 of RetinaNet: each a convolution of the one before it, with a stride of 2."""

    def __init__(self, width: int, count: int):
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, 2, 1) for _ in range(count))
        for layer in self.convolutions:
            nn.init.kaiming_uniform_(layer.get_parameter("weight"), a=1)
            nn.init.zeros_(layer.get_parameter("bias"))

    def forward(self, x: Float[Tensor, "b c _ _"]) -> list[Float[Tensor, "b c _ _"]]:
        """The first reads P5 as it is, the next what the one before it gave, from 0 on."""
        maps: list[Tensor] = []
        for layer in self.convolutions:
            maps.append(layer(maps[-1].relu() if maps else x))
        return maps


def _convolution(channels: int, width: int, kernel: int, norm: Norm | None) -> nn.Module:
    plain = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=norm is None)
    nn.init.kaiming_uniform_(plain.weight, a=1)
    if plain.bias is not None:
        nn.init.zeros_(plain.bias)
    return norms.after(plain, norm)
