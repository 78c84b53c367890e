"""Scenes for methods that find objects in one stage: tiny ones, to see that everything works, and some for two cores.

maskwise train embed_mask_scenes
maskwise val --model runs/embed_mask_scenes --data scenes --count 500
"""

from maskwise.methods import embed_mask
from maskwise.recipes.on_scenes import CLASSES, tiny, whole
from maskwise.recipes.run import Run


def tiny_embed_mask() -> Run[embed_mask.Config]:
    """EmbedMask on a handful of scenes of 64 x 64 pixels: it runs, and learns nothing much."""
    config = embed_mask.Config(
        num_classes=CLASSES,
        backbone="resnet18",
        norm="batch",
        levels=(2, 3, 4),
        limits=(8.0, 16.0),
        width=32,
        convolutions=2,
        dimensions=8,
        unit=6.0,
        min_score=0.0,
        per_level=50,
        max_instances=10,
    )
    return tiny("embed_mask", config)


def embed_mask_scenes() -> Run[embed_mask.Config]:
    """EmbedMask on scenes of 128 x 128 pixels: levels from P2, margins from the radius of a large object, 24 pixels."""
    config = embed_mask.Config(
        num_classes=CLASSES,
        backbone="tf_efficientnet_lite0",
        weights="imagenet",
        norm="batch",
        levels=(2, 3, 4, 5),
        limits=(12.0, 24.0, 48.0),
        width=64,
        unit=12.0,
    )
    return whole("embed_mask", config)
