"""Scenes for methods that draw one object after the other: tiny ones, to see that everything works, and some for two
cores.

maskwise train rsis_scenes
maskwise val --model runs/rsis_scenes --data scenes --count 500
"""

from maskwise.methods import rsis
from maskwise.recipes.on_scenes import CLASSES, tiny, whole
from maskwise.recipes.run import Run


def tiny_rsis() -> Run[rsis.Config]:
    """RSIS on a handful of scenes of 64 x 64 pixels: it runs, and learns nothing much."""
    config = rsis.Config(
        num_classes=CLASSES, backbone="resnet18", width=64, max_steps=4, class_weight=0.5, encoder_rate=0.3
    )
    return tiny("rsis", config, lr=3e-3)


def rsis_scenes() -> Run[rsis.Config]:
    """RSIS on scenes of 128 x 128 pixels, from a phone's backbone with ImageNet weights."""
    config = rsis.Config(
        num_classes=CLASSES,
        backbone="tf_efficientnet_lite0",
        weights="imagenet",
        width=64,
        max_steps=7,  # as many objects as there may be, and that there are none left
        class_weight=0.5,
        encoder_rate=0.5,
    )
    return whole("rsis", config, weight_decay=0.01)
