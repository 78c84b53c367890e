"""The published recipe on Cityscapes, for eight GPUs, or for fewer with each step in parts:

    torchrun --nproc-per-node 8 -m maskwise train mask_rcnn_r50_fpn_cityscapes --data cityscapes

`cityscapes` holds leftImg8bit and gtFine, as they are unpacked.
"""

from maskwise.data.transforms import HorizontalFlip, RandomResize, Resize
from maskwise.methods import mask_rcnn
from maskwise.recipes.run import Data, Files, Optim, Run, Schedule, Watch


def mask_rcnn_r50_fpn_cityscapes(data: str) -> Run[mask_rcnn.Config]:
    """Mask R-CNN, ResNet-50, on Cityscapes: the paper's 24,000 steps of 8 pictures.

        torchrun --nproc-per-node 8 -m maskwise train mask_rcnn_r50_fpn_cityscapes --data cityscapes

    The paper reports 31.5 AP on val from fine annotations alone, 36.4 from weights trained on COCO, by the benchmark's
    own rules (`maskwise eval --policy cityscapes`); training here is judged by COCO's. 24,000 steps are 64.5 epochs of
    2,975 pictures; here are 64.
    """
    return Run(
        method="mask_rcnn",
        config=mask_rcnn.Config(num_classes=8, weights="imagenet", frozen_stages=2),
        data=Data(
            source=Files(path=data),
            change=(RandomResize(short=(800, 1024), long=2048), HorizontalFlip()),
            view=(Resize(short=1024, long=2048),),
            batch=8,
            group_by_aspect=False,
            workers=4,
        ),
        optim=Optim(lr=0.01, lr_batch=8),
        schedule=Schedule(epochs=64, milestones=(48,)),
        watch=Watch(val_epochs=8),
    )
