"""The published recipes on COCO, for eight GPUs, or for fewer with each step in parts:

    torchrun --nproc-per-node 8 -m maskwise train ms_rcnn_r50_fpn_coco --data coco
    maskwise train ms_rcnn_r50_fpn_coco --data coco --set optim.accumulate=8

`coco` holds annotations/instances_train2017.json, annotations/instances_val2017.json, train2017 and val2017.

Each recipe says what its paper and its authors' repository report: box AP / mask AP, on val2017 (or minival, which has
the same 5,000 pictures) unless another split is named. All differ from these in three things:

- They begin with MSRA's ImageNet weights, ours with timm's.
- Where they take 90,000 steps, ours take 12 epochs, which are 87,960: 117,266 pictures have an annotation.
- Detectron and maskrcnn-benchmark, and with them the repositories of Mask Scoring R-CNN and EmbedMask, learn biases at
  twice the rate and without weight decay. Detectron2 does not, and neither do we.
"""

from dataclasses import replace

from maskwise.backbones import Name
from maskwise.data.transforms import HorizontalFlip, RandomResize, Resize
from maskwise.methods import embed_mask, mask_rcnn, ms_rcnn, panet
from maskwise.recipes.run import Data, Files, Optim, Run, Schedule, Watch

CLASSES = 80
MILESTONES = (8, 10.67)
"""Of 12 epochs: the published ones are 60,000 and 80,000 of 90,000 steps."""
MIRRORED = (0, *(point for left in range(1, 17, 2) for point in (left + 1, left)))
"""Which keypoint of a person each becomes in a mirror: the nose itself, the left eye the right one, and so on."""


def mask_rcnn_r50_fpn_coco_1x(data: str) -> Run[mask_rcnn.Config]:
    """Mask R-CNN, ResNet-50, on COCO: 12 epochs, as Detectron2's 1x.

        torchrun --nproc-per-node 8 -m maskwise train mask_rcnn_r50_fpn_coco_1x --data coco

    Detectron2 reports 38.6 / 35.2; Detectron, with one size of pictures and its older arithmetic, 37.7 / 33.9; the
    paper 33.6 masks (Table 2). Differs from Detectron2's in: short sides are drawn from all between 640 and 800, not
    only from every 32nd.
    """
    config = mask_rcnn.Config(num_classes=CLASSES, weights="imagenet", frozen_stages=2)
    schedule = Schedule(epochs=12, milestones=MILESTONES, warmup=1000)
    return Run(method="mask_rcnn", config=config, data=_data(data), schedule=schedule)


def ms_rcnn_r18_fpn_coco(data: str) -> Run[ms_rcnn.Config]:
    """Mask Scoring R-CNN, ResNet-18, on COCO: 12 epochs, pictures of 600 pixels.

        torchrun --nproc-per-node 8 -m maskwise train ms_rcnn_r18_fpn_coco --data coco

    Nobody reports numbers for this schedule; those of the paper belong to `ms_rcnn_r18_fpn_coco_18e`.
    """
    return _scored("resnet18", data, size=(600, 1000))


def ms_rcnn_r50_fpn_coco(data: str) -> Run[ms_rcnn.Config]:
    """Mask Scoring R-CNN, ResNet-50, on COCO: 12 epochs, as in the authors' repository.

        torchrun --nproc-per-node 8 -m maskwise train ms_rcnn_r50_fpn_coco --data coco

    The authors' repository reports 37.9 / 35.6, and 37.8 / 34.2 without the quality head. Differs in: continuous
    coordinates (`--set config.convention=legacy` has theirs).
    """
    return _scored("resnet50", data)


def ms_rcnn_r101_fpn_coco(data: str) -> Run[ms_rcnn.Config]:
    """Mask Scoring R-CNN, ResNet-101, on COCO: 12 epochs, as in the authors' repository.

        torchrun --nproc-per-node 8 -m maskwise train ms_rcnn_r101_fpn_coco --data coco

    The authors' repository reports 40.1 / 37.4, and 40.1 / 36.1 without the quality head. Differs as
    `ms_rcnn_r50_fpn_coco`.
    """
    return _scored("resnet101", data)


def ms_rcnn_r18_fpn_coco_18e(data: str) -> Run[ms_rcnn.Config]:
    """Mask Scoring R-CNN, ResNet-18, on COCO: the paper's 18 epochs and Soft-NMS.

        torchrun --nproc-per-node 8 -m maskwise train ms_rcnn_r18_fpn_coco_18e --data coco

    The paper reports (Table 1) 31.5 / 29.3, and 31.2 / 27.7 without the quality head. Differs in: proposals and regions
    come from P2 to P6, the paper's ResNet-18 uses C4 and C5 only. `--set config.fpn_from=4 config.anchor_scale=2` does
    so too, with anchors of 32 pixels and more; the paper does not say which its are.
    """
    return _of_the_paper(ms_rcnn_r18_fpn_coco(data))


def ms_rcnn_r50_fpn_coco_18e(data: str) -> Run[ms_rcnn.Config]:
    """Mask Scoring R-CNN, ResNet-50, on COCO: the paper's 18 epochs and Soft-NMS.

        torchrun --nproc-per-node 8 -m maskwise train ms_rcnn_r50_fpn_coco_18e --data coco

    The paper reports (Table 1) 38.6 / 36.0, and 38.6 / 34.5 without the quality head.
    """
    return _of_the_paper(ms_rcnn_r50_fpn_coco(data))


def ms_rcnn_r101_fpn_coco_18e(data: str) -> Run[ms_rcnn.Config]:
    """Mask Scoring R-CNN, ResNet-101, on COCO: the paper's 18 epochs and Soft-NMS.

        torchrun --nproc-per-node 8 -m maskwise train ms_rcnn_r101_fpn_coco_18e --data coco

    The paper reports (Table 1) 41.4 / 38.2, and 41.3 / 36.6 without the quality head. With deformable convolutions
    (`--set config.deformable=[3,4,5]`) it reports 43.1 / 39.1 (Table 2).
    """
    return _of_the_paper(ms_rcnn_r101_fpn_coco(data))


def keypoint_rcnn_r50_fpn_coco(data: str) -> Run[mask_rcnn.Config]:
    """Mask R-CNN's keypoint head, ResNet-50, on COCO's people: 17 keypoints each and no masks.

        torchrun --nproc-per-node 8 -m maskwise train keypoint_rcnn_r50_fpn_coco --data coco-people

    `coco-people` holds annotations/person_keypoints_train2017.json and person_keypoints_val2017.json, with no file of
    instances beside them, and train2017 and val2017. Detectron2 reports 53.6 boxes / 64.0 keypoints, Detectron
    53.6 / 64.2, the paper 50.7 / 64.2 (Table 5). Differs in: pictures of people without a keypoint are learned from,
    too; of these 64,115 pictures, 90,000 steps are 22.5 epochs, and here are 22.
    """
    config = mask_rcnn.Config(num_classes=1, masks=False, keypoints=17, weights="imagenet", frozen_stages=2)
    people = _data(data)
    return Run(
        method="mask_rcnn",
        config=config,
        data=replace(
            people,
            source=Files(path=data, train="person_keypoints_train", val="person_keypoints_val", empty=False),
            change=(RandomResize(), HorizontalFlip(keypoints=MIRRORED)),
        ),
        schedule=Schedule(epochs=22, milestones=(14.67, 19.56), warmup=1000),
        watch=Watch(best="keypoints"),
    )


def panet_r50_fpn_coco(data: str) -> Run[panet.Config]:
    """PANet, ResNet-50, on COCO: 22 epochs, pictures of many sizes.

        torchrun --nproc-per-node 8 -m maskwise train panet_r50_fpn_coco --data coco

    The paper reports 42.5 / 38.2 on test-dev with pictures of many sizes (Tables 1 and 2); the authors' repository, on
    val2017 and with 24 epochs, 43.1 / 38.3. Differs in: short sides are drawn from all between 400 and 1400, not only
    from every 200th; norms, see the method: theirs are `--set config.norm=synchronized
    config.head_norm=synchronized`.
    """
    config = panet.Config(num_classes=CLASSES, weights="imagenet", frozen_stages=2)
    sizes = replace(_data(data, (400, 1400), 1400), view=(Resize(short=1000, long=1400),))
    return Run(method="panet", config=config, data=sizes, schedule=Schedule(epochs=22, milestones=(16.5,)))


def embed_mask_r50_fpn_coco(data: str) -> Run[embed_mask.Config]:
    """EmbedMask, ResNet-50, on COCO: 12 epochs, pictures of 800 pixels.

        torchrun --nproc-per-node 8 -m maskwise train embed_mask_r50_fpn_coco --data coco

    The authors' repository reports 34.7 masks on test-dev for its version of 2020 (`--set config.version=2020`).
    Differs in: the rate rises in a straight line where theirs is a third for 500 steps.
    """
    config = embed_mask.Config(num_classes=CLASSES, weights="imagenet", frozen_stages=2)
    schedule = Schedule(epochs=12, milestones=MILESTONES, warmup=500, warmup_from=1 / 3)
    return Run(
        method="embed_mask",
        config=config,
        data=_data(data, (800, 800)),
        optim=Optim(lr=0.01),
        schedule=schedule,
    )


def _scored(backbone: Name, data: str, *, size: tuple[int, int] = (800, 1333)) -> Run[ms_rcnn.Config]:
    """With maskrcnn-benchmark's warm-up. `size`: short side of the pictures, and the most of the long one."""
    short, long = size
    config = ms_rcnn.Config(num_classes=CLASSES, backbone=backbone, weights="imagenet", frozen_stages=2)
    schedule = Schedule(epochs=12, milestones=MILESTONES, warmup=500, warmup_from=1 / 3)
    return Run(method="ms_rcnn", config=config, data=_data(data, (short, short), long), schedule=schedule)


def _of_the_paper(run: Run[ms_rcnn.Config]) -> Run[ms_rcnn.Config]:
    """The same with the paper's schedule and its way of testing, where that is not the repository's."""
    return replace(
        run,
        config=replace(run.config, soft_nms_sigma=0.6, min_score=0.001),
        schedule=replace(run.schedule, epochs=18, milestones=(14, 17)),
    )


def _data(path: str, short: tuple[int, int] = (640, 800), long: int = 1333) -> Data:
    """Pictures are learned from at a short side drawn from between two, and judged at the greater of them."""
    return Data(
        source=Files(path=path, empty=False),
        change=(RandomResize(short=short, long=long), HorizontalFlip()),
        view=(Resize(short=short[1], long=long),),
        workers=4,
    )
