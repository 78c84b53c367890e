"""EmbedMask. Hui Ying, Zhaojin Huang, Shu Liu, Tianjia Shao, Kun Zhou, IJCAI 2021. First, in 2019, "EmbedMask:
Embedding Coupling for One-stage Instance Segmentation", https://arxiv.org/abs/1912.01954

FCOS finds boxes. Each of its locations also says what the pixels of its object are like, as a vector, and how far from
that they may be; a map beside it says what each pixel is like. The mask is the pixels whose vectors are near enough: no
region is cropped, and its resolution is that of the map, whatever the size of the object.

`version` "2021" is that of the IJCAI paper and of the authors' last code; "2020" that of the weights in their model
zoo: 8 dimensions, one margin for all of them, the loss in the box alone, masks drawn from probabilities.
Differs from the paper in: coordinates are continuous, where the authors' boxes end with their last pixel; GIoU is that
of the boxes, without the authors' 1 added to areas; the Lovász hinge leaves out pixels whose error is 0; a box without
extent inside the picture is no instance. The arXiv text (32 dimensions, margins from boxes, smoothness) is not here.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from maskwise import backbones, boxes
from maskwise.masks import Masks
from maskwise.parts import drawing, fcos, lovasz, matching
from maskwise.parts.drawing import Grid
from maskwise.parts.fcos import Detections, HeadOutputs, Locations
from maskwise.parts.fpn import FPN, Strided
from maskwise.parts.norms import Norm
from maskwise.rle import Size
from maskwise.structures import Images, Instances, Losses, Targets

FINER = 2
"""The map of pixels is enlarged by this, to stride 4."""
CALM = 32
"""The margins' convolution sees its features divided by this: it learns more slowly."""
LEAST = 1e-9
"""Probabilities are at least this far from 0 and 1 before they become logits."""
BORDER = math.log1p(math.e)
"""The exponent of a pixel whose logit is -1: beyond it a pixel that is not of the object has no error."""
FAR = -10.0
"""Minus the exponent of pixels outside the window of a mask."""
NUMBERS_AT_ONCE = 1 << 23
"""Numbers that are looked at together, at most: pixels times objects times dimensions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    num_classes: int
    version: Literal["2021", "2020"] = "2021"
    """That of the IJCAI paper, or of the authors' model zoo."""
    backbone: backbones.Name = "resnet50"
    weights: backbones.Weights = None
    """ImageNet weights of the backbone: a file, or 'imagenet' to have them fetched."""
    norm: Norm = "frozen"
    """Norm of the backbone."""
    frozen_stages: int = 0
    """Stages of the backbone that are not trained; 2 in the published recipes, which start from ImageNet weights."""
    levels: tuple[int, ...] = (3, 4, 5, 6, 7)
    """Levels of the pyramid, fine to coarse; those after 5 come from P5. Masks have half the stride of the first."""
    limits: tuple[float, ...] = (64.0, 128.0, 256.0, 512.0)
    """Pixels to the farthest side of an object on each level but the last."""
    width: int = 256
    """Channels of the pyramid and of the towers."""
    convolutions: int = 4
    """Convolutions of each tower."""
    radius: float = 1.5
    """Objects are found this many strides around the middle of their box ..."""
    inside_mask: bool = True
    """... and only on the object itself, which costs a little of the boxes and helps the masks."""
    dimensions: int | None = None
    """Dimensions of the vectors; left out, 16 or, in version 2020, 8."""
    margin: Literal["learned", "fixed"] = "learned"
    """Each location says how far its pixels may be, or it is the same for all: the paper's ablation."""
    margin_start: float = 2.0
    """How far that is at first, or always."""
    positions: bool = True
    """The first two dimensions begin as x and y: the paper's ablation."""
    unit: float = 100.0
    """Pixels for a distance of 1 in these."""
    mask_weight: float = 0.5
    """Weight of the Lovász hinge."""
    threshold: float = 0.53
    """Likeness above which a pixel belongs to the object."""
    min_score: float = 0.05
    """Boxes of which the class is less probable are not reported. Their score is that times how near the middle is."""
    per_level: int = 1000
    """Boxes of each level that go into suppression."""
    nms_iou: float = 0.6
    """Boxes that overlap a better one of their class more than this are dropped."""
    max_instances: int = 100
    """Most instances of a picture."""

    def __post_init__(self) -> None:
        first, last = self.levels[0], self.levels[-1]
        if self.levels != tuple(range(first, last + 1)) or not 2 <= first <= 5:
            raise ValueError(f"levels: expected a row of numbers that begins with 2, 3, 4 or 5, got {self.levels}")
        if len(self.limits) != len(self.levels) - 1:
            raise ValueError(f"limits: expected {len(self.levels) - 1}, one fewer than levels, got {len(self.limits)}")
        if self.vector < 3:
            raise ValueError(f"dimensions: expected at least 3, x and y and more, got {self.vector}")

    @property
    def vector(self) -> int:
        """How many dimensions there are."""
        return self.dimensions or {"2021": 16, "2020": 8}[self.version]

    @property
    def scale(self) -> float:
        """Factor of squared distances in the exponent, at first: likeness is a half at the margin."""
        return math.log(2) / self.margin_start**2


class EmbeddingOutputs(NamedTuple):
    """What proposals and pixels say of each other."""

    centres: Float[Tensor, "b n d"]
    """What the pixels of each location's object are like."""
    scales: Float[Tensor, "b n d"]
    """How fast likeness falls with the square of the distance, in each dimension."""
    pixels: Float[Tensor, "b d h w"]
    """What each pixel is like, at half the stride of the first level."""


class Embedding(nn.Module):
    """The vectors of proposals, from the tower of boxes, and of pixels, from a tower of their own."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = cfg
        self.proposal = fcos.prediction(cfg.width, cfg.vector)
        self.tower, self.pixel = fcos.tower(cfg.width, cfg.convolutions), fcos.prediction(cfg.width, cfg.vector)
        self.position = nn.Parameter(torch.ones(())) if cfg.positions else None
        self.margin = None
        self.level_scales = None
        if cfg.margin == "learned":
            margins = cfg.vector if cfg.version == "2021" else 1
            self.margin = fcos.prediction(cfg.width, margins, bias=math.log(cfg.scale))
            self.level_scales = nn.Parameter(torch.ones(len(cfg.levels))) if cfg.version == "2021" else None

    def forward(self, finest: Float[Tensor, "b c h w"], towers: list[Tensor], at: Locations) -> EmbeddingOutputs:
        proposals = self._placed(fcos.flat([self.proposal(x) for x in towers]), at.points)
        pixels = self._placed(fcos.flat([self.pixel(self.tower(finest))]), at.points[: at.counts[0]])
        maps = pixels.mT.unflatten(2, finest.shape[2:])
        return EmbeddingOutputs(
            proposals, self._scales(proposals, towers), F.interpolate(maps, scale_factor=FINER, mode="bilinear")
        )

    def _placed(self, vectors: Float[Tensor, "b n d"], points: Float[Tensor, "n 2"]) -> Float[Tensor, "b n d"]:
        """The first two numbers begin where the location is."""
        if self.position is None:
            return vectors
        x_and_y = vectors[..., :2] + self.position * points / self.cfg.unit
        return torch.cat([x_and_y, vectors[..., 2:]], 2)

    def _scales(self, like: Float[Tensor, "b n d"], towers: list[Tensor]) -> Float[Tensor, "b n d"]:
        """In x and y they are multiplied by a number of each level, before they become positive."""
        if self.margin is None:
            return torch.full_like(like, self.cfg.scale)
        logarithms = [self.margin(x / CALM) for x in towers]
        if self.level_scales is not None:
            scaled = zip(self.level_scales, logarithms, strict=True)
            logarithms = [torch.cat([s * x[:, :2], x[:, 2:]], 1) for s, x in scaled]
        return fcos.flat(logarithms).exp().expand_as(like)


class EmbedMask(nn.Module):
    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = cfg
        stages = [level for level in cfg.levels if level <= 5]
        self.backbone = backbones.build(
            cfg.backbone, norm=cfg.norm, weights=cfg.weights, stages=stages, frozen=cfg.frozen_stages
        )
        coarser = Strided(cfg.width, len(cfg.levels) - len(stages))
        self.neck = FPN(self.backbone.channels, cfg.width, coarser=coarser)
        self.head = fcos.Head(cfg.width, cfg.num_classes, levels=len(cfg.levels), convolutions=cfg.convolutions)
        self.embedding = Embedding(cfg)
        self.strides = [2**level for level in cfg.levels]
        self.stride = self.strides[0] // FINER

    def forward(self, images: Images, targets: list[Targets]) -> Losses:
        cfg, objects = self.cfg, [matching.objects(t) for t in targets]
        outputs, at, embedded = self._outputs(images)
        owners = [fcos.assign(at, o, radius=cfg.radius, inside_mask=cfg.inside_mask) for o in objects]
        masks = [self._mask_loss(outputs, at, embedded, i, owners[i], o) for i, o in enumerate(objects)]
        everything = (embedded.centres.sum() + embedded.scales.sum() + embedded.pixels.sum()) * 0
        return {
            **fcos.loss(outputs, at, owners, objects),
            "mask": cfg.mask_weight * (torch.stack(masks).mean() + everything),
        }

    def _outputs(self, images: Images) -> tuple[HeadOutputs, Locations, EmbeddingOutputs]:
        levels = self.neck(self.backbone(images.normalized(self.backbone.mean, self.backbone.std)))
        at, outputs = fcos.locations(levels, self.strides, self.cfg.limits), self.head(levels)
        return outputs, at, self.embedding(levels[0], outputs.towers, at)

    def _mask_loss(
        self,
        outputs: HeadOutputs,
        at: Locations,
        embedded: EmbeddingOutputs,
        i: int,
        owner: Int[Tensor, " n"],
        targets: Targets,
    ) -> Float[Tensor, ""]:
        """Mean over the objects of picture i that locations find: each has the vector of the one that does it best."""
        which, places = fcos.best_places(outputs.distances[i].detach(), at, owner, targets)
        objects, pixels = targets[which], embedded.pixels[i]
        truth = truth_of(objects.masks, (pixels.shape[1], pixels.shape[2]), self.stride)
        learned = around(objects.boxes, truth, self.stride) if self.cfg.version == "2020" else None
        losses = mask_losses(pixels, embedded.centres[i, places], embedded.scales[i, places], truth, learned)
        return losses.sum() / max(len(losses), 1)

    @torch.no_grad()
    def predict(self, images: Images) -> list[Instances]:
        cfg = self.cfg
        outputs, at, embedded = self._outputs(images)
        detections = fcos.detect(
            outputs,
            at,
            images.sizes,
            min_score=cfg.min_score,
            per_level=cfg.per_level,
            nms_iou=cfg.nms_iou,
            most=cfg.max_instances,
        )
        return [self._instances(found, embedded, images, i) for i, found in enumerate(detections)]

    def _instances(self, found: Detections, embedded: EmbeddingOutputs, images: Images, i: int) -> Instances:
        (x, y), size = images.scale(i), images.originals[i]
        masks = self._drawn(found, embedded.pixels[i], embedded.centres[i], embedded.scales[i], (x, y), size)
        return Instances.scored(
            boxes=boxes.clip(boxes.scale(found.boxes, x=x, y=y), size),
            labels=found.labels,
            scores=found.scores,
            masks=masks,
        )

    def _drawn(
        self,
        found: Detections,
        pixels: Float[Tensor, "d h w"],
        centres: Float[Tensor, "n d"],
        scales: Float[Tensor, "n d"],
        enlarged: tuple[float, float],
        size: Size,
    ) -> Masks:
        """Exponents are interpolated; probabilities, of version 2020, are next to 0 long before pixels are far off."""
        log, (x, y) = self.cfg.version == "2021", enlarged
        windows = windows_of(found.boxes / self.stride, (pixels.shape[1], pixels.shape[2]), log=log)
        values = []
        for (x0, y0, x1, y1), place in zip(windows.tolist(), found.places.tolist(), strict=True):
            near = -exponents(pixels[:, y0:y1, x0:x1].movedim(0, 2), centres[place], scales[place])
            values.append(near if log else near.exp())
        return drawing.draw(
            windows,
            values,
            Grid((pixels.shape[1], pixels.shape[2]), (1 / (y * self.stride), 1 / (x * self.stride))),
            size,
            outside=FAR if log else 0.0,
            threshold=math.log(self.cfg.threshold) if log else self.cfg.threshold,
        )


def build(cfg: Config) -> EmbedMask:
    return EmbedMask(cfg)


# --- likeness


def exponents(
    pixels: Float[Tensor, "*#n d"], centre: Float[Tensor, "*#n d"], scale: Float[Tensor, "*#n d"]
) -> Float[Tensor, "*n"]:
    """Minus the logarithm of how like its object a pixel is."""
    return (scale * (pixels - centre).square()).sum(-1)


def logits(exponent: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Logits of likeness, which is kept from 0 and 1; a pixel beyond these has no gradient, as published."""
    kept = exponent.clamp(min=LEAST, max=-math.log(LEAST))
    return -kept - (-torch.expm1(-kept)).log()


# --- learning


@torch.no_grad()
def truth_of(masks: Masks, shape: tuple[int, int], stride: int) -> Bool[Tensor, "k h w"]:
    """Cells that have any of the object in the two by two pixels at their middle: what bilinear shrinking sees."""
    truth = np.zeros((len(masks), *shape), bool)
    low, high = stride // 2 - 1, stride // 2 + 1
    for cells, (x0, y0, bits) in zip(truth, masks.crops(), strict=True):
        h, w = bits.shape
        left, top = x0 % stride, y0 % stride
        whole = np.pad(bits, ((top, -(top + h) % stride), (left, -(left + w) % stride)))
        parts = whole.reshape(whole.shape[0] // stride, stride, whole.shape[1] // stride, stride)
        seen = parts[:, low:high, :, low:high].any((1, 3))
        cells[y0 // stride :, x0 // stride :][: seen.shape[0], : seen.shape[1]] = seen
    return torch.from_numpy(truth).to(masks.bits.device)


def around(objects: Float[Tensor, "k 4"], cells: Bool[Tensor, "k h w"], stride: int) -> Bool[Tensor, "k h w"]:
    """Version 2020: cells in the objects' boxes, grown on each side by a tenth of these and one cell."""
    at = objects / stride
    grown = boxes.sides(at) / 10 + 1
    (x0, y0), (x1, y1) = (at[:, :2] - grown).T[..., None], (at[:, 2:] + grown).T[..., None]
    y, x = (torch.arange(n, device=at.device) for n in cells.shape[1:])
    return ((y >= y0) & (y < y1))[:, :, None] & ((x >= x0) & (x < x1))[:, None]


def mask_losses(
    pixels: Float[Tensor, "d h w"],
    centre: Float[Tensor, "k d"],
    scale: Float[Tensor, "k d"],
    truth: Bool[Tensor, "k h w"],
    learned: Bool[Tensor, "k h w"] | None = None,
) -> Float[Tensor, " k"]:
    """The Lovász hinge of each object over the whole map, or where it is to be learned.

    Some objects at a time, computed once more for the gradient: memory does not follow their number.
    """
    flat = pixels.flatten(1).T
    losses = [centre.new_zeros(0)]
    for some in torch.arange(len(centre), device=centre.device).split(max(1, NUMBERS_AT_ONCE // max(flat.numel(), 1))):
        where = truth[some].flatten(1), None if learned is None else learned[some].flatten(1)
        of_these = flat, centre[some], scale[some], *where
        losses.append(checkpoint(_mask_losses, *of_these, use_reentrant=False, preserve_rng_state=False))
    return torch.cat(losses)


def _mask_losses(
    pixels: Float[Tensor, "n d"],
    centre: Float[Tensor, "k d"],
    scale: Float[Tensor, "k d"],
    truth: Bool[Tensor, "k n"],
    learned: Bool[Tensor, "k n"] | None,
) -> Float[Tensor, " k"]:
    which, pixel = pairs_that_matter(pixels, centre, scale, truth, learned)
    # index_select, as its gradient is much faster than that of indexing
    near = exponents(pixels.index_select(0, pixel), centre.index_select(0, which), scale.index_select(0, which))
    return lovasz.hinge(logits(near), truth[which, pixel], which, len(centre))


@torch.no_grad()
def pairs_that_matter(
    pixels: Float[Tensor, "n d"],
    centre: Float[Tensor, "k d"],
    scale: Float[Tensor, "k d"],
    truth: Bool[Tensor, "k n"],
    learned: Bool[Tensor, "k n"] | None,
) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """Objects, and pixels that are theirs or have an error: few of all pairs, once the margins fit the objects."""
    far = torch.zeros_like(truth, dtype=pixels.dtype)
    for pixel, q, s in zip(pixels.T, centre.T, scale.T, strict=True):
        far += s[:, None] * (pixel - q[:, None]).square()
    matter = truth | (far < BORDER)
    which, pixel = torch.where(matter if learned is None else matter & learned)
    return which, pixel


# --- drawing


def windows_of(detected: Float[Tensor, "m 4"], shape: tuple[int, int], *, log: bool) -> Int[Tensor, "m 4"]:
    """Cells in which masks are drawn: those of the boxes, in cells, and two more; of version 2020 one."""
    low, high = detected[:, :2], detected[:, 2:]
    windows = torch.cat([low.floor() - 2, high.floor() + 2] if log else [(low - 1).ceil(), (high + 1).ceil()], 1)
    return torch.minimum(windows.clamp(min=0), windows.new_tensor([*shape[::-1]] * 2)).to(torch.int64)
