"""Mask R-CNN of torchvision: `maskrcnn_resnet50_fpn` and `maskrcnn_resnet50_fpn_v2`, from their state dicts.

Their class 0 is background, ours is the last. The V1 file of COCO was trained with norms without an epsilon.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from maskwise.methods import mask_rcnn
from maskwise.methods.mask_rcnn import Config, MaskRCNN

State = Mapping[str, Tensor]

_KEYS = (
    (r"backbone\.body\.(.+)", r"backbone.network.\1"),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.0\.(weight|bias)", r"neck.lateral.\1.\2"),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.0\.(weight|bias)", r"neck.output.\1.\2"),
    (r"rpn\.head\.conv\.(\d)\.0\.(.+)", r"rpn.hidden.\1.\2"),
    (r"rpn\.head\.cls_logits\.(.+)", r"rpn.score.\1"),
    (r"rpn\.head\.bbox_pred\.(.+)", r"rpn.offset.\1"),
    (r"roi_heads\.box_head\.fc6\.(.+)", r"box_head.body.1.\1"),
    (r"roi_heads\.box_head\.fc7\.(.+)", r"box_head.body.3.\1"),
    (r"roi_heads\.box_predictor\.cls_score\.(.+)", r"box_head.score.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(.+)", r"box_head.offset.\1"),
    (r"roi_heads\.mask_head\.(\d)\.0\.(.+)", r"mask.head.convolutions.{2*\1}.\2"),
    (r"roi_heads\.mask_predictor\.conv5_mask\.(.+)", r"mask.head.enlarge.\1"),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.(.+)", r"mask.head.predict.\1"),
)
"""Names there, and names here."""

_OLD = (
    (r"(inner_blocks|layer_blocks)\.(\d)\.(weight|bias)", r"\1.\2.0.\3"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
    (r"mask_head\.mask_fcn(\d)\.", r"mask_head.{\1-1}.0."),
)
"""Names before version 2 of their modules, as the published V1 file has them, and after it."""


def load(state: State, *, cfg: Config | None = None, norm_eps: float = 1e-5) -> MaskRCNN:
    """The model of such a state dict, with torchvision's own arithmetic and defaults unless `cfg` says otherwise.

    norm_eps: 0 for the published V1 file, which torchvision runs so.
    """
    model = mask_rcnn.build(cfg or config(state))
    fill(model, state, norm_eps=norm_eps)
    return model


def config(state: State) -> Config:
    """What fits these weights."""
    return Config(
        num_classes=len(state["roi_heads.box_predictor.cls_score.bias"]) - 1,
        backbone="resnet50",
        convention="torchvision",
        proposals_train=2000,
    )


def fill(model: MaskRCNN, state: State, *, norm_eps: float) -> None:
    """Put the weights in their places; all of them, into all places."""
    found, unknown = {}, []
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        name = _renamed(key)
        if name is None:
            unknown.append(key)
        else:
            found[name] = _background_last(name, value)
            if name.endswith("running_var"):
                found[name] = found[name] + (norm_eps - 1e-5)
    wanted = {k for k in model.state_dict() if not k.endswith("num_batches_tracked")}
    unknown += sorted(found.keys() - wanted)
    if missing := sorted(wanted - found.keys()):
        raise ValueError(f"weights are missing: {', '.join(missing)}")
    if unknown:
        raise ValueError(f"weights have no place in this model: {', '.join(unknown)}")
    model.load_state_dict(found, strict=False)


def _renamed(key: str) -> str | None:
    for old, new in _OLD:
        if re.search(old, key):
            key = re.sub(old, lambda m, new=new: _expand(m, new), key)
    for theirs, ours in _KEYS:
        if match := re.fullmatch(theirs, key):
            return _expand(match, ours)
    return None


def _expand(match: re.Match[str], name: str) -> str:
    """Fill the groups in; in braces stands one that is counted otherwise."""
    name = re.sub(r"\{2\*\\(\d)\}", lambda m: str(2 * int(match[int(m[1])])), name)
    name = re.sub(r"\{\\(\d)-1\}", lambda m: str(int(match[int(m[1])]) - 1), name)
    return match.expand(name)


def _background_last(name: str, value: Tensor) -> Tensor:
    if name.startswith("box_head.score."):
        return torch.roll(value, -1, 0)
    if name.startswith("box_head.offset."):
        return value[4:]
    return value[1:] if name.startswith("mask.head.predict.") else value
