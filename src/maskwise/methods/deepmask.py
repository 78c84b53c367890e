"""DeepMask. Pedro O. Pinheiro, Ronan Collobert, Piotr Dollár, NIPS 2015. "Learning to Segment Object Candidates",
https://arxiv.org/abs/1506.06204

A network looks at a window and says whether an object is at its centre and fits it, and what that object's mask is,
whatever its class. Both heads read one short code of the window: the mask is a matrix of low rank times that code. All
of it slides, as convolutions, over the picture in several sizes, and the windows that score best are the proposals.

Differs from the paper in:

- Architecture: this is the network of the authors' second version (ResNet, one code for both heads), which the
  SharpMask paper calls DeepMask-ours, with its sizes.
- Sampling: windows are sampled from each picture of a batch, not evenly from all categories of the data set; those
  without object are far from crowds too.
- Losses: both are learned in each step, weighted as in the paper, and as means over windows: the published rate for
  their sum over 32 windows is 32 times as large here.
- Prediction: the network's 112 x 112 probabilities are interpolated and not its logits; a window that shows no pixel
  above the threshold is left out.
- The best weights are those whose proposals find most on validation pictures (area under recall), and not those whose
  masks fit best in windows around objects, which a head that learned them by heart also passes.

Objects have no class. `num_classes` is 1 and all labels are 0: with `data.as_one` a run learns, and is judged by, all
classes of its data as one, 'object', and so does `maskwise val` with what was learned.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import nms

from maskwise import backbones, boxes
from maskwise.masks import Masks
from maskwise.parts import padding
from maskwise.parts.norms import Norm
from maskwise.parts.windows import Canonical, Level, Sliding, cut, read
from maskwise.rle import Size
from maskwise.structures import Images, Instances, Losses, Targets

DRAWN_AT_ONCE = 64
"""Masks of windows: 1000 in the resolution of a large picture are a gigabyte before they are cropped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    num_classes: int = 1
    """Objects have no class; `data.as_one` learns all classes of a data set as one."""
    backbone: backbones.Name = "resnet50"
    weights: backbones.Weights = None
    """ImageNet weights of the backbone: a file, or 'imagenet' to have them fetched."""
    norm: Norm = "frozen"
    """Norm of the backbone."""
    frozen_stages: int = 0
    """Stages of the backbone that are not trained."""
    stage: Literal[3, 4] = 4
    """Stage of the backbone that the heads read; windows are its stride apart: 8 or 16 pixels."""
    patch: int = 160
    """Side of a window, in pixels; an object fits where its long side is 128 / 224 of that."""
    width: int = 128
    """Channels that a window is reduced to."""
    code: int = 512
    """Numbers that a window is reduced to, the rank of the mask head."""
    mask_head: Literal["low_rank", "full"] = "low_rank"
    """Draw from the code, or from all of the window: the paper's ablation, of ten times the weights."""
    mask_side: int = 56
    """Cells along a side of the mask as it is predicted ..."""
    drawn_side: int = 112
    """... and as it is interpolated, learned and drawn."""
    hidden: int = 1024
    """Width of the score head."""
    dropout: float = 0.5
    """Dropout of the score head."""
    samples: int = 4
    """Windows of a picture that masks are learned from, and as many for scores, half of them without an object."""
    least_side: float = 5.0
    """Objects that are narrower or lower than this, in pixels, are not learned from."""
    least_area: float = 100.0
    """Nor are those of fewer pixels."""
    jitter: float = 0.1
    """Masks are learned from windows beside the object by up to this share of a window ..."""
    jitter_octaves: float = 0.25
    """... and larger or smaller by up to this."""
    away: float = 0.3
    """A window without object is so far from the centre of each, as a share of the window ..."""
    away_octaves: float = 2.5
    """... or has an object of another size."""
    negative_octaves: tuple[float, float] = (-2.0, 3.0)
    """Sizes of windows without object: the paper shrinks the picture by up to 3 octaves, and enlarges it by 2."""
    score_weight: float = 1 / 32
    """Weight of the score loss."""
    octaves: tuple[float, ...] = (-0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5)
    """How much the picture is shrunk. With -1.5 and -1 before them, that is 'Zoom'."""
    threshold: float = 0.2
    """Probability from which a pixel belongs to the object; 0.1 on Pascal VOC."""
    min_score: float = 0.0
    """Windows that score less are not reported."""
    max_instances: int = 500
    """Most windows of a picture; 1000 for AR@1000."""
    nms_iou: float | None = None
    """Drop masks whose boxes overlap that of a better one so much; the paper does not."""


class Reducer(nn.Module):
    """A window in few channels, and as one code. Over a whole map it gives that of each window."""

    def __init__(self, cfg: Config, channels: int, cells: int):
        super().__init__()
        self.narrow = nn.Conv2d(channels, cfg.width, 1)
        self.encode = nn.Conv2d(cfg.width, cfg.code, cells)

    def forward(self, features: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b k h w"], Float[Tensor, "b d i j"]]:
        reduced = self.narrow(features).relu()
        return reduced, self.encode(reduced)


class Scorer(nn.Module):
    """From codes to logits: is an object at the centre of the window, and of its size?"""

    def __init__(self, cfg: Config):
        super().__init__()
        self.dropout = nn.Dropout(cfg.dropout)
        self.hidden = nn.Linear(cfg.code, cfg.hidden)
        self.predict = nn.Linear(cfg.hidden, 1)

    def forward(self, codes: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        return self.predict(self.dropout(self.hidden(self.dropout(codes)).relu()))[..., 0]


@runtime_checkable
class Painter(Protocol):
    """A module that draws masks: from the code of each window, and what it has from the maps there."""

    def maps(self, features: "WindowFeatures") -> list[Float[Tensor, "b _ _ _"]]:
        """What it wants to look at in each window, from windows alone or a whole picture."""
        ...

    def __call__(
        self, codes: Float[Tensor, "n d"], maps: Sequence[Float[Tensor, "n _ _ _"]]
    ) -> Float[Tensor, "n s s"]: ...


class MaskHead(nn.Module):
    def __init__(self, cfg: Config, cells: int):
        super().__init__()
        self.full, self.sides = cfg.mask_head == "full", (cfg.mask_side, cfg.drawn_side)
        self.predict = nn.Linear(cfg.width * cells**2 if self.full else cfg.code, cfg.mask_side**2)

    def maps(self, features: "WindowFeatures") -> list[Float[Tensor, "b _ _ _"]]:
        return [features.reduced] if self.full else []

    def forward(self, codes: Float[Tensor, "n d"], maps: Sequence[Float[Tensor, "n _ _ _"]]) -> Float[Tensor, "n s s"]:
        side, drawn = self.sides
        logits = self.predict(maps[0].flatten(1) if self.full else codes).unflatten(1, (1, side, side))
        return F.interpolate(logits, size=(drawn, drawn), mode="bilinear")[:, 0]


class SampledWindows(NamedTuple):
    """Windows of one picture to learn from: some for masks, others for scores."""

    masks: Float[Tensor, "m 4"]
    matched: Int[Tensor, " m"]
    """Position of the object that each window for masks shows."""
    scores: Float[Tensor, "k 4"]
    positive: Float[Tensor, " k"]
    """1 where a window for scores has an object, 0 where it has none."""


class WindowFeatures(NamedTuple):
    """What is seen in windows: alone, of all pictures, those for masks first; or in all of one level of a picture."""

    maps: list[Float[Tensor, "b _ _ _"]]
    """The backbone's."""
    reduced: Float[Tensor, "b _ _ _"]
    codes: Float[Tensor, "b d i j"]

    def detach(self) -> "WindowFeatures":
        return WindowFeatures([x.detach() for x in self.maps], self.reduced.detach(), self.codes.detach())

    def first(self, count: int) -> "WindowFeatures":
        return WindowFeatures([x[:count] for x in self.maps], self.reduced[:count], self.codes[:count])


class DeepMask(nn.Module):
    def __init__(self, cfg: Config, *, stages: Sequence[int] = ()):
        """`stages`: further ones of the backbone, which a painter wants to see."""
        super().__init__()
        self.cfg = _checked(cfg)
        self.backbone = backbones.build(
            cfg.backbone,
            norm=cfg.norm,
            weights=cfg.weights,
            stages=(*stages, cfg.stage),
            frozen=cfg.frozen_stages,
        )
        padding.replace(self.backbone)
        stride = self.backbone.strides[-1]
        self.margin, self.cells = stride, cfg.patch // stride
        self.sliding = Sliding(side=cfg.patch, stride=stride, octaves=cfg.octaves)
        self.canonical = canonical(cfg)
        self.reducer = Reducer(cfg, self.backbone.channels[-1], self.cells)
        self.scorer = Scorer(cfg)
        self.mask = MaskHead(cfg, self.cells)

    def forward(self, images: Images, targets: list[Targets]) -> Losses:
        windows = self.sample(targets)
        return self.losses(self.patches(images, windows), windows, targets)

    @torch.no_grad()
    def predict(self, images: Images) -> list[Instances]:
        return self.find(images, self.mask)

    # --- learning

    @torch.no_grad()
    def sample(self, targets: list[Targets]) -> list[SampledWindows]:
        """Windows of each picture to learn from, at random."""
        return [sampled_windows(self.cfg, self.canonical, t) for t in targets]

    def patches(self, images: Images, windows: list[SampledWindows]) -> WindowFeatures:
        """Each window is seen alone, with a cell more on each side than is looked at."""
        side = self.cfg.patch + 2 * self.margin
        pixels = [
            read(picture, _grown(at, side / self.cfg.patch), (side, side))
            for kind in ([w.masks for w in windows], [w.scores for w in windows])
            for picture, at in zip(_pictures(images), kind, strict=True)
        ]
        maps = [_inner(x, self.margin // s) for x, s in self._maps(torch.cat(pixels))]
        return WindowFeatures(maps, *self.reducer(maps[-1]))

    def losses(self, features: WindowFeatures, windows: list[SampledWindows], targets: list[Targets]) -> Losses:
        """Equation 1 of the paper; its mask term belongs to windows with an object."""
        for_masks = sum(len(w.masks) for w in windows)
        positive = torch.cat([w.positive for w in windows])
        scores = self.scorer(features.codes[for_masks:, :, 0, 0])
        return {
            "mask": mask_loss(self.mask, features, windows, targets),
            "score": self.cfg.score_weight * _mean_loss(scores, positive),
        }

    # --- predicting

    def find(self, images: Images, painter: Painter) -> list[Instances]:
        return [self._found(picture, images, i, painter) for i, picture in enumerate(_pictures(images))]

    def _found(self, picture: Float[Tensor, "3 _ _"], images: Images, i: int, painter: Painter) -> Instances:
        """The best windows of all sizes together, with their masks drawn in the original picture."""
        cfg, (x, y) = self.cfg, images.scale(i)
        levels = [(level, self._level(level)) for level in self.sliding.levels(picture)]
        scores = [self.scorer(features.codes[0].movedim(0, 2)).float().sigmoid() for _, features in levels]
        best, place = torch.cat([s.flatten() for s in scores]).sort(descending=True, stable=True)
        place = place[: cfg.max_instances][best[: cfg.max_instances] > cfg.min_score]
        masks, order, start = [Masks.none(images.originals[i]).to(picture.device)], [place[:0]], 0
        for (level, features), of_level in zip(levels, scores, strict=True):
            here = torch.where((place >= start) & (place < start + of_level.numel()))[0]
            cell, width = place[here] - start, of_level.shape[1]
            rows, columns = cell // width, cell % width
            at = boxes.scale(self.sliding.windows(rows, columns, level.octave), x=x, y=y)
            masks.append(self._drawn(features, rows, columns, at, images.originals[i], painter))
            order.append(here)
            start += of_level.numel()
        return _instances(cfg, Masks.cat(masks)[torch.cat(order).argsort()], best[: len(place)])

    def _level(self, level: Level) -> WindowFeatures:
        maps = [x for x, _ in self._maps(level.pixels)]
        return WindowFeatures(maps, *self.reducer(maps[-1]))

    def _drawn(
        self,
        features: WindowFeatures,
        rows: Int[Tensor, " n"],
        columns: Int[Tensor, " n"],
        at: Float[Tensor, "n 4"],
        size: Size,
        painter: Painter,
    ) -> Masks:
        """Masks of windows, a few at a time."""
        maps = painter.maps(features)
        finer = [x.shape[2] // features.reduced.shape[2] for x in maps]
        drawn = [Masks.none(size).to(at.device)]
        for few in torch.arange(len(rows), device=rows.device).split(DRAWN_AT_ONCE):
            i, j = rows[few], columns[few]
            parts = [cut(x, f * i, f * j, f * self.cells) for x, f in zip(maps, finer, strict=True)]
            logits = painter(features.codes[0][:, i, j].T, parts).float()
            drawn.append(Masks.paste(logits.sigmoid(), at[few], size, threshold=self.cfg.threshold).tight())
        return Masks.cat(drawn)

    def _maps(self, pixels: Float[Tensor, "b 3 _ _"]) -> list[tuple[Float[Tensor, "b _ _ _"], int]]:
        """Maps of the backbone, and their strides."""
        mean, std = (pixels.new_tensor(v)[:, None, None] for v in (self.backbone.mean, self.backbone.std))
        return list(zip(self.backbone((pixels - mean) / std), self.backbone.strides, strict=True))


def build(cfg: Config) -> DeepMask:
    return DeepMask(cfg)


def _checked(cfg: Config) -> Config:
    if cfg.num_classes != 1:
        raise ValueError(
            f"objects have no class here: num_classes must be 1, got {cfg.num_classes}; "
            "learn all classes as one with data.as_one=true"
        )
    stride = 2**cfg.stage
    if cfg.patch < stride or cfg.patch % stride:
        raise ValueError(f"patch: expected a multiple of {stride}, the stride of stage {cfg.stage}, got {cfg.patch}")
    return cfg


# --- learning


def canonical(cfg: Config) -> Canonical:
    """128 of 224 pixels in the paper, 92 of 160 here."""
    return Canonical(
        side=cfg.patch,
        long=math.ceil(cfg.patch * 128 / 224),
        shift=cfg.jitter * cfg.patch,
        octaves=cfg.jitter_octaves,
        away=cfg.away * cfg.patch,
        octaves_away=cfg.away_octaves,
        smallest=cfg.negative_octaves[0],
        largest=cfg.negative_octaves[1],
    )


def sampled_windows(cfg: Config, canonical: Canonical, targets: Targets) -> SampledWindows:
    learned = ~targets.crowd & (boxes.sides(targets.boxes) >= cfg.least_side).all(1)
    objects = torch.where(learned & (targets.masks.area() >= cfg.least_area))[0]
    masks, scores = (_with_replacement(objects, count) for count in (cfg.samples, cfg.samples // 2))
    without = canonical.without(targets, cfg.samples - cfg.samples // 2)
    with_object = canonical.exact(targets.boxes[scores])
    positive = torch.cat([torch.ones_like(with_object[:, 0]), torch.zeros_like(without[:, 0])])
    return SampledWindows(canonical.near(targets.boxes[masks]), masks, torch.cat([with_object, without]), positive)


def mask_loss(
    painter: Painter, features: WindowFeatures, windows: list[SampledWindows], targets: list[Targets]
) -> Float[Tensor, ""]:
    """log(1 + exp(-m f)) with m = 1 on the object at the centre and -1 elsewhere, mean over cells and windows."""
    of_masks = features.first(sum(len(w.masks) for w in windows))
    logits = painter(of_masks.codes[:, :, 0, 0], painter.maps(of_masks))
    with torch.no_grad():
        cells = logits.shape[-1]
        truth = [t.masks.sample(w.masks, w.matched, cells) >= 0.5 for w, t in zip(windows, targets, strict=True)]
    return _mean_loss(logits, torch.cat(truth))


def _mean_loss(logits: Float[Tensor, "*n"], truth: Tensor) -> Float[Tensor, ""]:
    """Zero where there is nothing to learn from, with a gradient."""
    total = F.binary_cross_entropy_with_logits(logits.float(), truth.float(), reduction="sum")
    return total / max(logits.numel(), 1)


def _with_replacement(places: Int[Tensor, " n"], count: int) -> Int[Tensor, " k"]:
    """At random, the same one perhaps more than once; none of none."""
    return places[torch.randint(len(places), (count,), device=places.device)] if len(places) else places


def _grown(windows: Float[Tensor, "n 4"], factor: float) -> Float[Tensor, "n 4"]:
    centre, half = boxes.centres(windows), factor / 2 * boxes.sides(windows)
    return torch.cat([centre - half, centre + half], 1)


def _inner(maps: Float[Tensor, "b c _ _"], margin: int) -> Float[Tensor, "b c _ _"]:
    return maps[..., margin:-margin, margin:-margin]


def _pictures(images: Images) -> list[Float[Tensor, "3 _ _"]]:
    """Without their padding."""
    return [p[:, :h, :w] for p, (h, w) in zip(images.pixels, images.sizes, strict=True)]


# --- predicting


def _instances(cfg: Config, masks: Masks, scores: Float[Tensor, " n"]) -> Instances:
    """Those that show anything. All are of the only class."""
    keep = torch.where(masks.area() > 0)[0]
    if cfg.nms_iou is not None:
        keep = keep[nms(masks.windows[keep].to(scores.dtype), scores[keep], cfg.nms_iou)]
    return Instances.scored(
        boxes=masks.windows[keep].to(scores.dtype),
        labels=torch.zeros_like(keep),
        scores=scores[keep],
        masks=masks[keep],
    )
