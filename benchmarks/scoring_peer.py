"""torchvision's Mask R-CNN as a method of ours: the same backbone, loop, loader, optimiser and judge.

Its pyramid, heads, losses, sampling and drawing are torchvision's, as wide as ours and with as many proposals.
"""

import statistics
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any, cast

import torch
from models import AsTheyAre
from scoring_cells import BEGUN_ALIKE, PEER
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from maskwise import backbones, optimization
from maskwise.data.loader import Batch
from maskwise.masks import Masks
from maskwise.methods import METHODS, Entry, Method
from maskwise.methods.mask_rcnn import Config
from maskwise.parts.matching import objects
from maskwise.recipes.run import Run
from maskwise.rle import Size
from maskwise.structures import Images, Instances, Losses, Targets
from maskwise.train import AMP

AT_ONCE = 32
"""Masks as large as the picture that are in memory at a time."""


class WithPyramid(nn.Module):
    """The backbone that ours has, under torchvision's pyramid."""

    def __init__(self, body: backbones.Backbone, width: int):
        super().__init__()
        self.body, self.out_channels = body, width
        self.fpn = FeaturePyramidNetwork(list(body.channels), width, extra_blocks=LastLevelMaxPool())

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return self.fpn(OrderedDict((str(i), level) for i, level in enumerate(self.body(pixels))))


class Peer(nn.Module):
    """Speaks our language: `forward` and `predict` of a method."""

    def __init__(self, cfg: Config):
        super().__init__()
        if cfg.variant != "fpn" or cfg.deformable:
            raise ValueError("torchvision's Mask R-CNN stands on a pyramid and has no deformable convolutions")
        body = backbones.build(cfg.backbone, norm=cfg.norm, weights=cfg.weights, frozen=cfg.frozen_stages)
        self.model = TorchvisionMaskRCNN(WithPyramid(body, cfg.width), **_heads(cfg), **_numbers(cfg, body.strides))
        self.model.transform = AsTheyAre(0, 0, list(body.mean), list(body.std))

    def forward(self, images: Images, targets: list[Targets]) -> Losses:
        return self.model(_pictures(images), [_theirs(objects(t)) for t in targets])

    @torch.no_grad()
    def predict(self, images: Images) -> list[Instances]:
        """Their steps one by one, so that masks are drawn once, in the original picture, as ours are."""
        shown, _ = self.model.transform(_pictures(images))
        levels = self.model.backbone(shown.tensors)
        proposals, _ = self.model.rpn(shown, levels)
        found, _ = self.model.roi_heads(levels, proposals, shown.image_sizes)
        return [_ours(one, *sizes) for one, *sizes in zip(found, images.sizes, images.originals, strict=True)]


class BegunAlike(Peer):
    """Where a difference between its boxes and ours may come from: the first layers begin with smaller numbers, the
    last ones with larger."""

    def __init__(self, cfg: Config):
        super().__init__(cfg)
        heads = self.model.roi_heads
        body, predictor = cast(TwoMLPHead, heads.box_head), cast(FastRCNNPredictor, heads.box_predictor)
        for layer in (body.fc6, body.fc7):
            nn.init.kaiming_uniform_(layer.weight, a=1)
        for layer, std in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
        for layer in (body.fc6, body.fc7, predictor.cls_score, predictor.bbox_pred):
            nn.init.zeros_(layer.bias)


def _heads(cfg: Config) -> dict[str, nn.Module]:
    classes = cfg.num_classes + 1
    return {
        "box_head": TwoMLPHead(cfg.width * 7**2, cfg.hidden),
        "box_predictor": FastRCNNPredictor(cfg.hidden, classes),
        "mask_head": MaskRCNNHeads(cfg.width, (cfg.width,) * 4, 1),
        "mask_predictor": MaskRCNNPredictor(cfg.width, cfg.width, classes),
    }


def _numbers(cfg: Config, strides: Sequence[int]) -> dict[str, Any]:
    sizes = tuple((int(cfg.anchor_scale * stride),) for stride in (*strides, 2 * strides[-1]))
    return {
        "rpn_anchor_generator": AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
        "rpn_pre_nms_top_n_train": cfg.per_level_train,
        "rpn_pre_nms_top_n_test": cfg.per_level_test,
        "rpn_post_nms_top_n_train": cfg.proposals_train,
        "rpn_post_nms_top_n_test": cfg.proposals_test,
        "rpn_batch_size_per_image": cfg.anchor_samples,
        "box_batch_size_per_image": cfg.region_samples,
        "box_score_thresh": cfg.min_score,
        "box_nms_thresh": cfg.nms_iou,
        "box_detections_per_img": cfg.max_instances,
    }


def _pictures(images: Images) -> list[Tensor]:
    return [pixels[:, :h, :w] for pixels, (h, w) in zip(images.pixels, images.sizes, strict=True)]


def _theirs(targets: Targets) -> dict[str, Tensor]:
    masks = targets.masks.dense().to(torch.uint8)
    return {"boxes": targets.boxes, "labels": targets.labels + 1, "masks": masks}


def _ours(found: Mapping[str, Tensor], size: Size, original: Size) -> Instances:
    boxes = resize_boxes(found["boxes"], list(size), list(original))
    several = zip(found["masks"].split(AT_ONCE), boxes.split(AT_ONCE), strict=True)
    drawn = [Masks.from_dense(paste_masks_in_image(m, b, original)[:, 0] > 0.5) for m, b in several if len(b)]
    return Instances(
        boxes=boxes,
        labels=found["labels"] - 1,
        scores=found["scores"],
        quality=torch.ones_like(found["scores"]),
        mask_scores=found["scores"],
        masks=Masks.cat(drawn) if drawn else Masks.none(original),
    )


_OF_TORCHVISION = Entry(
    title="Mask R-CNN of torchvision", year=2017, venue="ICCV", family="two-stage", config=Config, build=Peer
)
KNOWN: Mapping[str, Entry] = {
    **METHODS,
    PEER: _OF_TORCHVISION,
    BEGUN_ALIKE: replace(_OF_TORCHVISION, build=BegunAlike),
}
"""Our methods, and these."""


# Time


def seconds_of_a_step(
    module: nn.Module, run: Run[Any], batches: Sequence[Batch], on: torch.device
) -> Callable[[], float]:
    """One step of the optimiser on the next batch, again and again, with a rate at which nothing moves."""
    module.train()
    optimizer = optimization.build(module, run.optim, run.data.batch)
    optimization.set_rate(optimizer, 0.0)
    dtype, turn = AMP[run.optim.amp], cycle(batches)

    def step() -> float:
        batch = next(turn).to(on)
        began = _now(on)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(on.type, dtype or torch.bfloat16, enabled=dtype is not None):
            losses = cast(Losses, module(batch.images, batch.targets))
        torch.stack([value.float() for value in losses.values()]).sum().backward()
        optimizer.step()
        return _now(on) - began

    return step


def seconds_of_a_picture(module: nn.Module, batches: list[Batch], on: torch.device) -> Callable[[], float]:
    """From pixels to masks as run lengths."""
    turn = cycle(batches)

    def predict() -> float:
        images = next(turn).images.to(on)
        module.eval()
        began = _now(on)
        for found in cast(Method, module).predict(images):
            found.masks.rle()
        return (_now(on) - began) / len(images)

    return predict


def in_turn(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Medians over rounds in which each has its turn; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            times[name].append(way())
    return {name: statistics.median(several[1:]) for name, several in times.items()}


def _now(on: torch.device) -> float:
    if on.type == "cuda":
        torch.cuda.synchronize(on)
    return time.perf_counter()
