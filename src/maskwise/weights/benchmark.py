"""maskrcnn-benchmark, and maskscoring_rcnn, which is built on it.

Class 0 is background, for masks and their IoU as well. Pixels are counted inclusively, norms have no epsilon, pictures
are BGR in 0..255 without a deviation, and the backbones are the first ResNets, or ResNeXts that came with Detectron.
"""

from dataclasses import replace

from maskwise.methods.mask_rcnn import Config, MaskRCNN
from maskwise.weights import anchors, architecture, detectron
from maskwise.weights.keys import (
    Names,
    State,
    Translated,
    background_last,
    blue_green_red,
    sizes_first,
    translate,
    with_epsilon,
)

NAMES: Names = (
    (r"backbone\.body\.stem\.(.+)", r"backbone.network.\1"),
    (r"backbone\.body\.(layer\d\..+)", r"backbone.network.\1"),
    (r"backbone\.fpn\.fpn_inner(\d)\.(weight|bias)", r"neck.lateral.{1-1}.\2"),
    (r"backbone\.fpn\.fpn_layer(\d)\.(weight|bias)", r"neck.output.{1-1}.\2"),
    (r"rpn\.head\.conv\.(.+)", r"rpn.hidden.0.\1"),
    (r"rpn\.head\.cls_logits\.(.+)", r"rpn.score.\1"),
    (r"rpn\.head\.bbox_pred\.(.+)", r"rpn.offset.\1"),
    (r"roi_heads\.(?:box|mask)\.feature_extractor\.head\.layer4\.(.+)", r"last_stage.\1"),
    (r"roi_heads\.box\.feature_extractor\.fc6\.(.+)", r"box_head.body.1.\1"),
    (r"roi_heads\.box\.feature_extractor\.fc7\.(.+)", r"box_head.body.3.\1"),
    (r"roi_heads\.box\.predictor\.cls_score\.(.+)", r"box_head.score.\1"),
    (r"roi_heads\.box\.predictor\.bbox_pred\.(.+)", r"box_head.offset.\1"),
    (r"roi_heads\.mask\.feature_extractor\.mask_fcn(\d)\.(.+)", r"mask.head.convolutions.{1*2-2}.\2"),
    (r"roi_heads\.mask\.predictor\.conv5_mask\.(.+)", r"mask.head.enlarge.\1"),
    (r"roi_heads\.mask\.predictor\.mask_fcn_logits\.(.+)", r"mask.head.predict.\1"),
    (r"roi_heads\.maskiou\.feature_extractor\.maskiou_fcn(\d)\.(.+)", r"mask.iou.convolutions.{1-1}.\2"),
    (r"roi_heads\.maskiou\.feature_extractor\.maskiou_fc(\d)\.(.+)", r"mask.iou.layers.{1-1}.\2"),
    (r"roi_heads\.maskiou\.predictor\.maskiou\.(.+)", r"mask.iou.predict.\1"),
    (r"roi_heads\.keypoint\.feature_extractor\.conv_fcn(\d)\.(.+)", r"keypoint.head.convolutions.{1*2-2}.\2"),
    (r"roi_heads\.keypoint\.predictor\.kps_score_lowres\.(.+)", r"keypoint.head.score.\1"),
)


def load(state: State, *, cfg: Config | None = None) -> MaskRCNN:
    """The model of such a state dict, with the arithmetic and defaults from there unless `cfg` says otherwise."""
    weights, given = anchors.apart(state)
    found, unknown = translate(weights, NAMES)
    cfg = cfg or config(state)
    found = blue_green_red(background_last(with_epsilon(found, 0)))
    if cfg.variant != "fpn":
        found = sizes_first(found, sizes=len(cfg.anchor_sizes))
    model = architecture.load(cfg, Translated(found, unknown))
    anchors.check(model, given)
    return model


def config(state: State) -> Config:
    """What fits these weights."""
    found, _ = translate(anchors.apart(state)[0], NAMES)
    return replace(architecture.config(found), **detectron.choices(found))
