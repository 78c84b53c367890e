"""Proposals: objects whatever they are, with masks. All classes of the data are one.

    maskwise train sharpmask_scenes                        # two cores, no download
    maskwise val --model runs/sharpmask_scenes --data scenes
    torchrun --nproc-per-node 8 -m maskwise train sharpmask_coco --data coco

`coco` holds annotations/instances_train2017.json, annotations/instances_val2017.json, train2017 and val2017.
"""

from dataclasses import replace
from typing import TypeVar

from maskwise.data.transforms import HorizontalFlip
from maskwise.methods import deepmask, sharpmask
from maskwise.recipes.on_scenes import tiny, whole
from maskwise.recipes.run import Data, Files, Optim, Run, Schedule, Watch

C = TypeVar("C", bound=deepmask.Config)


def tiny_deepmask() -> Run[deepmask.Config]:
    """DeepMask on a handful of scenes of 64 x 64 pixels: it runs, and learns nothing much."""
    return _tiny("deepmask", deepmask.Config)


def tiny_sharpmask() -> Run[sharpmask.Config]:
    """SharpMask on a handful of scenes of 64 x 64 pixels: it runs, and learns nothing much."""
    return _tiny("sharpmask", sharpmask.Config)


def deepmask_scenes() -> Run[deepmask.Config]:
    """DeepMask on scenes of 128 x 128 pixels."""
    return _scenes("deepmask", deepmask.Config)


def sharpmask_scenes() -> Run[sharpmask.Config]:
    """SharpMask on scenes of 128 x 128 pixels."""
    return _scenes("sharpmask", sharpmask.Config)


def deepmask_coco(data: str) -> Run[deepmask.Config]:
    """DeepMask, ResNet-50, on COCO: as many windows as the authors' code sees in 300 of its epochs.

        torchrun --nproc-per-node 8 -m maskwise train deepmask_coco --data coco --set config.max_instances=1000

    The SharpMask paper reports (Table 3, masks, first 5,000 pictures of val2014) AR@10 14.4, AR@100 25.8, AR@1000 33.1,
    AUC 19.4. Differs in: windows are drawn from pictures, not evenly from categories; the rate falls to a third and
    then to a tenth where theirs falls to a half and then to a tenth.
    """
    return _coco("deepmask", deepmask.Config, data)


def sharpmask_coco(data: str) -> Run[sharpmask.Config]:
    """SharpMask, ResNet-50, on COCO: DeepMask first, then as many steps for refinement.

        torchrun --nproc-per-node 8 -m maskwise train sharpmask_coco --data coco --set config.max_instances=1000

    The paper reports (Table 3, masks, first 5,000 pictures of val2014) AR@10 15.6, AR@100 27.6, AR@1000 35.5, AUC 20.9.
    Differs as `deepmask_coco`, and in one schedule for both stages, which begins anew in theirs.
    """
    run = _coco("sharpmask", sharpmask.Config, data)
    return replace(run, schedule=replace(run.schedule, epochs=2 * run.schedule.epochs, milestones=(7, 75)))


def _tiny(method: str, options: type[C]) -> Run[C]:
    config = _small(options, width=32, code=64, hidden=64, mask_side=16, max_instances=10)
    return tiny(method, replace(config, samples=2), best="proposals", lr=2e-3)


def _scenes(method: str, options: type[C]) -> Run[C]:
    """A small network from random weights. Objects have sides of 14 to 80 pixels, the masks are exact."""
    config = _small(options, width=64, code=256, hidden=256, mask_side=32, max_instances=100)
    return whole(method, config, best="proposals")


def _small(options: type[C], *, width: int, code: int, hidden: int, mask_side: int, max_instances: int) -> C:
    """Windows of 64 pixels, 8 apart. Scenes have exact masks, so a pixel belongs to an object from a probability of .5
    on; the published .2 is for COCO's polygons."""
    return options(
        backbone="resnet18",
        norm="batch",
        stage=3,
        patch=64,
        width=width,
        code=code,
        hidden=hidden,
        mask_side=mask_side,
        drawn_side=64,
        octaves=(-1.5, -1.0, -0.5, 0.0, 0.5, 1.0),
        threshold=0.5,
        nms_iou=0.7,
        max_instances=max_instances,
    )


def _coco(method: str, options: type[C], data: str) -> Run[C]:
    """32 windows a step for masks, 32 for scores; theirs are of one kind at a time, 4,000 steps an epoch."""
    return Run(
        method=method,
        config=options(weights="imagenet"),
        data=Data(
            source=Files(path=data, empty=False),
            change=(HorizontalFlip(),),
            view=(),
            batch=8,
            group_by_aspect=False,
            as_one=True,
            workers=4,
        ),
        optim=Optim(lr=0.032, lr_batch=None, weight_decay=5e-4),
        schedule=Schedule(epochs=41, milestones=(7, 16), gamma=0.32),
        watch=Watch(best="proposals"),
    )
