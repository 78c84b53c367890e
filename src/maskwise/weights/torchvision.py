"""torchvision's `maskrcnn_resnet50_fpn`, `maskrcnn_resnet50_fpn_v2` and `keypointrcnn_resnet50_fpn`.

Class 0 there is background. Norms of files that were published in the first place have no epsilon.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

from maskwise.methods.mask_rcnn import Config, MaskRCNN
from maskwise.tensor_files import State
from maskwise.weights import architecture
from maskwise.weights.keys import EPSILON, Names, Translated, background_last, translate, with_epsilon

NAMES: Names = (
    (r"backbone\.body\.(.+)", r"backbone.network.\1"),
    (r"backbone\.fpn\.inner_blocks\.(\d)(?:\.0)?\.(weight|bias)", r"neck.lateral.\1.\2"),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.1\.(.+)", r"neck.lateral.\1.1.\2"),
    (r"backbone\.fpn\.layer_blocks\.(\d)(?:\.0)?\.(weight|bias)", r"neck.output.\1.\2"),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.1\.(.+)", r"neck.output.\1.1.\2"),
    (r"rpn\.head\.conv\.(\d)\.0\.(.+)", r"rpn.hidden.\1.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.hidden.0.\1"),
    (r"rpn\.head\.cls_logits\.(.+)", r"rpn.score.\1"),
    (r"rpn\.head\.bbox_pred\.(.+)", r"rpn.offset.\1"),
    (r"roi_heads\.box_head\.fc6\.(.+)", r"box_head.body.1.\1"),
    (r"roi_heads\.box_head\.fc7\.(.+)", r"box_head.body.3.\1"),
    (r"roi_heads\.box_head\.([0-3])\.0\.(.+)", r"box_head.body.{1*2}.\2"),
    (r"roi_heads\.box_head\.([0-3])\.1\.(.+)", r"box_head.body.{1*2}.1.\2"),
    (r"roi_heads\.box_head\.5\.(weight|bias)", r"box_head.body.9.\1"),
    (r"roi_heads\.box_predictor\.cls_score\.(.+)", r"box_head.score.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(.+)", r"box_head.offset.\1"),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.(.+)", r"mask.head.convolutions.{1*2-2}.\2"),
    (r"roi_heads\.mask_head\.(\d)\.0\.(.+)", r"mask.head.convolutions.{1*2}.\2"),
    (r"roi_heads\.mask_head\.(\d)\.1\.(.+)", r"mask.head.convolutions.{1*2}.1.\2"),
    (r"roi_heads\.mask_predictor\.conv5_mask\.(.+)", r"mask.head.enlarge.\1"),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.(.+)", r"mask.head.predict.\1"),
    (r"roi_heads\.keypoint_head\.(\d+)\.(.+)", r"keypoint.head.convolutions.\1.\2"),
    (r"roi_heads\.keypoint_predictor\.kps_score_lowres\.(.+)", r"keypoint.head.score.\1"),
)
"""With those that older versions wrote."""


def load(state: State, *, cfg: Config | None = None, norm_eps: float = EPSILON) -> MaskRCNN:
    """The model of such a state dict, with torchvision's own arithmetic and defaults unless `cfg` says otherwise.

    norm_eps: 0 for the published V1 files, which torchvision runs so.
    """
    found, unknown = translate(state, NAMES)
    found = background_last(with_epsilon(found, norm_eps))
    return architecture.load(cfg or config(state), Translated(found, unknown))


def config(state: State) -> Config:
    """What fits these weights."""
    found, _ = translate(state, NAMES)
    return replace(architecture.config(found), convention="torchvision", proposals_train=2000)


_WITHOUT_EPSILON = ("bf2d0c1e", "fc266e95")
"""How the SHA-256 of `MaskRCNN_ResNet50_FPN_Weights.COCO_V1` and `KeypointRCNN_ResNet50_FPN_Weights.COCO_V1` begin."""


def epsilon(path: Path) -> float:
    """Of the norms in a file: nothing in it tells, so the published ones are known by what they are."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return 0.0 if digest.startswith(_WITHOUT_EPSILON) else EPSILON
