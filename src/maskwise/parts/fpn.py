"""Feature Pyramid Network (Lin et al., 2017): every level as meaningful as the last, by adding coarse to fine."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from maskwise.parts import norms
from maskwise.parts.norms import Norm


class FPN(nn.Module):
    """From the maps of a backbone to as many of one width, and one coarser still: every second cell of the last."""

    def __init__(self, channels: Sequence[int], width: int = 256, *, norm: Norm | None = None):
        super().__init__()
        self.lateral = nn.ModuleList(_convolution(c, width, 1, norm) for c in channels)
        self.output = nn.ModuleList(_convolution(width, width, 3, norm) for _ in channels)

    def forward(self, maps: list[Float[Tensor, "b _ _ _"]]) -> list[Float[Tensor, "b c _ _"]]:
        levels = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + F.interpolate(levels[i], size=levels[i - 1].shape[-2:], mode="nearest")
        levels = [output(x) for output, x in zip(self.output, levels, strict=True)]
        return [*levels, F.max_pool2d(levels[-1], 1, stride=2)]


def _convolution(channels: int, width: int, kernel: int, norm: Norm | None) -> nn.Module:
    plain = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=norm is None)
    nn.init.kaiming_uniform_(plain.weight, a=1)
    if plain.bias is not None:
        nn.init.zeros_(plain.bias)
    return norms.after(plain, norm)
