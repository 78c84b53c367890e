"""Recipes that are done in seconds: to see that everything works, and for tests.

maskwise train tiny_ms_rcnn --out runs/tiny
"""

from typing import TypeVar

from maskwise.data.scenes import Scenes
from maskwise.data.transforms import HorizontalFlip
from maskwise.methods import mask_rcnn, mnc, ms_rcnn, panet
from maskwise.recipes.run import Data, Optim, Run, Schedule, Synthetic, Watch

C = TypeVar("C", bound=mask_rcnn.Config)
Options = TypeVar("Options")
SCENES = Scenes(size=(64, 64), count=(1, 3))


def tiny_mask_rcnn() -> Run[mask_rcnn.Config]:
    """Mask R-CNN on a handful of scenes of 64 x 64 pixels: it runs, and learns nothing much."""
    return _run("mask_rcnn", mask_rcnn.Config)


def tiny_ms_rcnn() -> Run[ms_rcnn.Config]:
    """Mask Scoring R-CNN on a handful of scenes of 64 x 64 pixels: it runs, and learns nothing much."""
    return _run("ms_rcnn", ms_rcnn.Config)


def tiny_panet() -> Run[panet.Config]:
    """PANet on a handful of scenes of 64 x 64 pixels: it runs, and learns nothing much."""
    return _run("panet", panet.Config)


def tiny_mnc() -> Run[mnc.Config]:
    """MNC on a handful of scenes of 64 x 64 pixels: it runs, and learns nothing much."""
    config = mnc.Config(
        num_classes=len(SCENES.categories),
        backbone="resnet18",
        norm="batch",
        head="layers",
        hidden=32,
        mask_hidden=32,
        anchor_sizes=(16.0, 32.0),
        anchor_samples=32,
        region_samples=16,
        least_side=0.0,
        boxes_train=50,
        boxes_test=50,
        proposals_train=30,
        proposals_test=20,
        max_instances=10,
    )
    return _on_scenes("mnc", config)


def _run(method: str, options: type[C]) -> Run[C]:
    config = options(
        num_classes=len(SCENES.categories),
        backbone="resnet18",
        norm="batch",
        width=16,
        hidden=32,
        anchor_samples=32,
        region_samples=16,
        per_level_train=50,
        per_level_test=50,
        proposals_train=30,
        proposals_test=20,
        max_instances=10,
    )
    return _on_scenes(method, config)


def _on_scenes(method: str, config: Options) -> Run[Options]:
    source = Synthetic(scenes=SCENES, train=8, val=4)
    return Run(
        method=method,
        config=config,
        data=Data(source=source, change=(HorizontalFlip(),), view=(), batch=4, group_by_aspect=False, workers=0),
        optim=Optim(kind="adamw", lr=1e-3, lr_batch=None, clip=5.0),
        schedule=Schedule(epochs=2, kind="cosine", warmup=0),
        watch=Watch(log_steps=1),
    )
