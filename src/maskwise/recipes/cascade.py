"""Scenes for cascades: tiny ones, to see that everything works, and some for two cores.

maskwise train mnc_scenes
maskwise val --model runs/mnc_scenes --data scenes --count 500
"""

from maskwise.methods import mnc
from maskwise.recipes.on_scenes import CLASSES, tiny, whole
from maskwise.recipes.run import Run


def tiny_mnc() -> Run[mnc.Config]:
    """MNC on a handful of scenes of 64 x 64 pixels, seen at twice their size: it runs, and learns nothing much."""
    config = mnc.Config(
        num_classes=CLASSES,
        backbone="resnet18",
        norm="batch",
        head="layers",
        hidden=128,
        anchor_sizes=(16.0, 32.0, 64.0),
        anchor_samples=64,
        region_samples=16,
        boxes_train=200,
        boxes_test=100,
        proposals_train=50,
        proposals_test=30,
        max_instances=10,
    )
    return tiny("mnc", config, side=128)


def mnc_scenes() -> Run[mnc.Config]:
    """MNC on scenes of 128 x 128 pixels, seen at twice their size: features have a stride of 16."""
    config = mnc.Config(
        num_classes=CLASSES,
        backbone="tf_efficientnet_lite0",
        weights="imagenet",
        norm="batch",
        head="layers",
        hidden=256,
        anchor_sizes=(32.0, 64.0, 128.0),
        region_samples=32,
        boxes_train=1000,
        boxes_test=500,
        proposals_train=200,
        proposals_test=100,
    )
    return whole("mnc", config, side=256, train=4800)
