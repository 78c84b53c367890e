"""Path Aggregation Network. Shu Liu, Lu Qi, Haifang Qin, Jianping Shi, Jiaya Jia, CVPR 2018.
https://arxiv.org/abs/1803.01534

What the finest level knows of edges has a long way to the coarsest one of a pyramid; a second path, from fine to coarse
behind the first, makes it short. Each region is read from all levels and not only from that of its size: the first
layer of a head has its own weights for each level, and of what these say the greatest number stays. Beside the small
convolutional head that draws a mask for each class, linear layers tell what is foreground from where in the region it
is, and both are added before the sigmoid.

Differs from the paper in: trained in one piece and not RPN first; the pyramid and the heads have group norm, as in the
authors' later repository, where the paper has batch norm over all GPUs, in the backbone too (`norm` and `head_norm`
"synchronized" are the paper's); that repository's ReLU behind the linear layers' map, which the paper has not, is left
out; groups have at least eight channels, so that the narrow layer of 128 has 16 of them and not 32; pictures of many
sizes are a matter of the recipe. Keypoints, which the paper has not, are read from one level.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from maskwise.methods import mask_rcnn
from maskwise.methods.mask_rcnn import MaskBranch, MaskRCNN, Read, Reader
from maskwise.parts import norms
from maskwise.parts.box_head import convolutions_and_layer
from maskwise.parts.mask_head import ConvolutionalMaskHead
from maskwise.parts.norms import Norm
from maskwise.parts.roi import Pool

TOGETHER = {"maximum": torch.maximum, "sum": torch.add, "product": torch.mul}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(mask_rcnn.Config):
    """The options of Mask R-CNN with a pyramid, and these."""

    head_norm: Norm | None = "group"
    """Norm of the pyramid, the second path and the heads."""
    bottom_up: bool = True
    """Have the second path (Table 3)."""
    levels: Literal["all", "own"] = "all"
    """Read a region from every level, or from the one of its size (Table 3)."""
    fuse: Literal["maximum", "sum"] = "maximum"
    """How what the levels say becomes one (Table 4)."""
    box_head: Literal["convolutions", "layers"] = "convolutions"
    """Four convolutions and a layer, the heavier head of Table 3, or two layers."""
    foreground: Literal["sum", "product", "maximum"] | None = "sum"
    """How the linear layers' map joins the masks of the classes; None: there is no such map (Tables 3 and 5)."""
    foreground_after: Literal[2, 3, 4] = 3
    """The convolution of the mask head behind which the two paths part (Table 5)."""

    def __post_init__(self) -> None:
        for name, wanted in (("variant", "fpn"), ("mask_head", "fcn"), ("mask_loss", "sigmoid")):
            if (found := getattr(self, name)) != wanted:
                raise ValueError(
                    f"PANet is built on a pyramid and small sigmoid masks: {name} {wanted!r}, not {found!r}"
                )


class BottomUp(nn.Module):
    """The second path: N2 is P2, and each next level is the last at half its side, added to the pyramid's."""

    def __init__(self, width: int, levels: int, *, norm: Norm | None):
        super().__init__()
        self.halve = nn.ModuleList(_layer(nn.Conv2d(width, width, 3, 2, 1), norm) for _ in range(levels - 1))
        self.output = nn.ModuleList(_layer(nn.Conv2d(width, width, 3, 1, 1), norm) for _ in range(levels - 1))

    def forward(self, levels: list[Float[Tensor, "b c _ _"]]) -> list[Float[Tensor, "b c _ _"]]:
        """The pyramid's coarsest level, every second cell of the one before it, is made anew."""
        path = levels[:1]
        for halve, output, level in zip(self.halve, self.output, levels[1:-1], strict=True):
            path.append(output(halve(path[-1]) + level))
        return [*path, F.max_pool2d(path[-1], 1, stride=2)]


@dataclass(frozen=True, slots=True)
class AllLevels:
    """Reads each region from every level; what it finds lies in the channels, one level after another."""

    pool: Pool

    def __call__(
        self, levels: Sequence[Float[Tensor, "b _ _ _"]], regions: Sequence[Float[Tensor, "_ 4"]]
    ) -> Float[Tensor, "n c s s"]:
        pools = [replace(self.pool, strides=(stride,)) for stride in self.pool.strides]
        return torch.cat([pool([x], regions) for pool, x in zip(pools, levels, strict=False)], 1)


class FusedLevels(nn.Module):
    """A layer of its own for each level, and of each of their numbers the greatest, or the sum."""

    def __init__(self, make: Callable[[], nn.Module], *, levels: int, fuse: Literal["maximum", "sum"]):
        super().__init__()
        self.layers = nn.ModuleList(make() for _ in range(levels))
        self.fuse = TOGETHER[fuse]

    def forward(self, features: Float[Tensor, "n d s s"]) -> Float[Tensor, "n c t t"]:
        parts = features.chunk(len(self.layers), 1)
        return reduce(self.fuse, [layer(x) for layer, x in zip(self.layers, parts, strict=True)])


class TwoPathMaskHead(nn.Module):
    """Fully connected fusion: a mask of each class, seen through windows, and the foreground, seen as a whole."""

    def __init__(self, cfg: Config, channels: int):
        super().__init__()
        width, norm, shared = cfg.width, cfg.head_norm, cfg.foreground_after
        first = _first(cfg, lambda: nn.Sequential(*norms.stack(channels, 1, width=width, norm=norm)))
        self.shared = nn.Sequential(first, *norms.stack(width, shared - 1, norm=norm))
        outputs = 1 if cfg.class_agnostic else cfg.num_classes
        self.classes = ConvolutionalMaskHead(width, outputs, width=width, convolutions=4 - shared, norm=norm)
        self.foreground = ForegroundPath(width, norm=norm) if cfg.foreground else None
        self.join = TOGETHER[cfg.foreground or "sum"]

    def forward(self, features: Float[Tensor, "n d s s"]) -> Float[Tensor, "n c m m"]:
        x = self.shared(features)
        logits = self.classes(x)
        return logits if self.foreground is None else self.join(logits, self.foreground(x))


class ForegroundPath(nn.Module):
    """Two convolutions, the second half as wide, and one layer from all cells to all cells of the mask."""

    def __init__(self, width: int, *, size: int = 14, norm: Norm | None):
        super().__init__()
        half = width // 2
        self.convolutions = nn.Sequential(
            *norms.stack(width, 1, norm=norm), *norms.stack(width, 1, width=half, norm=norm)
        )
        self.layer = nn.Linear(half * size**2, (2 * size) ** 2)
        self.shape = (1, 2 * size, 2 * size)
        nn.init.normal_(self.layer.weight, std=0.01)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x: Float[Tensor, "n c s s"]) -> Float[Tensor, "n 1 m m"]:
        return self.layer(self.convolutions(x).flatten(1)).unflatten(1, self.shape)


# --- how Mask R-CNN is put together from these


def neck(cfg: Config, channels: Sequence[int]) -> nn.Module:
    pyramid = mask_rcnn.pyramid(cfg, channels)
    return nn.Sequential(pyramid, BottomUp(cfg.width, len(channels), norm=cfg.head_norm)) if cfg.bottom_up else pyramid


def box_body(cfg: Config, channels: int) -> tuple[nn.Module, int]:
    norm, hidden = cfg.head_norm, cfg.hidden
    if cfg.box_head == "layers":  # as convolutions of the whole region, which norms of maps can follow
        first = _first(cfg, lambda: _layer(nn.Conv2d(channels, hidden, 7), norm))
        return nn.Sequential(first, _layer(nn.Conv2d(hidden, hidden, 1), norm), nn.Flatten()), hidden
    first = _first(cfg, lambda: nn.Sequential(*norms.stack(channels, 1, norm=norm)))
    return nn.Sequential(first, *convolutions_and_layer(channels, 7, norm=norm, hidden=hidden, convolutions=3)), hidden


def branch(cfg: Config, channels: int, pool: Read) -> MaskBranch:
    return MaskBranch(cfg, channels, pool, head=TwoPathMaskHead(cfg, channels))


def build(cfg: Config) -> MaskRCNN:
    reader = (lambda pool, _: AllLevels(pool)) if cfg.levels == "all" else Reader
    return MaskRCNN(
        cfg, neck=partial(neck, cfg), reader=reader, body=partial(box_body, cfg), branch=partial(branch, cfg)
    )


def _first(cfg: Config, make: Callable[[], nn.Module]) -> FusedLevels:
    """The layer of a head that knows of levels; there is one of it where a region is read from its own."""
    return FusedLevels(make, levels=6 - cfg.fpn_from if cfg.levels == "all" else 1, fuse=cfg.fuse)


def _layer(convolution: nn.Conv2d, norm: Norm | None) -> nn.Sequential:
    """A convolution, which keeps its bias before a norm too, its norm and ReLU."""
    return nn.Sequential(*norms.rectified(convolution, norm))
