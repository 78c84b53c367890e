"""Networks that say something about each pixel: one encoder, and a decoder for each group of maps.

The encoder is a classifier with a decoder as U-Net has it (Ronneberger et al., 2015), or ERFNet.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from maskwise import backbones
from maskwise.backbones import Backbone
from maskwise.parts import norms
from maskwise.parts.erfnet import ERFNet
from maskwise.parts.norms import Norm
from maskwise.structures import Images

Network = backbones.Name | Literal["erfnet"]


class Dense(nn.Module):
    """Maps of the size of the padded pictures, as many groups of them as there are `outputs`.

    coordinates: let it see where each pixel is; a convolution alone cannot tell two equal objects apart.
    """

    def __init__(
        self,
        name: Network,
        outputs: Sequence[int],
        *,
        width: int = 64,
        norm: Norm = "batch",
        weights: backbones.Weights = None,
        frozen: int = 0,
        coordinates: bool = False,
    ):
        super().__init__()
        self.coordinates = coordinates
        self.mean, self.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        seen = 5 if coordinates else 3
        if name == "erfnet":
            if weights is not None or frozen:
                raise ValueError(f"ERFNet has no weights to start from and no frozen stages, got {weights}, {frozen}")
            self.network: nn.Module = ERFNet(seen, outputs, norm=norm)
            return
        stages = range(2 if name.startswith("convnext") else 1, 6)
        backbone = backbones.build(name, norm=norm, weights=weights, frozen=frozen, stages=stages)
        self.mean, self.std = backbone.mean, backbone.std
        self.network = UNet(backbone, seen, outputs, width=width, norm=norm)

    @property
    def last_layers(self) -> list[nn.Module]:
        """What gives each group its numbers."""
        decoders = self.network.get_submodule("decoders")
        return [decoder.get_submodule("predict") for decoder in decoders.children()]

    def forward(self, images: Images) -> list[Float[Tensor, "b _ h w"]]:
        seen = images.normalized(self.mean, self.std)
        return self.network(torch.cat([seen, positions(images)], 1) if self.coordinates else seen)


class UNet(nn.Module):
    """A classifier, and decoders from its last map back to the picture, by way of each finer one."""

    def __init__(self, encoder: Backbone, seen: int, outputs: Sequence[int], *, width: int, norm: Norm):
        super().__init__()
        self.encoder = encoder
        channels = [seen, *encoder.channels]
        self.decoders = nn.ModuleList(Decoder(channels, n, width=width, norm=norm) for n in outputs)

    def forward(self, seen: Float[Tensor, "b _ h w"]) -> list[Float[Tensor, "b _ h w"]]:
        maps = [seen, *self.encoder(seen[:, :3])]
        return [decoder(maps) for decoder in self.decoders]


class Decoder(nn.Module):
    """From coarse to fine: the map so far doubled, beside it the encoder's, two convolutions; one at full size."""

    def __init__(self, channels: Sequence[int], outputs: int, *, width: int, norm: Norm):
        super().__init__()
        *finer, coarsest = channels
        widths = [width // 2, *[width] * (len(finer) - 1), coarsest]
        self.steps = nn.ModuleList(
            nn.Sequential(*norms.stack(coarse + fine, 2 if i else 1, width=out, norm=norm))
            for i, (fine, coarse, out) in enumerate(zip(finer, widths[1:], widths[:-1], strict=True))
        )
        self.predict = nn.Conv2d(width // 2, outputs, 1)

    def forward(self, maps: list[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b _ h w"]:
        *finer, x = maps
        for step, fine in zip(reversed(self.steps), reversed(finer), strict=True):
            x = step(torch.cat([F.interpolate(x, size=fine.shape[-2:], mode="nearest"), fine], 1))
        return self.predict(x)


def positions(images: Images) -> Float[Tensor, "b 2 h w"]:
    """x and y of each pixel's centre, from -1 to 1 over its picture."""
    h, w = images.pixels.shape[-2:]
    sizes = images.pixels.new_tensor(images.sizes)
    y = ((torch.arange(h, device=sizes.device) + 0.5) / sizes[:, :1] * 2 - 1)[:, :, None].expand(-1, h, w)
    x = ((torch.arange(w, device=sizes.device) + 0.5) / sizes[:, 1:] * 2 - 1)[:, None, :].expand(-1, h, w)
    return torch.stack([x, y], 1)
