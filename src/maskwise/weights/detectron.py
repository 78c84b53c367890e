"""Detectron, the first: blobs of Caffe2 with flat names.

As in maskrcnn-benchmark after it, class 0 is background, pixels are counted inclusively, and pictures are BGR in 0..255
without a deviation. Norms are a scale and a shift.
"""

import re
from dataclasses import replace
from typing import TypedDict

from maskwise.methods.mask_rcnn import Config, MaskRCNN
from maskwise.parts.convention import ConventionName
from maskwise.weights import architecture
from maskwise.weights.keys import (
    Names,
    State,
    Translated,
    background_last,
    blue_green_red,
    sizes_first,
    translate,
    with_statistics,
)

MEAN = (122.7717 / 255, 115.9465 / 255, 102.9801 / 255)
STD = (1 / 255, 1 / 255, 1 / 255)

NAMES: Names = (
    (r"conv1\.weight", r"backbone.network.conv1.weight"),
    (r"(?:res_)?conv1_[bg]n\.(.+)", r"backbone.network.bn1.\1"),
    *(
        (rf"res(\d)_(\d+)_branch2{letter}{theirs}\.(.+)", rf"backbone.network.layer{{1-1}}.\2.{ours}{number}.\3")
        for number, letter in enumerate("abc", 1)
        for theirs, ours in (("", "conv"), ("_[bg]n", "bn"))
    ),
    (r"res(\d)_(\d+)_branch1\.(.+)", r"backbone.network.layer{1-1}.\2.downsample.0.\3"),
    (r"res(\d)_(\d+)_branch1_[bg]n\.(.+)", r"backbone.network.layer{1-1}.\2.downsample.1.\3"),
    (r"fpn_inner_res(\d)_\d+_sum(?:_lateral)?\.(.+)", r"neck.lateral.{1-2}.\2"),
    (r"fpn_inner_res(\d)_\d+_sum(?:_lateral)?_gn\.(.+)", r"neck.lateral.{1-2}.1.\2"),
    (r"fpn_res(\d)_\d+_sum\.(.+)", r"neck.output.{1-2}.\2"),
    (r"fpn_res(\d)_\d+_sum_gn\.(.+)", r"neck.output.{1-2}.1.\2"),
    (r"conv_rpn(?:_fpn2)?\.(.+)", r"rpn.hidden.0.\1"),
    (r"rpn_cls_logits(?:_fpn2)?\.(.+)", r"rpn.score.\1"),
    (r"rpn_bbox_pred(?:_fpn2)?\.(.+)", r"rpn.offset.\1"),
    (r"head_conv(\d)\.(.+)", r"box_head.body.{1*2-2}.\2"),
    (r"head_conv(\d)_gn\.(.+)", r"box_head.body.{1*2-2}.1.\2"),
    (r"cls_score\.(.+)", r"box_head.score.\1"),
    (r"bbox_pred\.(.+)", r"box_head.offset.\1"),
    (r"_\[mask\]_fcn(\d)\.(.+)", r"mask.head.convolutions.{1*2-2}.\2"),
    (r"_\[mask\]_fcn(\d)_gn\.(.+)", r"mask.head.convolutions.{1*2-2}.1.\2"),
    (r"conv5_mask\.(.+)", r"mask.head.enlarge.\1"),
    (r"mask_fcn_logits\.(.+)", r"mask.head.predict.\1"),
    (r"conv_fcn(\d)\.(.+)", r"keypoint.head.convolutions.{1*2-2}.\2"),
    (r"kps_score_lowres\.(.+)", r"keypoint.head.score.\1"),
)
_TWO_LAYERS: Names = ((r"fc6\.(.+)", r"box_head.body.1.\1"), (r"fc7\.(.+)", r"box_head.body.3.\1"))
_ONE_LAYER: Names = ((r"fc6\.(.+)", r"box_head.body.9.\1"),)

_UNUSED = re.compile(r".*_momentum|(fc1000|pred)_[wb]|conv1_b|.*_bn_(rm|riv)|kps_score_[wb]")
"""Momentum; what ImageNet weights had and detectors keep along; bilinear enlargement, which is no weight."""


class Choices(TypedDict):
    convention: ConventionName
    stride_first: bool
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]
    frozen_stages: int
    per_level_train: int
    per_level_test: int
    proposals_train: int


def load(state: State, *, cfg: Config | None = None) -> MaskRCNN:
    """The model of such blobs, with Detectron's arithmetic and defaults unless `cfg` says otherwise."""
    found, unknown = _translated(state)
    cfg = cfg or config(state)
    found = blue_green_red(background_last(found))
    if cfg.variant != "fpn":
        found = sizes_first(found, sizes=len(cfg.anchor_sizes))
    return architecture.load(cfg, Translated(found, unknown))


def config(state: State) -> Config:
    """What fits these weights."""
    found = _translated(state).found
    return replace(architecture.config(found), **choices(found))


def choices(found: State) -> Choices:
    """Options that Detectron and those after it share, and no weight tells."""
    pyramid = any(k.startswith("neck.") for k in found)
    return Choices(
        convention="legacy" if pyramid else "legacy_c4",
        stride_first=architecture.first_resnet(found),
        pixel_mean=MEAN,
        pixel_std=STD,
        frozen_stages=2,
        per_level_train=2000 if pyramid else 12000,
        per_level_test=1000 if pyramid else 6000,
        proposals_train=2000,
    )


def _translated(state: State) -> Translated:
    names = (*NAMES, *(_ONE_LAYER if "head_conv1_w" in state else _TWO_LAYERS))
    found, unknown = translate({_spelled(k): v for k, v in state.items() if not _UNUSED.fullmatch(k)}, names)
    if not any(k.startswith(("neck.", "box_head.body.")) for k in found):
        found = {k.replace("backbone.network.layer4.", "last_stage."): v for k, v in found.items()}
    group = any(k.endswith("_gn_s") for k in state)
    return Translated(found if group else with_statistics(found), unknown)


def _spelled(key: str) -> str:
    """`_w` of layers and `_s` of norms are weights, `_b` of both is a bias."""
    for short, long in (("_w", ".weight"), ("_s", ".weight"), ("_b", ".bias")):
        if key.endswith(short):
            return key.removesuffix(short) + long
    return key
