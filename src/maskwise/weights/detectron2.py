"""Detectron2, .pkl and .pth.

Background is the last class, as here, and coordinates are continuous. Pictures are BGR in 0..255; the means stand in
older files, otherwise they are those of its configurations: with a deviation for ResNeXts only.
"""

from dataclasses import replace

from torch import Tensor

from maskwise.methods.mask_rcnn import Config, MaskRCNN
from maskwise.tensor_files import State
from maskwise.weights import anchors, architecture
from maskwise.weights.keys import Names, Translated, blue_green_red, translate, with_statistics

MEAN = (123.675, 116.28, 103.53)
STD_OF_RESNEXT = (58.395, 57.12, 57.375)
"""Of RGB in 0..255. Others have 1."""

NAMES: Names = (
    (r"backbone\.(?:bottom_up\.)?stem\.conv1\.norm\.(.+)", r"backbone.network.bn1.\1"),
    (r"backbone\.(?:bottom_up\.)?stem\.conv1\.(.+)", r"backbone.network.conv1.\1"),
    *(
        (rf"{there}\.(\d+)\.{layer}", rf"{here}.{block}.{name}")
        for there, here, block, last in (
            (r"backbone\.(?:bottom_up\.)?res(\d)", r"backbone.network.layer{1-1}", r"\2", 3),
            (r"roi_heads\.res5", r"last_stage", r"\1", 2),
        )
        for layer, name in (
            (r"conv2_offset\.(.+)", rf"conv2.offset.\{last}"),
            (r"conv(\d)\.norm\.(.+)", rf"bn\{last}.\{last + 1}"),
            (r"conv(\d)\.(.+)", rf"conv\{last}.\{last + 1}"),
            (r"shortcut\.norm\.(.+)", rf"downsample.1.\{last}"),
            (r"shortcut\.(.+)", rf"downsample.0.\{last}"),
        )
    ),
    (r"backbone\.fpn_lateral(\d)\.norm\.(.+)", r"neck.lateral.{1-2}.1.\2"),
    (r"backbone\.fpn_lateral(\d)\.(.+)", r"neck.lateral.{1-2}.\2"),
    (r"backbone\.fpn_output(\d)\.norm\.(.+)", r"neck.output.{1-2}.1.\2"),
    (r"backbone\.fpn_output(\d)\.(.+)", r"neck.output.{1-2}.\2"),
    (r"proposal_generator\.rpn_head\.conv\.conv(\d)\.(.+)", r"rpn.hidden.\1.\2"),
    (r"proposal_generator\.rpn_head\.conv\.(.+)", r"rpn.hidden.0.\1"),
    (r"proposal_generator\.rpn_head\.objectness_logits\.(.+)", r"rpn.score.\1"),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.(.+)", r"rpn.offset.\1"),
    (r"roi_heads\.box_head\.conv(\d)\.norm\.(.+)", r"box_head.body.{1*2-2}.1.\2"),
    (r"roi_heads\.box_head\.conv(\d)\.(.+)", r"box_head.body.{1*2-2}.\2"),
    (r"roi_heads\.box_predictor\.cls_score\.(.+)", r"box_head.score.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(.+)", r"box_head.offset.\1"),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.norm\.(.+)", r"mask.head.convolutions.{1*2-2}.1.\2"),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.(.+)", r"mask.head.convolutions.{1*2-2}.\2"),
    (r"roi_heads\.mask_head\.deconv\.(.+)", r"mask.head.enlarge.\1"),
    (r"roi_heads\.mask_head\.predictor\.(.+)", r"mask.head.predict.\1"),
    (r"roi_heads\.keypoint_head\.conv_fcn(\d)\.(.+)", r"keypoint.head.convolutions.{1*2-2}.\2"),
    (r"roi_heads\.keypoint_head\.score_lowres\.(.+)", r"keypoint.head.score.\1"),
)
_TWO_LAYERS: Names = (
    (r"roi_heads\.box_head\.fc1\.(.+)", r"box_head.body.1.\1"),
    (r"roi_heads\.box_head\.fc2\.(.+)", r"box_head.body.3.\1"),
)
_ONE_LAYER: Names = ((r"roi_heads\.box_head\.fc1\.(.+)", r"box_head.body.9.\1"),)


def load(state: State, *, cfg: Config | None = None) -> MaskRCNN:
    """The model of such a state dict, with Detectron2's arithmetic and defaults unless `cfg` says otherwise."""
    weights, given = anchors.apart(state)
    found, unknown = _translated(weights)
    if not _red_first(state):
        found = blue_green_red(found)
    model = architecture.load(cfg or config(state), Translated(found, unknown))
    anchors.check(model, given)
    return model


def config(state: State) -> Config:
    """What fits these weights."""
    found = _translated(anchors.apart(state)[0]).found
    fits = architecture.config(found)
    pyramid, groups = fits.variant == "fpn", fits.backbone.startswith("resnext")
    return replace(
        fits,
        convention="continuous",
        stride_first=architecture.first_resnet(found),
        pixel_mean=_pixels(state, "pixel_mean", MEAN),
        pixel_std=_pixels(state, "pixel_std", STD_OF_RESNEXT if groups else (1.0, 1.0, 1.0)),
        frozen_stages=2,
        per_level_train=2000 if pyramid else 12000,
        per_level_test=1000 if pyramid else 6000,
        proposals_train=1000 if pyramid else 2000,
    )


def _translated(state: State) -> Translated:
    names = (*NAMES, *(_ONE_LAYER if "roi_heads.box_head.conv1.weight" in state else _TWO_LAYERS))
    found, unknown = translate({k: v for k, v in state.items() if k not in ("pixel_mean", "pixel_std")}, names)
    group = any(k.startswith("neck.lateral.0.1.") for k in found) and "neck.lateral.0.1.running_var" not in found
    return Translated(found if group else with_statistics(found), unknown)


def _red_first(state: State) -> bool:
    """Red is the brightest channel of photographs, and its mean tells where it stands."""
    mean = state.get("pixel_mean")
    return mean is not None and bool(mean.flatten()[0] > mean.flatten()[2])


def _pixels(state: State, name: str, otherwise: tuple[float, float, float]) -> tuple[float, float, float]:
    """RGB, in 0..1."""
    values = otherwise
    if name in state:
        values = _three(state[name].flatten() if _red_first(state) else state[name].flatten().flip(0))
    return values[0] / 255, values[1] / 255, values[2] / 255


def _three(values: Tensor) -> tuple[float, float, float]:
    red, green, blue = values.tolist()
    return red, green, blue
