"""Which model some weights are of: read off their names here, and their shapes."""

import re

from torch import Tensor

from maskwise import backbones
from maskwise.methods import mask_rcnn, ms_rcnn
from maskwise.methods.mask_rcnn import Config, MaskRCNN
from maskwise.parts.norms import Norm
from maskwise.tensor_files import State
from maskwise.weights.keys import Translated, fill

RESNETS: dict[tuple[tuple[int, ...], bool, int], backbones.Name] = {
    ((2, 2, 2, 2), False, 1): "resnet18",
    ((3, 4, 6, 3), False, 1): "resnet34",
    ((3, 4, 6, 3), True, 1): "resnet50",
    ((3, 4, 23, 3), True, 1): "resnet101",
    ((3, 4, 23, 3), True, 32): "resnext101_32x8d",
    ((3, 4, 23, 3), True, 64): "resnext101_64x4d",
}
"""By the number of blocks of each stage, whether these are bottlenecks, and groups of their 3x3 convolutions."""


def config(found: State) -> Config:
    """Options of the model; of what weights do not tell, the defaults."""
    classes = len(_needed(found, "box_head.score.bias")) - 1
    masks, points = found.get("mask.head.predict.bias"), found.get("keypoint.head.score.weight")
    make = ms_rcnn.Config if _any(found, "mask.iou.") else Config
    return make(
        num_classes=classes,
        variant="fpn" if _any(found, "neck.") else "c4" if _any(found, "last_stage.") else "dc5",
        backbone=_backbone(found),
        norm=_backbone_norm(found),
        deformable=tuple(k for k in (2, 3, 4, 5) if f"backbone.network.layer{k - 1}.0.conv2.offset.weight" in found),
        width=_length(found, "neck.output.0.weight", "neck.output.0.0.weight", "mask.head.enlarge.bias") or 256,
        hidden=_length(found, "box_head.body.3.bias", "box_head.body.9.bias") or 1024,
        head_norm=_head_norm(found),
        rpn_convolutions=max(1, sum(bool(re.fullmatch(r"rpn\.hidden\.\d\.weight", k)) for k in found)),
        class_agnostic=masks is not None and len(masks) == 1 < classes,
        masks=_any(found, "mask."),
        keypoints=0 if points is None else points.shape[1],
        keypoint_width=512 if points is None else points.shape[0],
    )


def load(cfg: Config, weights: Translated) -> MaskRCNN:
    """The model with its weights: none missing, none left over."""
    model = ms_rcnn.build(cfg) if isinstance(cfg, ms_rcnn.Config) else mask_rcnn.build(cfg)
    fill(model, weights)
    return model


def _backbone(found: State) -> backbones.Name:
    blocks = tuple(_blocks(found, rf"backbone\.network\.layer{i}") for i in (1, 2, 3))
    last = _blocks(found, r"(?:backbone\.network\.layer4|last_stage)")
    groups = _groups(found)
    kind = (*blocks, last), "backbone.network.layer1.0.conv3.weight" in found, groups
    if kind not in RESNETS:
        raise ValueError(
            f"no backbone has {kind[0]} {'bottlenecks' if kind[1] else 'blocks'} in its stages and {groups} groups; "
            f"known: {', '.join(RESNETS.values())}"
        )
    return RESNETS[kind]


def _groups(found: State) -> int:
    """Of the 3x3 convolutions."""
    convolution = _needed(found, "backbone.network.layer1.0.conv2.weight")
    return convolution.shape[0] // convolution.shape[1]


def _blocks(found: State, stage: str) -> int:
    return len({m[1] for m in (re.match(rf"{stage}\.(\d+)\.conv1\.weight", k) for k in found) if m})


def _backbone_norm(found: State) -> Norm:
    if "backbone.network.bn1.running_var" not in found:
        return "group"
    return "batch" if "backbone.network.bn1.num_batches_tracked" in found else "frozen"


def _head_norm(found: State) -> Norm | None:
    places = ("neck.lateral.0.1", "box_head.body.0.1", "mask.head.convolutions.0.1")
    if not any(f"{place}.weight" in found for place in places):
        return None
    return "batch" if any(f"{place}.running_var" in found for place in places) else "group"


def _length(found: State, *names: str) -> int | None:
    """Of the first of these that there is."""
    return next((len(found[name]) for name in names if name in found), None)


def _any(found: State, beginning: str) -> bool:
    return any(k.startswith(beginning) for k in found)


def _needed(found: State, name: str) -> Tensor:
    if name not in found:
        raise ValueError(f"missing weights: {name}; these are not all weights of a detector")
    return found[name]


def first_resnet(found: State) -> bool:
    """Whether these may be He et al.'s weights, which have their stride in the first convolution of a bottleneck.

    Networks with groups or group norm came later, with the stride in the 3x3.
    """
    bottlenecks = "backbone.network.layer1.0.conv3.weight" in found
    return bottlenecks and _groups(found) == 1 and _backbone_norm(found) != "group"
