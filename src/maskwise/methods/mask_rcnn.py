"""Mask R-CNN. Kaiming He, Georgia Gkioxari, Piotr Dollár, Ross Girshick, ICCV 2017. https://arxiv.org/abs/1703.06870

A region proposal network finds boxes, a box head names and refines them, and beside it a small fully convolutional head
draws one mask per class in each box. RoIAlign reads the features of a box without rounding it. The classes of a mask do
not compete: which one it is, is for the box head to say. A head of the same kind finds the keypoints of people, beside
the masks or in their place; with neither this is Faster R-CNN with RoIAlign.

Differs from the paper in: trained in one piece and not RPN first; coordinates are continuous, as in Detectron2, which
is worth 1 mask AP and nothing for boxes (`convention` brings back the older ones); proposals are chosen for each
picture and not over all of a batch; the C4 variant runs its last stage once more for the masks' regions. Without masks
the instances have masks without pixels: a box is no claim about what is in it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from maskwise import backbones, boxes
from maskwise.masks import Masks
from maskwise.parts import keypoint_head, matching, roi
from maskwise.parts.box_head import BoxHead, Detections, convolutions_and_layer, two_layers
from maskwise.parts.convention import CONVENTIONS, ConventionName
from maskwise.parts.fpn import FPN
from maskwise.parts.keypoint_head import KeypointHead, with_keypoints
from maskwise.parts.mask_head import ConvolutionalMaskHead, LinearMaskHead, masks_of, own
from maskwise.parts.norms import Norm
from maskwise.parts.roi import POSITIVES, Operator, Pool, Regions
from maskwise.parts.rpn import RPN
from maskwise.structures import Images, Instances, Losses, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    num_classes: int
    variant: Literal["fpn", "c4", "c5", "dc5"] = "fpn"
    """Features from a pyramid, from C4 with C5 as the head, from C5 (Table 2d), or from a dilated C5."""
    fpn_from: Literal[2, 3, 4] = 2
    """Finest stage of the backbone in the pyramid; 4 in the small network of Mask Scoring R-CNN."""
    backbone: backbones.Name = "resnet50"
    weights: backbones.Weights = None
    """ImageNet weights of the backbone: a file, or 'imagenet' to have them fetched."""
    norm: Norm = "frozen"
    """Norm of the backbone."""
    frozen_stages: int = 0
    """Stages of the backbone that are not trained; 2 in the published recipes, which start from ImageNet weights."""
    stride_first: bool = False
    """The backbone's blocks have their stride in the first 1x1 convolution, as the first ResNets did."""
    pixel_mean: tuple[float, float, float] | None = None
    """Mean of the pixels that the backbone was trained on, RGB in 0..1; left out, what timm knows of it."""
    pixel_std: tuple[float, float, float] | None = None
    """Standard deviation of these pixels."""
    deformable: tuple[int, ...] = ()
    """Stages of the backbone with deformable convolutions; (3, 4, 5) in the papers."""
    width: int = 256
    """Channels of the pyramid and of the heads' convolutions."""
    hidden: int = 1024
    """Width of the heads' linear layers."""
    head_norm: Norm | None = None
    """Norm of the pyramid and the heads; with one, the box head has four convolutions and one layer."""
    rpn_convolutions: int = 1
    """Convolutions of the RPN before it scores anchors."""
    anchor_scale: float = 8.0
    """Side of a level's anchors, in strides of the level: 32 to 512 pixels from P2 to P6. Smaller for small objects."""
    anchor_sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    """Sides of anchors in pixels where there is one level only."""
    operator: Operator = "align"
    """How features of a region are read."""
    reduce: Literal["average", "maximum"] = "average"
    """How the points of a bin become one number."""
    mask_head: Literal["fcn", "mlp2", "mlp3"] = "fcn"
    """Convolutions, or two or three linear layers before the one that draws (Table 2e)."""
    mask_loss: Literal["sigmoid", "softmax"] = "sigmoid"
    """Each class for itself, or all classes and background in competition."""
    class_agnostic: bool = False
    """One mask for all classes."""
    masks: bool = True
    """Draw masks at all."""
    keypoints: int = 0
    """How many each instance has; 17 of people in COCO."""
    keypoint_width: int = 512
    """Channels of the keypoint head."""
    keypoint_loss: Literal["by_visible", "fixed"] = "by_visible"
    """Divide by the number of visible keypoints, or by a constant, the largest number possible, which is steadier in
    small batches."""
    anchor_samples: int = 256
    """Anchors of a picture that the RPN learns from."""
    region_samples: int = 512
    """Regions of a picture that the heads learn from, at most a quarter of them with an object."""
    per_level_train: int = 2000
    """Proposals of each level that go into suppression. Where there is one level, as in C4, papers take 12,000 and, to
    predict, 6,000."""
    per_level_test: int = 1000
    """The same to predict."""
    proposals_train: int = 1000
    """Proposals of a picture that come out of it."""
    proposals_test: int = 1000
    """The same to predict."""
    min_score: float = 0.05
    """Boxes that score less are not reported."""
    nms_iou: float = 0.5
    """Boxes that overlap a better one of their class more than this are dropped."""
    soft_nms_sigma: float | None = None
    """Lower the scores of overlapping boxes instead of dropping these; 0.6 in Mask Scoring R-CNN's tables."""
    max_instances: int = 100
    """Most instances of a picture."""
    convention: ConventionName = "continuous"
    """The implementation whose arithmetic is used: that which the weights come from."""


@runtime_checkable
class Read(Protocol):
    """What the features of regions show."""

    def __call__(
        self, levels: Sequence[Float[Tensor, "b _ _ _"]], regions: Sequence[Float[Tensor, "_ 4"]]
    ) -> Float[Tensor, "n c s s"]: ...


@dataclass(frozen=True, slots=True)
class Reader:
    """Pools features of regions and runs them through `stage`.

    Not a Module: the stage is the model's, and registered there once.
    """

    pool: Pool
    stage: nn.Module

    def __call__(
        self, levels: Sequence[Float[Tensor, "b _ _ _"]], regions: Sequence[Float[Tensor, "_ 4"]]
    ) -> Float[Tensor, "n c s s"]:
        return self.stage(self.pool(levels, regions))

    def at(self, size: int) -> "Reader":
        """The same with another number of cells."""
        return replace(self, pool=replace(self.pool, size=size))


class MaskBranch(nn.Module):
    """What Mask R-CNN adds to Faster R-CNN. Methods that change the masks pass in their own, or another head."""

    def __init__(self, cfg: Config, channels: int, pool: Read, *, head: nn.Module | None = None):
        super().__init__()
        self.cfg, self.pool = cfg, pool
        self.head = mask_head(cfg, channels) if head is None else head

    def forward(self, levels: list[Tensor], regions: list[Regions], targets: list[Targets]) -> Losses:
        logits = self.head(self.pool(levels, [r.positive for r in regions]))
        return {
            "mask": mask_loss(self.cfg, logits, regions, wanted(self.cfg, regions, targets, cells=logits.shape[-1]))
        }

    def draw(
        self, levels: list[Tensor], regions: Sequence[Float[Tensor, "_ 4"]], labels: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n m m"], Float[Tensor, " n"]]:
        """A mask in each region for its class, as probabilities, and how good it may be."""
        drawn = probabilities(self.cfg, self.head(self.pool(levels, regions)), labels)
        return drawn, drawn.new_ones(len(drawn))


class KeypointBranch(nn.Module):
    """Where the keypoints of each instance are."""

    def __init__(self, cfg: Config, channels: int, pool: Read):
        super().__init__()
        self.cfg, self.pool = cfg, pool
        self.convention = CONVENTIONS[cfg.convention]
        self.head = KeypointHead(channels, cfg.keypoints, width=cfg.keypoint_width)

    def forward(self, levels: list[Tensor], regions: list[Regions], targets: list[Targets]) -> Losses:
        cfg = self.cfg
        learned = [with_keypoints(r, t) for r, t in zip(regions, targets, strict=True)]
        maps = self.head(self.pool(levels, [r.positive for r in learned]))
        most = len(targets) * cfg.region_samples * POSITIVES * cfg.keypoints
        over = most if cfg.keypoint_loss == "fixed" else None
        return {"keypoint": keypoint_head.loss(maps, learned, targets, inclusive=self.convention.inclusive, over=over)}

    def locate(self, levels: list[Tensor], regions: Sequence[Float[Tensor, "_ 4"]]) -> Float[Tensor, "n k 3"]:
        """x, y and score of each, in the coordinates of the regions."""
        maps = self.head(self.pool(levels, regions)).float()
        joined = torch.cat(list(regions))
        joined = boxes.to_inclusive(joined) if self.convention.inclusive else joined
        return keypoint_head.decode(maps, joined, score=self.convention.keypoint_score)


def pyramid(cfg: Config, channels: Sequence[int]) -> nn.Module:
    return FPN(channels, cfg.width, norm=cfg.head_norm) if cfg.variant == "fpn" else nn.Identity()


def box_body(cfg: Config, channels: int) -> tuple[nn.Module, int]:
    if cfg.variant == "c4":
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), channels
    if cfg.head_norm is None:
        return two_layers(channels, 7, hidden=cfg.hidden), cfg.hidden
    return convolutions_and_layer(channels, 7, norm=cfg.head_norm, hidden=cfg.hidden), cfg.hidden


class Branch(Protocol):
    """A module that draws masks: called with levels, regions and targets it gives losses."""

    def __call__(self, levels: list[Tensor], regions: list[Regions], targets: list[Targets]) -> Losses: ...

    def draw(
        self, levels: list[Tensor], regions: Sequence[Float[Tensor, "_ 4"]], labels: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n m m"], Float[Tensor, " n"]]: ...


MakeNeck = Callable[[Sequence[int]], nn.Module]
"""From the channels of the backbone's maps."""
MakeReader = Callable[[Pool, nn.Module], Read]
"""From what pools the features of a region, and the stage that these go through."""
MakeBody = Callable[[int], tuple[nn.Module, int]]
"""What turns features of a region into a vector, and its length, from the channels of these features."""
MakeBranch = Callable[[int, Read], Branch]
"""From the channels of the features of a region, and what reads them."""


class MaskRCNN(nn.Module):
    """Built from parts that other methods replace: neck, reader of regions, body of the box head, branch for masks.

    A part that is passed in has its options bound to it; what is left out is Mask R-CNN's.
    """

    def __init__(
        self,
        cfg: Config,
        *,
        neck: MakeNeck | None = None,
        reader: MakeReader = Reader,
        body: MakeBody | None = None,
        branch: MakeBranch | None = None,
    ):
        super().__init__()
        self.cfg = cfg
        convention = CONVENTIONS[cfg.convention]
        self.backbone, self.last_stage, last_channels = _trunk(cfg)
        self.neck = (neck or partial(pyramid, cfg))(self.backbone.channels)
        channels = cfg.width if cfg.variant == "fpn" else self.backbone.channels[-1]
        strides = self.backbone.strides
        if cfg.variant == "fpn":
            self.rpn_strides = (*strides, 2 * strides[-1])
            sizes = [[cfg.anchor_scale * stride] for stride in self.rpn_strides]
        else:
            self.rpn_strides, sizes = strides, [list(cfg.anchor_sizes)]
        self.rpn = RPN(
            channels, sizes=sizes, strides=self.rpn_strides, convention=convention, convolutions=cfg.rpn_convolutions
        )
        sides = (14, 14) if cfg.variant == "c4" else (7, 14)
        box_pool, mask_pool = (
            Pool(size=side, strides=strides, convention=convention, operator=cfg.operator, reduce=cfg.reduce)
            for side in sides
        )
        self.box_pool = reader(box_pool, self.last_stage)
        region_channels = last_channels or channels
        vector, width = (body or partial(box_body, cfg))(region_channels)
        self.box_head = BoxHead(vector, width, cfg.num_classes, convention=convention)
        branch = branch or partial(MaskBranch, cfg)
        self.mask: Branch | None = branch(region_channels, reader(mask_pool, self.last_stage)) if cfg.masks else None
        own_level = Reader(mask_pool, self.last_stage)
        self.keypoint = KeypointBranch(cfg, region_channels, own_level) if cfg.keypoints else None

    def forward(self, images: Images, targets: list[Targets]) -> Losses:
        cfg = self.cfg
        objects = [matching.objects(t) for t in targets]
        levels = self.levels(images)
        anchors = self.rpn(levels)
        proposals = self.rpn.propose(anchors, images.sizes, per_level=cfg.per_level_train, keep=cfg.proposals_train)
        regions = [
            roi.sampled(p, o, crowds=t.boxes[t.crowd], background=cfg.num_classes, total=cfg.region_samples)
            for p, o, t in zip(proposals, objects, targets, strict=True)
        ]
        outputs = self.box_head(self.box_pool(levels, [r.boxes for r in regions]))
        branches = [branch for branch in (self.mask, self.keypoint) if branch is not None]
        losses = [branch(levels, regions, objects) for branch in branches]
        return {
            **self.rpn.loss(anchors, objects, total=cfg.anchor_samples),
            **self.box_head.loss(outputs, regions, objects),
            **{name: loss for of_branch in losses for name, loss in of_branch.items()},
        }

    @torch.no_grad()
    def predict(self, images: Images) -> list[Instances]:
        levels = self.levels(images)
        detections = self.detect(levels, images)
        where, labels = [d.boxes for d in detections], torch.cat([d.labels for d in detections])
        counts = [len(d.boxes) for d in detections]
        found = [_instances(self.cfg, images, i, d) for i, d in enumerate(detections)]
        if self.mask is not None:
            drawn, quality = (part.float().split(counts) for part in self.mask.draw(levels, where, labels))
            found = [_masked(self.cfg, *of_one) for of_one in zip(found, drawn, quality, strict=True)]
        if self.keypoint is not None:
            points = self.keypoint.locate(levels, where).split(counts)
            found = [_located(f, p, images.scale(i)) for i, (f, p) in enumerate(zip(found, points, strict=True))]
        return [f.ranked() for f in found]

    def levels(self, images: Images) -> list[Float[Tensor, "b c _ _"]]:
        """What the heads look at."""
        return self.neck(self.backbone(images.normalized(self.backbone.mean, self.backbone.std)))

    def detect(self, levels: list[Tensor], images: Images) -> list[Detections]:
        """Boxes in the pictures inside the padding."""
        cfg = self.cfg
        proposals = self.rpn.propose(
            self.rpn(levels), images.sizes, per_level=cfg.per_level_test, keep=cfg.proposals_test
        )
        outputs = self.box_head(self.box_pool(levels, proposals))
        return list(
            self.box_head.detect(
                outputs,
                proposals,
                images.sizes,
                min_score=cfg.min_score,
                nms_iou=cfg.nms_iou,
                soft_sigma=cfg.soft_nms_sigma,
                most=cfg.max_instances,
            )
        )


def build(cfg: Config) -> MaskRCNN:
    return MaskRCNN(cfg)


# --- masks, for this and for methods that draw them in the same way


def mask_head(cfg: Config, channels: int) -> nn.Module:
    if cfg.class_agnostic and cfg.mask_loss == "softmax":
        raise ValueError("mask_loss 'softmax' lets classes compete for a cell; with class_agnostic there are none")
    outputs = 1 if cfg.class_agnostic else cfg.num_classes + (cfg.mask_loss == "softmax")
    if cfg.mask_head == "fcn":
        convolutions = 0 if cfg.variant == "c4" else 4
        return ConvolutionalMaskHead(channels, outputs, width=cfg.width, convolutions=convolutions, norm=cfg.head_norm)
    size = 7 if cfg.variant == "c4" else 14
    return LinearMaskHead(channels, outputs, size=size, layers=int(cfg.mask_head[-1]), hidden=cfg.hidden)


def wanted(cfg: Config, regions: list[Regions], targets: list[Targets], *, cells: int) -> Float[Tensor, "n m m"]:
    """The objects in the grids of the masks."""
    return masks_of(regions, targets, cells=cells, convention=CONVENTIONS[cfg.convention])


def mask_loss(
    cfg: Config, logits: Float[Tensor, "n c m m"], regions: list[Regions], truth: Float[Tensor, "n m m"]
) -> Float[Tensor, ""]:
    labels = torch.cat([r.positive_labels for r in regions])
    if cfg.mask_loss == "softmax":
        classes = torch.where(truth >= 0.5, labels[:, None, None], cfg.num_classes)
        rows = logits.movedim(1, -1).flatten(0, -2)
        return F.cross_entropy(rows, classes.flatten(), reduction="sum") / max(truth.numel(), 1)
    drawn = of_class(cfg, logits, labels)
    return F.binary_cross_entropy_with_logits(drawn, truth.to(drawn.dtype), reduction="sum") / max(truth.numel(), 1)


def of_class(cfg: Config, logits: Float[Tensor, "n c m m"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n m m"]:
    return logits[:, 0] if cfg.class_agnostic else own(logits, labels)


def probabilities(cfg: Config, logits: Float[Tensor, "n c m m"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n m m"]:
    """Probabilities of each region's mask for its class."""
    return own(logits.softmax(1), labels) if cfg.mask_loss == "softmax" else of_class(cfg, logits, labels).sigmoid()


def of_all_classes(cfg: Config, logits: Float[Tensor, "n c m m"]) -> Float[Tensor, "n k m m"]:
    """Probabilities, without that of the background where classes compete."""
    return logits.softmax(1)[:, :-1] if cfg.mask_loss == "softmax" else logits.sigmoid()


# --- how the variants are put together


def _trunk(cfg: Config) -> tuple[backbones.Backbone, nn.Module, int | None]:
    """The backbone, and the stage that each region goes through alone with its channels."""
    stages = {"fpn": tuple(range(cfg.fpn_from, 6)), "c4": (4,), "c5": (5,), "dc5": (5,)}[cfg.variant]
    backbone = backbones.build(
        cfg.backbone,
        norm=cfg.norm,
        weights=cfg.weights,
        stages=stages,
        dilate=cfg.variant == "dc5",
        frozen=cfg.frozen_stages,
        deformable=[stage for stage in cfg.deformable if stage <= max(stages)],
        stride_first=cfg.stride_first,
        mean=cfg.pixel_mean,
        std=cfg.pixel_std,
    )
    if cfg.variant != "c4":
        return backbone, nn.Identity(), None
    last, channels = backbones.last_stage(
        cfg.backbone,
        norm=cfg.norm,
        weights=cfg.weights,
        stride_first=cfg.stride_first,
        deformable=5 in cfg.deformable,
    )
    return backbone, last, channels


def _instances(cfg: Config, images: Images, i: int, found: Detections) -> Instances:
    """What was found in picture i, in its original coordinates, with masks that have no pixels yet."""
    convention, (x, y) = CONVENTIONS[cfg.convention], images.scale(i)
    empty = found.labels.new_zeros(0, dtype=torch.bool), found.labels.new_zeros(len(found.labels), 4)
    return Instances.scored(
        boxes=convention.clip(convention.scale(found.boxes, x=x, y=y), images.originals[i]),
        labels=found.labels,
        scores=found.scores,
        masks=Masks(*empty, images.originals[i]),
    )


def _masked(cfg: Config, found: Instances, drawn: Float[Tensor, "n m m"], quality: Float[Tensor, " n"]) -> Instances:
    """The same with their masks, drawn in the original picture."""
    convention = CONVENTIONS[cfg.convention]
    region = boxes.to_inclusive(found.boxes) if convention.inclusive else found.boxes
    masks = Masks.paste(drawn, region, found.masks.size, convention=convention.paste)
    return replace(found, masks=masks, quality=quality, mask_scores=found.scores * quality)


def _located(found: Instances, points: Float[Tensor, "n k 3"], scale: tuple[float, float]) -> Instances:
    """The same with their keypoints."""
    return replace(found, keypoints=points * points.new_tensor([*scale, 1]))
