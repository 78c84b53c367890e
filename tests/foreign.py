"""Detectron, maskrcnn-benchmark, maskscoring_rcnn and Detectron2 as their papers and formulas have them, in one file.

Written for comparison, from what is published about the arithmetic, without anything of maskwise. Weights are made by
chance when they are asked for first, under the names of maskrcnn-benchmark.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

PYRAMID = [
    [[-22, -10, 25, 13], [-14, -14, 17, 17], [-10, -22, 13, 25]],
    [[-40, -20, 47, 27], [-28, -28, 35, 35], [-20, -44, 27, 51]],
    [[-84, -40, 99, 55], [-56, -56, 71, 71], [-36, -80, 51, 95]],
    [[-164, -72, 195, 103], [-112, -112, 143, 143], [-76, -168, 107, 199]],
    [[-332, -152, 395, 215], [-224, -224, 287, 287], [-148, -328, 211, 391]],
]
"""Anchors of a cell of each level, by first and last pixel: those of 32 to 512 pixels at strides 4 to 64."""
ONE_LEVEL = [
    *([-15, -4, 30, 19], [-38, -16, 53, 31], [-84, -40, 99, 55], [-176, -88, 191, 103], [-360, -184, 375, 199]),
    *([-8, -8, 23, 23], [-24, -24, 39, 39], [-56, -56, 71, 71], [-120, -120, 135, 135], [-248, -248, 263, 263]),
    *([-3, -14, 18, 29], [-14, -36, 29, 51], [-36, -80, 51, 95], [-80, -168, 95, 183], [-168, -344, 183, 359]),
]
"""The fifteen of stride 16."""


class Found(NamedTuple):
    boxes: Tensor
    """As the program has them: legacy ones by first and last pixel."""
    classes: Tensor
    """As the program counts them: from 1 where background is 0."""
    scores: Tensor
    mask_scores: Tensor
    masks: Tensor


@dataclass
class Detector:
    legacy: bool
    """Inclusive pixels, background first, no epsilon, RoIAlign not aligned; otherwise as Detectron2."""
    variant: str = "fpn"
    maskiou: bool = False
    stride_first: bool = True
    groups: int = 1
    mean: tuple[float, float, float] = (102.9801, 115.9465, 122.7717)
    """BGR, in 0..255."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    bottlenecks: bool = True
    classes: int = 4
    width: int = 32
    hidden: int = 48
    proposals: int = 60
    most: int = 30
    min_score: float = 0.3
    weights: dict[str, Tensor] = field(default_factory=dict)
    chance: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(7))

    def __post_init__(self):
        self.one = int(self.legacy)
        self.outputs = self.classes + self.one

    # --- layers

    def weight(self, name, *shape, std, about=0.0):
        if name not in self.weights:
            self.weights[name] = about + std * torch.randn(*shape, generator=self.chance)
        return self.weights[name]

    def convolution(self, name, x, out, size=1, *, stride=1, bias=True, groups=1, dilation=1, gain=1.4):
        fan = x.shape[1] // groups * size**2
        weight = self.weight(f"{name}.weight", out, x.shape[1] // groups, size, size, std=gain / math.sqrt(fan))
        shift = self.weight(f"{name}.bias", out, std=0.1) if bias else None
        return F.conv2d(x, weight, shift, stride, size // 2 * dilation, dilation, groups)

    def larger(self, name, x, out):
        weight = self.weight(f"{name}.weight", x.shape[1], out, 2, 2, std=1 / math.sqrt(x.shape[1]))
        return F.conv_transpose2d(x, weight, self.weight(f"{name}.bias", out, std=0.1), 2)

    def linear(self, name, x, out, gain=1.4):
        weight = self.weight(f"{name}.weight", out, x.shape[1], std=gain / math.sqrt(x.shape[1]))
        return x @ weight.T + self.weight(f"{name}.bias", out, std=0.1)

    def norm(self, name, x, about=0.7):
        c = x.shape[1]
        scale, shift = self.weight(f"{name}.weight", c, std=0.1, about=about), self.weight(f"{name}.bias", c, std=0.1)
        mean = self.weight(f"{name}.running_mean", c, std=0.1)
        var = self.weight(f"{name}.running_var", c, std=0.1, about=1.0).abs_()
        scale = scale / (var + (0 if self.legacy else 1e-5)).sqrt()
        return (x - mean[:, None, None]) * scale[:, None, None] + shift[:, None, None]

    # --- backbone

    def pixels(self, picture):
        """BGR in 0..255 without the mean, then padded."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        h, w = picture.shape[1:]
        return F.pad((picture.flip(0) * 255 - mean) / std, (0, -w % 32, 0, -h % 32))[None]

    def stage(self, name, x, width, blocks, *, stride, dilation=1):
        for i in range(blocks):
            place, first = f"{name}.{i}", i == 0
            step = stride if first else 1
            out = width * 4 if self.bottlenecks else width
            short = x
            if first and (step > 1 or x.shape[1] != out):
                short = self.convolution(f"{place}.downsample.0", x, out, stride=step, bias=False, gain=1.0)
                short = self.norm(f"{place}.downsample.1", short)
            if self.bottlenecks:
                a, b = (step, 1) if self.stride_first else (1, step)
                inner = width if self.groups == 1 else 4 * width  # 32 x 8d, 64 x 4d
                y = self.norm(f"{place}.bn1", self.convolution(f"{place}.conv1", x, inner, stride=a, bias=False)).relu()
                y = self.convolution(
                    f"{place}.conv2", y, inner, 3, stride=b, bias=False, groups=self.groups, dilation=dilation
                )
                y = self.convolution(f"{place}.conv3", self.norm(f"{place}.bn2", y).relu(), out, bias=False)
                y = self.norm(f"{place}.bn3", y, about=0.3)
            else:
                y = self.convolution(f"{place}.conv1", x, width, 3, stride=step, bias=False)
                y = self.convolution(f"{place}.conv2", self.norm(f"{place}.bn1", y).relu(), width, 3, bias=False)
                y = self.norm(f"{place}.bn2", y, about=0.3)
            x = (y + short).relu()
        return x

    def maps(self, pixels):
        x = self.convolution("backbone.body.stem.conv1", pixels, 64, 7, stride=2, bias=False, gain=0.02)
        x = F.max_pool2d(self.norm("backbone.body.stem.bn1", x).relu(), 3, 2, 1)
        maps = []
        for i in range(3 if self.variant == "c4" else 4):
            dilated = self.variant == "dc5" and i == 3
            stride, dilation = (1, 2) if dilated else (1 if i == 0 else 2, 1)
            place = f"backbone.body.layer{i + 1}"
            x = self.stage(place, x, 64 * 2**i, self.blocks[i], stride=stride, dilation=dilation)
            maps.append(x)
        return maps

    def levels(self, pixels):
        maps = self.maps(pixels)
        if self.variant != "fpn":
            return maps[-1:]
        inner = [self.convolution(f"backbone.fpn.fpn_inner{i + 1}", x, self.width) for i, x in enumerate(maps)]
        for i in (2, 1, 0):
            inner[i] = inner[i] + inner[i + 1].repeat_interleave(2, 2).repeat_interleave(2, 3)
        levels = [self.convolution(f"backbone.fpn.fpn_layer{i + 1}", x, self.width, 3) for i, x in enumerate(inner)]
        return [*levels, levels[-1][:, :, ::2, ::2]]

    # --- boxes

    def anchors(self, i):
        if self.legacy:
            return torch.tensor(PYRAMID[i] if self.variant == "fpn" else ONE_LEVEL, dtype=torch.float32)
        sizes = [32 * 2**i] if self.variant == "fpn" else [32, 64, 128, 256, 512]
        sides = [(math.sqrt(s**2 / ratio), math.sqrt(s**2 / ratio) * ratio) for s in sizes for ratio in (0.5, 1, 2)]
        return torch.tensor([[-w / 2, -h / 2, w / 2, h / 2] for w, h in sides])

    def decode(self, deltas, boxes, weights):
        size = boxes[:, 2:] - boxes[:, :2] + self.one
        centre = boxes[:, :2] + 0.5 * size
        shift, growth = deltas[:, :2] / weights[0], (deltas[:, 2:] / weights[1]).clamp(max=math.log(1000 / 16))
        middle, size = shift * size + centre, growth.exp() * size
        return torch.cat([middle - 0.5 * size, middle + 0.5 * size - self.one], 1)

    def clip(self, boxes, size):
        h, w = size
        return boxes.clamp(min=0).minimum(torch.tensor([w, h, w, h]) - self.one)

    def nms(self, boxes, scores, limit):
        order, keep = scores.argsort(descending=True).tolist(), []
        area = (boxes[:, 2:] - boxes[:, :2] + self.one).prod(1)
        gone = torch.zeros(len(boxes), dtype=torch.bool)
        for i in order:
            if not gone[i]:
                keep.append(i)
                side = torch.minimum(boxes[i, 2:], boxes[:, 2:]) - torch.maximum(boxes[i, :2], boxes[:, :2])
                shared = (side + self.one).clamp(min=0).prod(1)
                gone |= shared / (area[i] + area - shared) > limit
        return torch.tensor(keep, dtype=torch.int64)

    def propose(self, levels, size):
        several = []
        for i, x in enumerate(levels):
            base, stride = self.anchors(i), 4 * 2**i if self.variant == "fpn" else 16
            y = self.convolution("rpn.head.conv", x, x.shape[1], 3).relu()
            score = self.convolution("rpn.head.cls_logits", y, len(base), gain=1.0)[0].permute(1, 2, 0).flatten()
            delta = self.convolution("rpn.head.bbox_pred", y, 4 * len(base), gain=0.2)[0]
            delta = delta.permute(1, 2, 0).reshape(-1, 4)
            at = torch.cartesian_prod(torch.arange(x.shape[2]), torch.arange(x.shape[3])).flip(1) * stride
            anchors = (torch.cat([at, at], 1)[:, None] + base).reshape(-1, 4)
            score, top = score.topk(min(1000 if self.variant == "fpn" else 6000, len(score)))
            boxes = self.clip(self.decode(delta[top], anchors[top], (1, 1)), size)
            if not self.legacy:
                whole = (boxes[:, 2:] > boxes[:, :2]).all(1)
                boxes, score = boxes[whole], score[whole]
            keep = self.nms(boxes, score, 0.7)
            several.append((boxes[keep], score[keep]))
        boxes, scores = (torch.cat(part) for part in zip(*several, strict=True))
        return boxes[scores.argsort(descending=True)[: self.proposals]]

    def pool(self, levels, boxes, cells):
        rois = torch.cat([boxes.new_zeros(len(boxes), 1), boxes], 1)
        sampling = 2 if self.legacy and self.variant == "fpn" else 0
        if self.variant != "fpn":
            return roi_align(levels[0], rois, cells, 1 / 16, sampling, not self.legacy)
        area = (boxes[:, 2:] - boxes[:, :2] + self.one).prod(1)
        level = (4 + (area.sqrt() / 224 + 1e-6).log2()).floor().clamp(2, 5)
        out = torch.zeros(len(boxes), levels[0].shape[1], cells, cells)
        for i in range(4):
            at = level == i + 2
            out[at] = roi_align(levels[i], rois[at], cells, 1 / (4 * 2**i), sampling, not self.legacy)
        return out

    def detect(self, levels, proposals, size):
        scores, deltas = self.name(levels, proposals)
        scores, several = scores.softmax(1), []
        for k in range(1, self.classes + 1) if self.legacy else range(self.classes):
            at = scores[:, k] > self.min_score
            box = self.clip(self.decode(deltas[at, 4 * k : 4 * k + 4], proposals[at], (10, 5)), size)
            keep = self.nms(box, scores[at, k], 0.5)
            several.append((box[keep], torch.full((len(keep),), k), scores[at, k][keep]))
        boxes, classes, scores = (torch.cat(part) for part in zip(*several, strict=True))
        best = scores.argsort(descending=True)[: self.most]
        return boxes[best], classes[best], scores[best]

    def name(self, levels, boxes):
        place = "roi_heads.box.feature_extractor"
        if self.variant == "c4":
            x = self.stage(f"{place}.head.layer4", self.pool(levels, boxes, 14), 512, self.blocks[3], stride=2)
            x = x.mean((2, 3))
        else:
            x = self.linear(f"{place}.fc6", self.pool(levels, boxes, 7).flatten(1), self.hidden).relu()
            x = self.linear(f"{place}.fc7", x, self.hidden).relu()
        scores = self.linear("roi_heads.box.predictor.cls_score", x, self.classes + 1)
        return scores, self.linear("roi_heads.box.predictor.bbox_pred", x, 4 * self.outputs, gain=0.5)

    # --- masks

    def draw(self, levels, boxes, classes):
        features = x = self.pool(levels, boxes, 14)
        if self.variant == "c4":
            x = self.stage("roi_heads.box.feature_extractor.head.layer4", x, 512, self.blocks[3], stride=2)
        else:
            for i in range(4):
                x = self.convolution(f"roi_heads.mask.feature_extractor.mask_fcn{i + 1}", x, self.width, 3).relu()
        x = self.larger("roi_heads.mask.predictor.conv5_mask", x, self.width).relu()
        x = self.convolution("roi_heads.mask.predictor.mask_fcn_logits", x, self.outputs)
        own = x[torch.arange(len(x)), classes].sigmoid()
        return own, self.judge(features, own, classes) if self.maskiou else torch.ones(len(own))

    def judge(self, features, own, classes):
        x, place = torch.cat([features, F.max_pool2d(own[:, None], 2)], 1), "roi_heads.maskiou"
        for i in range(4):
            name = f"{place}.feature_extractor.maskiou_fcn{i + 1}"
            x = self.convolution(name, x, self.width, 3, stride=1 + (i == 3)).relu()
        for i in range(2):
            x = self.linear(f"{place}.feature_extractor.maskiou_fc{i + 1}", x.flatten(1), self.hidden).relu()
        x = self.linear(f"{place}.predictor.maskiou", x, self.outputs, gain=0.5)
        return x[torch.arange(len(x)), classes]

    def paste(self, mask, box, size):
        canvas = torch.zeros(size, dtype=torch.bool)
        if not self.legacy:
            y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
            at = torch.stack([(x - box[0]) / (box[2] - box[0]), (y - box[1]) / (box[3] - box[1])], 2) * 2 - 1
            return F.grid_sample(mask[None, None], at[None], align_corners=False)[0, 0] >= 0.5
        m = len(mask)
        padded, half = F.pad(mask, (1, 1, 1, 1)), (box[2:] - box[:2]) / 2 * (m + 2) / m
        middle = (box[2:] + box[:2]) / 2
        x0, y0, x1, y1 = (int(v) for v in torch.cat([middle - half, middle + half]))
        w, h = max(x1 - x0 + 1, 1), max(y1 - y0 + 1, 1)
        drawn = F.interpolate(padded[None, None], (h, w), mode="bilinear", align_corners=False)[0, 0] > 0.5
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1 + 1, size[1]), min(y1 + 1, size[0])
        canvas[top:bottom, left:right] = drawn[top - y0 : bottom - y0, left - x0 : right - x0]
        return canvas

    # --- all of it

    @torch.no_grad()
    def __call__(self, picture, original):
        """One picture, RGB in 0..1; answers in the coordinates of the original."""
        size = tuple(picture.shape[1:])
        levels = self.levels(self.pixels(picture))
        boxes, classes, scores = self.detect(levels, self.propose(levels, size), size)
        own, quality = self.draw(levels, boxes, classes)
        ratio = torch.tensor([original[1] / size[1], original[0] / size[0]]).repeat(2)
        boxes = self.clip(boxes * ratio, original)
        masks = [self.paste(mask, box, original) for mask, box in zip(own, boxes, strict=True)]
        return Found(boxes, classes, scores, scores * quality, torch.stack(masks))


@torch.no_grad()
def with_opinions(detector: Detector, picture: Tensor, spread: float = 1.5) -> Detector:
    """Weights by chance, with scores of regions that differ much, around zero."""
    levels = detector.levels(detector.pixels(picture))
    size = tuple(picture.shape[1:])
    proposals = detector.propose(levels, size)
    scores, _ = detector.name(levels, proposals)
    detector.draw(levels, proposals[:1], torch.zeros(1, dtype=torch.int64))
    scale = spread / scores.std(0).mean()
    weight, bias = (detector.weights[f"roi_heads.box.predictor.cls_score.{k}"] for k in ("weight", "bias"))
    weight.mul_(scale)
    bias.copy_(-scale * (scores.mean(0) - bias))
    return detector


# --- names of others

BLOBS = (
    ("backbone.body.stem.conv1", "conv1"),
    ("backbone.body.stem.bn1", "res_conv1_bn"),
    ("rpn.head.conv", "conv_rpn_fpn2"),
    ("rpn.head.cls_logits", "rpn_cls_logits_fpn2"),
    ("rpn.head.bbox_pred", "rpn_bbox_pred_fpn2"),
    ("roi_heads.mask.feature_extractor.mask_fcn", "_[mask]_fcn"),
)


def of_detectron(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of Caffe2, with momentum and what is left of a classifier."""
    blobs = {"fc1000_w": torch.zeros(1000, 2048), "conv1_b": torch.zeros(64), "fc6_w_momentum": torch.ones(1)}
    for key, value in weights.items():
        name, _, last = key.rpartition(".")
        if last.startswith("running"):
            continue
        for there, here in BLOBS:
            name = name.replace(there, here)
        if name.startswith("backbone.body.layer"):
            stage, block, *layer = name.removeprefix("backbone.body.layer").split(".")
            branch = {"conv": "2", "bn": "2"}.get(layer[0][:-1])
            letter = f"branch2{'abc'[int(layer[0][-1]) - 1]}" if branch else "branch1"
            norm = "_bn" if layer[0].startswith("bn") or layer[-1] == "1" else ""
            name = f"res{int(stage) + 1}_{block}_{letter}{norm}"
        if name.startswith("backbone.fpn.fpn_"):
            stage, inner = int(name[-1]), "inner" in name
            end = (2, 3, 5, 2)[stage - 1]
            name = f"fpn_{'inner_' if inner else ''}res{stage + 1}_{end}_sum{'_lateral' if inner and stage < 4 else ''}"
        name = name.rpartition(".")[2]
        is_norm = name.endswith("_bn")
        blobs[name + {"weight": "_s" if is_norm else "_w", "bias": "_b"}[last]] = value
    return blobs


RENAMED = (
    ("backbone.body.stem.bn1", "backbone.bottom_up.stem.conv1.norm"),
    ("backbone.body.stem.conv1", "backbone.bottom_up.stem.conv1"),
    ("rpn.head.conv", "proposal_generator.rpn_head.conv"),
    ("rpn.head.cls_logits", "proposal_generator.rpn_head.objectness_logits"),
    ("rpn.head.bbox_pred", "proposal_generator.rpn_head.anchor_deltas"),
    ("roi_heads.box.feature_extractor.fc6", "roi_heads.box_head.fc1"),
    ("roi_heads.box.feature_extractor.fc7", "roi_heads.box_head.fc2"),
    ("roi_heads.box.predictor", "roi_heads.box_predictor"),
    ("roi_heads.mask.feature_extractor.mask_fcn", "roi_heads.mask_head.mask_fcn"),
    ("roi_heads.mask.predictor.conv5_mask", "roi_heads.mask_head.deconv"),
    ("roi_heads.mask.predictor.mask_fcn_logits", "roi_heads.mask_head.predictor"),
    ("roi_heads.box.feature_extractor.head.layer4", "roi_heads.res5"),
    *((f"backbone.body.layer{i}", f"backbone.bottom_up.res{i + 1}") for i in range(1, 5)),
    *((f"backbone.fpn.fpn_inner{i}", f"backbone.fpn_lateral{i + 1}") for i in range(1, 5)),
    *((f"backbone.fpn.fpn_layer{i}", f"backbone.fpn_output{i + 1}") for i in range(1, 5)),
    ("downsample.0", "shortcut"),
    ("downsample.1", "shortcut.norm"),
    *((f".bn{i}.", f".conv{i}.norm.") for i in (1, 2, 3)),
)


def of_detectron2(theirs: Detector) -> dict[str, Tensor]:
    """Names of Detectron2."""
    state = {}
    for key, value in theirs.weights.items():
        for there, here in RENAMED:
            key = key.replace(there, here)
        state[key if theirs.variant == "fpn" else key.replace("backbone.bottom_up.", "backbone.")] = value
    return state
