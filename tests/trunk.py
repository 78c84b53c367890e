"""A backbone of a few narrow stages: a small ResNet takes ten times as long, and no longer tells what a method can."""

from torch import Tensor, nn

from maskwise.backbones import Backbone
from maskwise.parts import norms


class Trunk(Backbone):
    """Two convolutions a stage, of strides 2, 4, 8, ... It begins from chance, and all of it is trained."""

    def __init__(self, *channels: int) -> None:
        nn.Module.__init__(self)
        self.channels = channels
        self.strides = tuple(2**i for i in range(1, len(channels) + 1))
        self.mean, self.std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
        self.steps = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), *norms.stack(before, 2, width=width, norm="batch"))
            for before, width in zip((3, *channels), channels, strict=False)
        )

    def train(self, mode: bool = True) -> "Trunk":
        nn.Module.train(self, mode)
        return self

    def forward(self, pixels: Tensor) -> list[Tensor]:
        maps = [pixels]
        for step in self.steps:
            maps.append(step(maps[-1]))
        return maps[1:]
