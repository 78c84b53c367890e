"""All recipes by name: the only list of them. One that learns from files takes their place, `data`."""

from collections.abc import Callable
from typing import Any

from maskwise.recipes import (
    cascade,
    cityscapes,
    coco,
    facades,
    grouping,
    nuclei,
    one_stage,
    own,
    proposals,
    recurrent,
    two_stage,
)
from maskwise.recipes.run import Run

Recipe = Callable[..., Run[Any]]

RECIPES: dict[str, Recipe] = {
    "own": own.own,
    "mask_rcnn_r50_fpn_coco_1x": coco.mask_rcnn_r50_fpn_coco_1x,
    "ms_rcnn_r18_fpn_coco": coco.ms_rcnn_r18_fpn_coco,
    "ms_rcnn_r50_fpn_coco": coco.ms_rcnn_r50_fpn_coco,
    "ms_rcnn_r101_fpn_coco": coco.ms_rcnn_r101_fpn_coco,
    "ms_rcnn_r18_fpn_coco_18e": coco.ms_rcnn_r18_fpn_coco_18e,
    "ms_rcnn_r50_fpn_coco_18e": coco.ms_rcnn_r50_fpn_coco_18e,
    "ms_rcnn_r101_fpn_coco_18e": coco.ms_rcnn_r101_fpn_coco_18e,
    "keypoint_rcnn_r50_fpn_coco": coco.keypoint_rcnn_r50_fpn_coco,
    "panet_r50_fpn_coco": coco.panet_r50_fpn_coco,
    "embed_mask_r50_fpn_coco": coco.embed_mask_r50_fpn_coco,
    "mask_rcnn_r50_fpn_cityscapes": cityscapes.mask_rcnn_r50_fpn_cityscapes,
    "mask_rcnn_facades": facades.mask_rcnn_facades,
    "ms_rcnn_facades": facades.ms_rcnn_facades,
    "mask_rcnn_nuclei": nuclei.mask_rcnn_nuclei,
    "ms_rcnn_nuclei": nuclei.ms_rcnn_nuclei,
    "mask_rcnn_scenes": two_stage.mask_rcnn_scenes,
    "ms_rcnn_scenes": two_stage.ms_rcnn_scenes,
    "panet_scenes": two_stage.panet_scenes,
    "embed_mask_scenes": one_stage.embed_mask_scenes,
    "mnc_scenes": cascade.mnc_scenes,
    "deepmask_coco": proposals.deepmask_coco,
    "sharpmask_coco": proposals.sharpmask_coco,
    "deepmask_scenes": proposals.deepmask_scenes,
    "sharpmask_scenes": proposals.sharpmask_scenes,
    "discriminative_scenes": grouping.discriminative_scenes,
    "spatial_embeddings_scenes": grouping.spatial_embeddings_scenes,
    "rsis_scenes": recurrent.rsis_scenes,
    "tiny_mask_rcnn": two_stage.tiny_mask_rcnn,
    "tiny_ms_rcnn": two_stage.tiny_ms_rcnn,
    "tiny_panet": two_stage.tiny_panet,
    "tiny_embed_mask": one_stage.tiny_embed_mask,
    "tiny_mnc": cascade.tiny_mnc,
    "tiny_deepmask": proposals.tiny_deepmask,
    "tiny_sharpmask": proposals.tiny_sharpmask,
    "tiny_discriminative": grouping.tiny_discriminative,
    "tiny_spatial_embeddings": grouping.tiny_spatial_embeddings,
    "tiny_rsis": recurrent.tiny_rsis,
}
