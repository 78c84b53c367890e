"""ERFNet (Romera et al., 2017): a small network for dense maps, with convolutions split into columns and rows.

Shared by its decoders is an encoder of stride 8 whose last blocks see far, by dilation; each decoder brings its maps
back to the size of the picture.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskwise.parts import norms
from maskwise.parts.norms import Norm

STRIDE = 8
DILATIONS = (2, 4, 8, 16)
EPS = 1e-3
"""Added to the variance in batch norms."""


class Halving(nn.Module):
    """A convolution of stride 2, and beside its maps those of the input, pooled."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.convolution = nn.Conv2d(channels, width - channels, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.norm = nn.BatchNorm2d(width, eps=EPS)

    def forward(self, x: Float[Tensor, "b _ _ _"]) -> Float[Tensor, "b _ _ _"]:
        return self.norm(torch.cat([self.convolution(x), self.pool(x)], 1)).relu()


class Doubling(nn.Sequential):
    def __init__(self, channels: int, width: int):
        enlarge = nn.ConvTranspose2d(channels, width, 3, stride=2, padding=1, output_padding=1)
        super().__init__(enlarge, nn.BatchNorm2d(width, eps=EPS), nn.ReLU())


class Residual(nn.Module):
    """Two 3x3 convolutions, each as one of 3x1 and one of 1x3; the second pair dilated ("non-bottleneck-1D")."""

    def __init__(self, width: int, *, dilation: int = 1, dropout: float = 0.0):
        super().__init__()
        self.layers = nn.Sequential(
            *(_column(width, 1), nn.ReLU(), _row(width, 1), nn.BatchNorm2d(width, eps=EPS), nn.ReLU()),
            *(_column(width, dilation), nn.ReLU(), _row(width, dilation), nn.BatchNorm2d(width, eps=EPS)),
            nn.Dropout2d(dropout),
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return (x + self.layers(x)).relu()


class Decoder(nn.Module):
    """From the encoder's features to maps of the size of the picture."""

    def __init__(self, outputs: int):
        super().__init__()
        self.body = nn.Sequential(
            *(Doubling(128, 64), Residual(64), Residual(64)),
            *(Doubling(64, 16), Residual(16), Residual(16)),
        )
        self.predict = nn.ConvTranspose2d(16, outputs, 2, stride=2)

    def forward(self, features: Float[Tensor, "b _ _ _"]) -> Float[Tensor, "b _ h w"]:
        return self.predict(self.body(features))


class ERFNet(nn.Module):
    """One encoder, and a decoder for each group of maps."""

    def __init__(self, channels: int, outputs: Sequence[int], *, norm: Norm = "batch"):
        super().__init__()
        self.encoder = nn.Sequential(
            *(Halving(channels, 16), Halving(16, 64), *(Residual(64, dropout=0.03) for _ in range(5))),
            *(Halving(64, 128), *(Residual(128, dilation=d, dropout=0.3) for d in 2 * DILATIONS)),
        )
        self.decoders = nn.ModuleList(Decoder(n) for n in outputs)
        norms.replace(self, norm)

    def forward(self, pixels: Float[Tensor, "b _ h w"]) -> list[Float[Tensor, "b _ h w"]]:
        if any(side % STRIDE for side in pixels.shape[-2:]):
            raise ValueError(f"ERFNet needs padded sides that {STRIDE} divides, got {tuple(pixels.shape[-2:])}")
        features = self.encoder(pixels)
        return [decoder(features) for decoder in self.decoders]


def _column(width: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(width, width, (3, 1), padding=(dilation, 0), dilation=(dilation, 1))


def _row(width: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(width, width, (1, 3), padding=(0, dilation), dilation=(1, dilation))
