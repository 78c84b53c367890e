"""Recipes that are done in seconds: to see that everything works, and for tests.

maskwise train tiny_ms_rcnn --out runs/tiny
"""

from typing import TypeVar

from maskwise.methods import mask_rcnn, ms_rcnn, panet
from maskwise.recipes.on_scenes import CLASSES, tiny
from maskwise.recipes.run import Run

C = TypeVar("C", bound=mask_rcnn.Config)


def tiny_mask_rcnn() -> Run[mask_rcnn.Config]:
    """Mask R-CNN on a handful of scenes of 64 x 64 pixels: it runs, and learns nothing much."""
    return _run("mask_rcnn", mask_rcnn.Config)


def tiny_ms_rcnn() -> Run[ms_rcnn.Config]:
    """Mask Scoring R-CNN on a handful of scenes of 64 x 64 pixels: it runs, and learns nothing much."""
    return _run("ms_rcnn", ms_rcnn.Config)


def tiny_panet() -> Run[panet.Config]:
    """PANet on a handful of scenes of 64 x 64 pixels: it runs, and learns nothing much."""
    return _run("panet", panet.Config)


def _run(method: str, options: type[C]) -> Run[C]:
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
