"""Mask Scoring R-CNN. Zhaojin Huang, Lichao Huang, Yongchao Gong, Chang Huang, Xinggang Wang, CVPR 2019.
https://arxiv.org/abs/1903.00241

How sure the box head is of a class says little about how good the mask is. So one more small head looks at the features
of a box and at the mask that was drawn there, and predicts the IoU of that mask with the object. Class score times
predicted IoU ranks the masks; boxes, and the masks themselves, stay what they were.

Differs from the paper in: the predicted IoU is clamped to 0..1 before it multiplies the score; the share of the object
that lies in a box is measured on its pixels and not on polygons (parts of one object that overlap count once).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from maskwise import boxes
from maskwise.methods import mask_rcnn
from maskwise.methods.mask_rcnn import MaskRCNN, Reader
from maskwise.parts.mask_head import MaskIoUHead, mask_iou, mask_iou_loss, own, share_inside
from maskwise.parts.roi import Regions
from maskwise.structures import Losses, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(mask_rcnn.Config):
    """The options of Mask R-CNN, and these."""

    quality_input: Literal["concatenated", "multiplied", "all_classes", "unpooled", "mask_only"] = "concatenated"
    """What the quality head sees of mask and features (Table 4; the last is the authors', in their repository)."""
    quality_classes: Literal["own", "all", "present"] = "own"
    """Which outputs a region supervises: that of its own class; every class, with target 0 where the class is absent;
    or every class with an object in the region (Table 5)."""
    quality_above: float = 0.0
    """Only masks of a greater IoU than this teach the quality head (Table 6)."""
    quality_weight: float = 1.0
    """Weight of its loss."""
    quality_detached: Literal["nothing", "mask", "features", "both"] = "nothing"
    """Inputs of the quality head that its loss sends no gradient into."""


class ScoredMaskBranch(nn.Module):
    """Mask R-CNN's branch, and how good its masks are."""

    def __init__(self, cfg: Config, channels: int, pool: Reader):
        super().__init__()
        self.cfg, self.pool = cfg, pool
        self.head = mask_rcnn.mask_head(cfg, channels)
        extra = {"multiplied": 0, "all_classes": 1 if cfg.class_agnostic else cfg.num_classes}.get(cfg.quality_input, 1)
        size = 7 if cfg.variant == "c4" else 14
        unpooled = cfg.quality_input == "unpooled"
        self.iou = MaskIoUHead(
            extra if cfg.quality_input == "mask_only" else channels + extra,
            cfg.num_classes,
            width=cfg.width,
            size=2 * size if unpooled else size,
            halvings=(size == 14) + unpooled,
            hidden=cfg.hidden,
        )

    def forward(self, levels: list[Tensor], regions: list[Regions], targets: list[Targets]) -> Losses:
        """Unless what the head sees is detached, its loss trains the mask head and the features, too."""
        cfg, where = self.cfg, [r.positive for r in regions]
        labels = torch.cat([r.positive_labels for r in regions])
        features = self.pool(levels, where)
        logits = self.head(features)
        truth = mask_rcnn.wanted(cfg, regions, targets, cells=logits.shape[-1])
        quality = self._quality(levels, where, features, logits, labels)
        return {
            "mask": mask_rcnn.mask_loss(cfg, logits, regions, truth),
            "mask_iou": cfg.quality_weight * self._loss(quality, logits, truth, regions, targets),
        }

    def draw(
        self, levels: list[Tensor], regions: Sequence[Float[Tensor, "_ 4"]], labels: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n m m"], Float[Tensor, " n"]]:
        features = self.pool(levels, regions)
        logits = self.head(features)
        quality = self._quality(levels, regions, features, logits, labels)
        return mask_rcnn.probabilities(self.cfg, logits, labels), own(quality, labels).clamp(0, 1)

    def _quality(
        self,
        levels: list[Tensor],
        regions: Sequence[Float[Tensor, "_ 4"]],
        features: Float[Tensor, "n d s s"],
        logits: Float[Tensor, "n k m m"],
        labels: Int[Tensor, " n"],
    ) -> Float[Tensor, "n c"]:
        features, logits = self._detached(features, "features"), self._detached(logits, "mask")
        mask = mask_rcnn.probabilities(self.cfg, logits, labels)[:, None]
        match self.cfg.quality_input:
            case "concatenated":
                x = torch.cat([features, F.max_pool2d(mask, 2)], 1)
            case "multiplied":
                x = features * F.max_pool2d(mask, 2)
            case "all_classes":
                x = torch.cat([features, F.max_pool2d(mask_rcnn.of_all_classes(self.cfg, logits), 2)], 1)
            case "unpooled":
                x = torch.cat([self._detached(self.pool.at(28)(levels, regions), "features"), mask], 1)
            case "mask_only":
                x = F.max_pool2d(mask, 2)
        return self.iou(x)

    def _detached(self, x: Float[Tensor, "..."], part: Literal["mask", "features"]) -> Float[Tensor, "..."]:
        return x.detach() if self.cfg.quality_detached in (part, "both") else x

    def _loss(
        self,
        quality: Float[Tensor, "n c"],
        logits: Float[Tensor, "n k m m"],
        truth: Float[Tensor, "n m m"],
        regions: list[Regions],
        targets: list[Targets],
    ) -> Float[Tensor, ""]:
        labels = torch.cat([r.positive_labels for r in regions])
        own_iou = self._true_iou(logits, truth, regions, targets)
        if self.cfg.quality_classes == "own":
            return mask_iou_loss(own(quality, labels), own_iou, above=self.cfg.quality_above)
        return self._loss_of_classes(quality, own_iou, logits, regions, targets)

    def _loss_of_classes(
        self,
        quality: Float[Tensor, "n c"],
        own_iou: Float[Tensor, " n"],
        logits: Float[Tensor, "n k m m"],
        regions: list[Regions],
        targets: list[Targets],
    ) -> Float[Tensor, ""]:
        """Table 5: a region also supervises outputs of other classes, by the objects of these that lie in it."""
        cfg, labels = self.cfg, torch.cat([r.positive_labels for r in regions])
        places, others = zip(*[_others(r, t) for r, t in zip(regions, targets, strict=True)], strict=True)
        rows = torch.arange(len(labels), device=labels.device)
        of_pictures = rows.split([len(r.matched) for r in regions])
        row = torch.cat([of_picture[place] for of_picture, place in zip(of_pictures, places, strict=True)])
        truth = mask_rcnn.wanted(cfg, list(others), targets, cells=logits.shape[-1])
        iou = torch.zeros_like(quality, dtype=own_iou.dtype)
        iou[row, torch.cat([o.labels for o in others])] = self._true_iou(logits[row], truth, list(others), targets)
        iou[rows, labels] = own_iou
        teaches = iou > cfg.quality_above
        if cfg.quality_classes == "all":
            teaches = (own_iou > cfg.quality_above)[:, None].expand_as(iou)
        return (0.5 * (quality - iou) ** 2)[teaches].sum() / teaches.sum().clamp(min=1) + quality.sum() * 0

    @torch.no_grad()
    def _true_iou(
        self,
        logits: Float[Tensor, "n c m m"],
        truth: Float[Tensor, "n m m"],
        regions: list[Regions],
        targets: list[Targets],
    ) -> Float[Tensor, " n"]:
        """IoU of the mask that each region has for its class with its object."""
        labels = torch.cat([r.positive_labels for r in regions])
        drawn = mask_rcnn.probabilities(self.cfg, logits, labels) > 0.5
        return mask_iou(drawn, truth >= 0.5, share_inside(regions, targets))


def _others(regions: Regions, targets: Targets) -> tuple[Int[Tensor, " m"], Regions]:
    """Which positives show objects of other classes, and these: of each class the one that they show most of."""
    overlap = boxes.intersection(regions.positive, targets.boxes)
    labels = targets.labels.unique()
    of_label = torch.where(targets.labels == labels[:, None, None], overlap, -1)  # class, region, object
    if not len(labels):
        return labels, Regions(regions.positive, labels, labels)
    most, place = of_label.max(2)
    which, row = torch.where((most > 0) & (labels[:, None] != regions.positive_labels))
    return row, Regions(regions.positive[row], labels[which], place[which, row])


def build(cfg: Config) -> MaskRCNN:
    return MaskRCNN(cfg, branch=partial(ScoredMaskBranch, cfg))
