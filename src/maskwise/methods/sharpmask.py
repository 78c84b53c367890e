"""SharpMask. Pedro O. Pinheiro, Tsung-Yi Lin, Ronan Collobert, Piotr Dollár, ECCV 2016.
"Learning to Refine Object Segments", https://arxiv.org/abs/1603.08695

DeepMask's masks are coarse: their last layer has seen 16 pixels as one. Here its code becomes a small map of many
channels instead, and one refinement module after the other merges that with the next finer features, halves the
channels and doubles the side, up to a mask of the window's own resolution. DeepMask is learned first, then the modules
alone, on features that no longer change. What is refined is DeepMask's code and not a mask: masks that others supply
cannot be.

Differs from the paper in: what DeepMask does; features and the map from above are convolved apart and added, as in the
authors' code, which is the paper's concatenation and convolution, but lets the features be convolved once for all
windows; doubling repeats cells, as in the code (`doubling` has the paper's); both stages have one schedule and one
optimiser, the authors' second stage is SGD without momentum or decay; without a training loop that tells the step
(`on_step`), both stages learn side by side, and even then nothing of the second reaches the first. Predictions are
always refined: a judgement before the modules have learned says nothing, so that `watch.patience`, if there is one, has
to be longer than the first stage.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from maskwise.methods import deepmask
from maskwise.methods.deepmask import DeepMask, WindowFeatures, mask_loss
from maskwise.parts.padding import SymmetricConv2d
from maskwise.structures import Images, Instances, Losses, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(deepmask.Config):
    channels: int = 32
    """Channels of the map that refinement begins with; each module halves them."""
    lateral: int = 64
    """Channels of the first convolution over features; half of them in the last module."""
    horizontal: Literal["three", "one", "none"] = "three"
    """Convolutions over the features of a module; with none, refinement does not see them (ablations of Section 3)."""
    doubling: Literal["nearest", "bilinear"] = "nearest"
    """How a module enlarges."""
    coarse_share: float = 0.5
    """Share of the steps of a training in which DeepMask is learned; in the others it stays as it is."""


class RefinementModule(nn.Module):
    """Half the channels and twice the side, with what finer features add."""

    def __init__(self, cfg: Config, channels: int):
        super().__init__()
        self.down = _convolutions(channels, (channels, channels // 2))
        self.doubling = cfg.doubling

    def forward(
        self, above: Float[Tensor, "n c s s"], beside: Float[Tensor, "n d s s"] | None
    ) -> Float[Tensor, "n d t t"]:
        x = self.down(above)
        return F.interpolate((x if beside is None else x + beside).relu(), scale_factor=2.0, mode=self.doubling)


class Refinement(nn.Module):
    """Draws masks from codes and all features. Modules go from the coarsest map to the finest."""

    def __init__(self, cfg: Config, features: Sequence[int], cells: int):
        super().__init__()
        self.shape = (cfg.channels, cells, cells)
        channels = [cfg.channels >> i for i in range(len(features) + 1)]
        self.start = nn.Linear(cfg.code, cfg.channels * cells**2)
        self.down = nn.ModuleList(RefinementModule(cfg, above) for above in channels[:-1])
        self.across = nn.ModuleList(
            _convolutions(width, _horizontal(cfg, *pair, last=pair[1] == channels[-1]))
            for width, pair in zip(reversed(features), pairwise(channels), strict=True)
            if cfg.horizontal != "none"
        )
        self.last = SymmetricConv2d(channels[-1], 1, 3)

    def maps(self, features: WindowFeatures) -> list[Float[Tensor, "b _ _ _"]]:
        """The horizontal paths, for all windows at once."""
        return [across(x) for across, x in zip(self.across, reversed(features.maps), strict=False)]

    def forward(self, codes: Float[Tensor, "n d"], maps: Sequence[Float[Tensor, "n _ _ _"]]) -> Float[Tensor, "n s s"]:
        x = self.start(codes).unflatten(1, self.shape)
        for down, beside in zip_longest(self.down, maps):
            x = down(x, beside)
        return self.last(x)[:, 0]


class SharpMask(nn.Module):
    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = _checked(cfg)
        self.coarse = DeepMask(cfg, stages=range(1, cfg.stage))
        self.refinement = Refinement(cfg, self.coarse.backbone.channels, self.coarse.cells)
        self.learns: Literal["both", "coarse", "refinement"] = "both"

    def on_step(self, step: int, total: int) -> None:
        """Which stage of a training of `total` steps it is in."""
        learns = "coarse" if step < self.cfg.coarse_share * total else "refinement"
        if learns != self.learns:
            self.learns = learns
            self.train(self.training)

    def train(self, mode: bool = True) -> "SharpMask":
        """In the second stage the statistics of DeepMask's norms stay as they are, too."""
        super().train(mode)
        if self.learns == "refinement":
            self.coarse.eval()
        return self

    def forward(self, images: Images, targets: list[Targets]) -> Losses:
        """Losses of the stage that does not learn are told, without a gradient."""
        windows = self.coarse.sample(targets)
        with self._learning("refinement"):
            features = self.coarse.patches(images, windows)
            losses = self.coarse.losses(features, windows, targets)
        with self._learning("coarse"):
            return {**losses, "refined": mask_loss(self.refinement, features.detach(), windows, targets)}

    @torch.no_grad()
    def predict(self, images: Images) -> list[Instances]:
        return self.coarse.find(images, self.refinement)

    def _learning(self, other: Literal["coarse", "refinement"]) -> torch.set_grad_enabled:
        """Gradients, unless only the other stage learns."""
        return torch.set_grad_enabled(torch.is_grad_enabled() and self.learns != other)


def build(cfg: Config) -> SharpMask:
    return SharpMask(cfg)


def _checked(cfg: Config) -> Config:
    least = 2**cfg.stage
    if cfg.channels < least or cfg.channels % least:
        raise ValueError(f"channels: expected a multiple of {least}, as modules halve them, got {cfg.channels}")
    return cfg


def _horizontal(cfg: Config, channels: int, half: int, *, last: bool) -> tuple[int, ...]:
    """Channels of the convolutions over features; the finest map, the largest one, begins with fewer."""
    return (cfg.lateral >> last, channels, half) if cfg.horizontal == "three" else (half,)


def _convolutions(channels: int, widths: Sequence[int]) -> nn.Sequential:
    """3 x 3, with ReLU between them and not after the last."""
    layers: list[nn.Module] = []
    for before, width in zip((channels, *widths), widths, strict=False):
        layers += [SymmetricConv2d(before, width, 3), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
