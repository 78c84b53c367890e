"""Multi-task Network Cascades. Jifeng Dai, Kaiming He, Jian Sun, CVPR 2016. https://arxiv.org/abs/1512.04412

Three tasks, each built on the one before: boxes without a class, a mask without a class in each box, and the class of
what the mask shows, seen through features of the box and through the same features where the mask is. All is learned at
once, because RoIWarp has a gradient for the box it reads: how well masks and classes fit also teaches where boxes lie.
With five stages, the boxes that the third regresses go through the second and third again, with the same weights.

Differs from the paper in:

- Architecture: a sigmoid says what may be an object, which is a softmax over two; box offsets are predicted for objects
  only (regions that look most like background stay where they are); no dropout. Coordinates are continuous.
- Features are read as the authors' program does it: corners rounded to whole cells with a gradient as if they were not,
  and that gradient limited for each offset; four even points a bin.
- Losses: that of masks is a mean over cells and not their sum; a cell is to be drawn where its object covers 0.4 of it;
  whether a drawn mask fits its object is judged on the cells of its region, with what lies outside counted, and not on
  pixels.
- Sampling: the RPN chooses the anchors that it learns from by itself, also those that cross the border, where the
  authors' program adds those of the regions that the cascade moves; of the second round's regions no more than twice
  the first's are learned from.
- Prediction: masks that vote are drawn once, in the original picture; the boxes are those of box regression, which the
  paper finds better than boxes around the masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from maskwise import backbones, boxes
from maskwise.parts import matching, roi, voting
from maskwise.parts.box_head import WEIGHTS, BoxHead, BoxOutputs, two_layers
from maskwise.parts.convention import Convention
from maskwise.parts.mask_head import mask_iou, own, share_inside
from maskwise.parts.matching import BACKGROUND, BETWEEN, at_random, match
from maskwise.parts.norms import Norm
from maskwise.parts.roi import Pool, Regions
from maskwise.parts.rpn import RPN
from maskwise.structures import Images, Instances, Losses, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    num_classes: int
    stages: Literal[3, 5] = 5
    """Stages of the cascade, when it learns and when it predicts."""
    box_gradient: bool = True
    """Masks and classes teach the boxes that they are read in."""
    backbone: backbones.Name = "vgg16"
    """Its features of stride 16: conv5 of VGG, C4 of others."""
    weights: backbones.Weights = None
    """ImageNet weights of the backbone: a file, or 'imagenet' to have them fetched."""
    norm: Norm = "frozen"
    """Norm of the backbone."""
    frozen_stages: int = 0
    """Stages of the backbone that are not trained; 1 in the published recipe, conv1 and conv2 of VGG."""
    stride_first: bool = False
    """The backbone's blocks have their stride in the first 1x1 convolution, as the first ResNets did."""
    pixel_mean: tuple[float, float, float] | None = None
    """Mean of the pixels that the backbone was trained on, RGB in 0..1; left out, what timm knows of it."""
    pixel_std: tuple[float, float, float] | None = None
    """Standard deviation of these pixels."""
    head: Literal["backbone", "layers"] = "backbone"
    """What sees a region, twice: the backbone's last layers (fc6 and fc7 of VGG, C5 of a ResNet), or two new ones."""
    hidden: int = 4096
    """Width of new layers."""
    mask_cells: int = 28
    """Cells along a side of a mask; 21 in the authors' program."""
    mask_hidden: int = 256
    """Width of the layer that draws masks."""
    mask_weight: float = 2.0
    """Weight of the mask loss, as in the authors' program."""
    anchor_sizes: tuple[float, ...] = (128.0, 256.0, 512.0)
    """Sides of anchors in pixels."""
    anchor_samples: int = 256
    """Anchors of a picture that the RPN learns from."""
    region_samples: int = 64
    """Regions of a picture that the first round learns from."""
    least_side: float = 16.0
    """Proposals that are narrower or lower are dropped, in pixels."""
    boxes_train: int = 12000
    """Proposals of a picture that go into suppression."""
    boxes_test: int = 6000
    """The same to predict."""
    proposals_train: int = 300
    """Proposals of a picture that come out of it."""
    proposals_test: int = 300
    """The same to predict."""
    min_score: float = 0.001
    """Instances that score less are not reported."""
    nms_iou: float = 0.3
    """Boxes that overlap a better one of their class more than this are dropped; their masks may vote."""
    vote_iou: float = 0.5
    """Masks of boxes that overlap at least so much are averaged."""
    threshold: float = 0.4
    """Probability from which a cell or a pixel belongs to the object."""
    max_instances: int = 100
    """Most instances of a picture."""


POSITIVES, NEAR = 0.3, 0.85
"""Share of regions with an object, at most; and of the others, share of those that touch one (IoU 0.1 to 0.5)."""
TOUCHING, IN_CROWD = BETWEEN, BETWEEN - 1
"""What regions of the first round stand for that touch an object and show none, and those in a crowd, which teach
nothing."""
AGAIN = 2
"""Times the regions of the first round, at most, that the second learns from; pictures of the paper have fewer."""
MOST_GRADIENT = 1 / 512
"""Largest gradient of an offset, divided by the pictures of a batch: half of what the RPN's own loss gives it. With
more, proposals flee to where nothing can be mistaken."""
CONVENTION = Convention(rpn_beta=1 / 9, box_beta=1.0)


class StageOutputs(NamedTuple):
    """What the second and third stage say of regions."""

    masks: Float[Tensor, "n m m"]
    """Logits."""
    box: BoxOutputs
    """Logits of the class, seen in the box, and where the box really lies."""
    logits: Float[Tensor, "n c1"]
    """Logits of the class, seen where the mask is; background last."""


class GradientClamp:
    """Clamps the gradient of box offsets to ±`most` times the gradient of the loss itself.

    Hooks on the losses record that factor during backward, because loss scaling (fp16) and accumulation multiply it.
    """

    def __init__(self, most: float):
        self.most, self.scale = most, torch.ones(())

    def recording(self, losses: Losses) -> Losses:
        for loss in losses.values():
            if loss.requires_grad:
                loss.register_hook(self.record_scale)
        return losses

    def record_scale(self, gradient: Float[Tensor, ""]) -> None:
        self.scale = gradient.detach()

    def clamp(self, gradient: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
        most = (self.most * self.scale).to(gradient)
        return gradient.clamp(min=-most, max=most)


class MNC(nn.Module):
    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = cfg
        self.backbone = _backbone(cfg)
        (channels,), strides = self.backbone.channels, self.backbone.strides
        convention = replace(CONVENTION, least_proposal=cfg.least_side)
        self.rpn = RPN(channels, sizes=[cfg.anchor_sizes], strides=strides, convention=convention)
        self.pool = Pool(size=14, strides=strides, convention=convention, operator="warp", reduce="maximum")
        self.mask = _drawing(cfg, channels)
        self.box_path, width = _path(cfg, channels)
        self.mask_path, _ = _path(cfg, channels)
        self.box_head = BoxHead(nn.Flatten(), 2 * width, cfg.num_classes, convention=convention)
        self.score = nn.Linear(2 * width, cfg.num_classes + 1)
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.zeros_(self.score.bias)

    def forward(self, images: Images, targets: list[Targets]) -> Losses:
        cfg, objects, crowds = self.cfg, [matching.objects(t) for t in targets], [t.boxes[t.crowd] for t in targets]
        x = self.features(images)
        anchors = self.rpn([x])
        clamp = GradientClamp(MOST_GRADIENT / len(targets))
        passed = anchors._replace(offsets=[self.passed(o, clamp) for o in anchors.offsets])
        proposals = self.rpn.propose(passed, images.sizes, per_level=cfg.boxes_train, keep=cfg.proposals_train)
        losses = self.rpn.loss(anchors, objects, total=cfg.anchor_samples)
        truth = list(zip(objects, crowds, strict=True))
        regions = [first_regions(cfg, p, *t) for p, t in zip(proposals, truth, strict=True)]
        first, outputs = self.learn(x, regions, objects)
        if cfg.stages == 3:
            return clamp.recording(losses | first)
        best = outputs.logits[:, :-1].argmax(1)
        moved = self.move([r.boxes for r in regions], outputs.box.offsets, best, images, clamp)
        regions = [second_regions(cfg, m, *t) for m, t in zip(moved, truth, strict=True)]
        again, _ = self.learn(x, regions, objects)
        return clamp.recording(losses | first | {f"{name}_again": loss for name, loss in again.items()})

    @torch.no_grad()
    def predict(self, images: Images) -> list[Instances]:
        cfg, x = self.cfg, self.features(images)
        where = self.rpn.propose(self.rpn([x]), images.sizes, per_level=cfg.boxes_test, keep=cfg.proposals_test)
        rounds = [(where, self.draw_and_classify(x, where))]
        if cfg.stages == 5:
            _, outputs = rounds[0]
            where = self.move(where, outputs.box.offsets, outputs.logits.argmax(1), images)
            rounds.append((where, self.draw_and_classify(x, where)))
        split = [_split(*of_round) for of_round in rounds]
        return [_voted(cfg, images, i, of_picture) for i, of_picture in enumerate(zip(*split, strict=True))]

    def features(self, images: Images) -> Float[Tensor, "b c _ _"]:
        (x,) = self.backbone(images.normalized(self.backbone.mean, self.backbone.std))
        return x

    def draw_and_classify(self, x: Float[Tensor, "b c _ _"], where: Sequence[Float[Tensor, "_ 4"]]) -> StageOutputs:
        """The second and the third stage."""
        features = self.pool([x], where)
        masks = self.mask(features)
        return StageOutputs(masks, *self.classify(features, masks.sigmoid()))

    def classify(
        self, features: Float[Tensor, "n d s s"], drawn: Float[Tensor, "n m m"]
    ) -> tuple[BoxOutputs, Float[Tensor, "n c1"]]:
        """The third stage: classes, from the features of boxes and from those that the masks leave."""
        share = F.interpolate(drawn[:, None], size=features.shape[-2:], mode="bilinear", align_corners=False)
        x = torch.cat([self.box_path(features), self.mask_path(features * share)], 1)
        return self.box_head(x[..., None, None]), self.score(x)

    def learn(
        self, x: Float[Tensor, "b c _ _"], regions: list[Regions], targets: list[Targets]
    ) -> tuple[Losses, StageOutputs]:
        """Losses of the second and the third stage, in boxes that have a gradient as features have, not as truth."""
        cfg, features = self.cfg, self.pool([x], [r.boxes for r in regions])
        fixed = [replace(r, boxes=r.boxes.detach()) for r in regions]
        truth = wanted(cfg, fixed, targets)
        masks = self.mask(features)
        labels = torch.cat([r.labels for r in fixed])
        positive = labels < cfg.num_classes
        drawn = masks[positive]
        classes = labels.masked_scatter(positive, fitting(cfg, drawn, truth, fixed, targets))
        # only masks that fit are taught by the class that is seen through them
        soft = torch.where((classes < cfg.num_classes)[:, None, None], masks.sigmoid(), masks.sigmoid().detach())
        outputs = StageOutputs(masks, *self.classify(features, soft))
        distance = F.binary_cross_entropy_with_logits(drawn, truth.to(drawn.dtype), reduction="sum")
        entropy = F.cross_entropy(outputs.logits, classes, reduction="sum")
        losses = {
            "mask": cfg.mask_weight * distance / max(truth.numel(), 1),
            "mask_class": entropy / max(len(labels), 1),
            **self.box_head.loss(outputs.box, fixed, targets),
        }
        return losses, outputs

    def move(
        self,
        where: Sequence[Float[Tensor, "_ 4"]],
        offsets: Float[Tensor, "n c 4"],
        labels: Int[Tensor, " n"],
        images: Images,
        clamp: GradientClamp | None = None,
    ) -> list[Float[Tensor, "_ 4"]]:
        """To where each lies if it is of its class; those of the background stay, and those that no number moves."""
        known = labels < self.cfg.num_classes
        by = torch.where(known[:, None], own(offsets, torch.where(known, labels, 0)), 0)
        by = self.passed(by.float(), clamp).split([len(w) for w in where])
        moved = [boxes.decode(o, w, WEIGHTS) for o, w in zip(by, where, strict=True)]
        moved = [torch.where(m.isfinite(), m, w.detach()) for m, w in zip(moved, where, strict=True)]
        return [boxes.clip(m, size) for m, size in zip(moved, images.sizes, strict=True)]

    def passed(self, offsets: Float[Tensor, "*n 4"], clamp: GradientClamp | None) -> Float[Tensor, "*n 4"]:
        """Offsets of the boxes that the next stage works in, with a gradient that is clamped or with none."""
        if clamp is None or not self.cfg.box_gradient or not offsets.requires_grad:
            return offsets.detach()
        passed = offsets.view_as(offsets)
        passed.register_hook(clamp.clamp)
        return passed


def build(cfg: Config) -> MNC:
    return MNC(cfg)


# --- what is learned from


def first_regions(
    cfg: Config, proposals: Float[Tensor, "n 4"], targets: Targets, crowds: Float[Tensor, "k 4"]
) -> Regions:
    """What the first round learns from: some proposals and boxes of objects, at random."""
    candidates, matches = _matched(proposals, targets, crowds, background=0.1)
    kinds = matches >= 0, matches == TOUCHING, matches == BACKGROUND
    first, near, far = (at_random(torch.where(kind)[0]) for kind in kinds)
    first = first[: round(cfg.region_samples * POSITIVES)]
    rest = cfg.region_samples - len(first)
    near = near[: max(round(rest * NEAR), rest - len(far))]
    others = torch.cat([near, far[: rest - len(near)]])
    return roi.chosen(candidates, targets, matches[first], first, others, background=cfg.num_classes)


def second_regions(cfg: Config, moved: Float[Tensor, "n 4"], targets: Targets, crowds: Float[Tensor, "k 4"]) -> Regions:
    """What the second round learns from: all that came out of the first, and the boxes of objects; some, if those are
    hundreds."""
    candidates, matches = _matched(moved, targets, crowds, background=0.5)
    kept = torch.where((matches >= 0) | (matches == BACKGROUND))[0]
    if len(kept) > AGAIN * cfg.region_samples:
        kept = at_random(kept, most=AGAIN * cfg.region_samples)
    first, others = kept[matches[kept] >= 0], kept[matches[kept] == BACKGROUND]
    return roi.chosen(candidates, targets, matches[first], first, others, background=cfg.num_classes)


def wanted(cfg: Config, regions: list[Regions], targets: list[Targets]) -> Bool[Tensor, "n m m"]:
    """The objects in the grids of the masks of positive regions."""
    sampled = [t.masks.sample(r.positive, r.matched, cfg.mask_cells) for r, t in zip(regions, targets, strict=True)]
    return torch.cat(sampled) >= cfg.threshold


@torch.no_grad()
def fitting(
    cfg: Config,
    drawn: Float[Tensor, "n m m"],
    truth: Bool[Tensor, "n m m"],
    regions: list[Regions],
    targets: list[Targets],
) -> Int[Tensor, " n"]:
    """The class of each positive region as its mask shows it: background where the IoU with the object is below 0.5."""
    iou = mask_iou(drawn.sigmoid() >= cfg.threshold, truth, share_inside(regions, targets))
    return torch.where(iou >= 0.5, torch.cat([r.positive_labels for r in regions]), cfg.num_classes)


def _matched(
    regions: Float[Tensor, "n 4"], targets: Targets, crowds: Float[Tensor, "k 4"], *, background: float
) -> tuple[Float[Tensor, "m 4"], Int[Tensor, " m"]]:
    """These and the boxes of objects, with the object that each stands for, TOUCHING, BACKGROUND or IN_CROWD."""
    candidates = torch.cat([regions, targets.boxes])
    with torch.no_grad():
        matches = match(candidates, targets.boxes, positive=0.5, negative=background)
        in_crowd = roi.in_crowd(candidates, crowds) & (matches < 0)
    return candidates, torch.where(in_crowd, IN_CROWD, matches)


# --- what is found


def _split(where: Sequence[Float[Tensor, "_ 4"]], outputs: StageOutputs) -> list[tuple[Tensor, ...]]:
    """Boxes, probabilities of masks and classes, and offsets, picture by picture."""
    probabilities = outputs.masks.float().sigmoid(), outputs.logits.float().softmax(1)[:, :-1]
    parts = *probabilities, outputs.box.offsets.float()
    return list(zip(where, *(part.split([len(w) for w in where]) for part in parts), strict=True))


def _voted(cfg: Config, images: Images, i: int, rounds: Sequence[tuple[Tensor, ...]]) -> Instances:
    """Picture i, from the boxes of all rounds."""
    regions, drawn, scores, offsets = (torch.cat(parts) for parts in zip(*rounds, strict=True))
    found = voting.survivors(regions, scores, min_score=cfg.min_score, nms_iou=cfg.nms_iou, most=cfg.max_instances)
    votes = voting.shares(regions, scores, found, least_iou=cfg.vote_iou)
    (x, y), size = images.scale(i), images.originals[i]
    refined = boxes.decode(offsets[found.which, found.labels], regions[found.which], WEIGHTS)
    return Instances.scored(
        boxes=boxes.clip(boxes.scale(boxes.clip(refined, images.sizes[i]), x=x, y=y), size),
        labels=found.labels,
        scores=found.scores,
        masks=voting.means(drawn, boxes.scale(regions, x=x, y=y), votes, size, threshold=cfg.threshold),
    ).ranked()


# --- how it is put together


def _backbone(cfg: Config) -> backbones.Backbone:
    return backbones.build(
        cfg.backbone,
        norm=cfg.norm,
        weights=cfg.weights,
        stages=(4,),
        frozen=cfg.frozen_stages,
        stride_first=cfg.stride_first,
        mean=cfg.pixel_mean,
        std=cfg.pixel_std,
    )


def _drawing(cfg: Config, channels: int) -> nn.Sequential:
    """The second stage: all of a region to all cells of its mask."""
    cells = cfg.mask_cells
    layers = nn.Linear(channels * 14**2, cfg.mask_hidden), nn.Linear(cfg.mask_hidden, cells**2)
    for layer in layers:
        nn.init.normal_(layer.weight, std=0.001)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.Flatten(), layers[0], nn.ReLU(), layers[1], nn.Unflatten(1, (cells, cells)))


def _path(cfg: Config, channels: int) -> tuple[nn.Module, int]:
    """From a region's 14 x 14 cells to a vector, and its length."""
    if cfg.head == "layers":
        return nn.Sequential(nn.MaxPool2d(2), two_layers(channels, 7, hidden=cfg.hidden)), cfg.hidden
    if cfg.backbone.startswith("vgg"):
        layers = backbones.linear_layers(cfg.backbone, weights=cfg.weights)
        return nn.Sequential(nn.MaxPool2d(2), layers, nn.Flatten()), 4096
    last, channels = backbones.last_stage(
        cfg.backbone, norm=cfg.norm, weights=cfg.weights, stride_first=cfg.stride_first
    )
    return nn.Sequential(last, nn.AdaptiveAvgPool2d(1), nn.Flatten()), channels
