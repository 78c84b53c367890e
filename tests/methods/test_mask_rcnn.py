"""The options of Mask R-CNN, keypoints among them. Mask Scoring R-CNN has them all, and stands for both."""

from dataclasses import replace

import pytest
import torch
from small import batch, small

from maskwise.masks import Masks
from maskwise.structures import Targets

VARIANTS = [
    {"variant": "c4", "region_samples": 8, "proposals_test": 8},
    {"variant": "dc5"},
    {"variant": "c5"},
    {"variant": "c4", "deformable": (3, 5), "region_samples": 8, "proposals_test": 8},
    {"variant": "c4", "backbone": "tf_efficientnet_lite0", "region_samples": 8, "proposals_test": 8},
    {"fpn_from": 4, "anchor_scale": 2.0},
    {"operator": "warp", "reduce": "maximum", "mask_head": "mlp3", "class_agnostic": True},
    {"operator": "pool", "mask_loss": "softmax", "head_norm": "group", "norm": "group"},
    {"quality_input": "multiplied", "quality_classes": "all"},
    {"quality_input": "all_classes", "quality_classes": "present", "quality_above": 0.3},
    {"quality_input": "unpooled"},
    {"quality_input": "mask_only"},
    {"convention": "legacy", "soft_nms_sigma": 0.6, "deformable": (4, 5), "min_score": 0.001},
]


@pytest.mark.long
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_variants_learn_and_predict(options):
    model = small("ms_rcnn", **{"region_samples": 16} | options)
    images, targets = batch(size=(64, 64))
    losses = model(images, targets)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert all(found.masks.size == (64, 64) for found in model.eval().predict(images))


def test_classes_that_are_not_there_cannot_compete():
    with pytest.raises(ValueError, match="class_agnostic"):
        small("mask_rcnn", mask_loss="softmax", class_agnostic=True)


def test_all_deformable_stages_are_there():
    """C5 is the head of the C4 variant."""
    model = small("mask_rcnn", variant="c4", deformable=(4, 5))
    places = {n.rpartition(".offset")[0] for n, _ in model.named_parameters() if "conv1.offset" in n}
    assert places == {
        f"{stage}.{block}.conv1" for stage in ("backbone.network.layer3", "last_stage") for block in (0, 1)
    }


@pytest.mark.parametrize(("head", "hidden"), [("mlp2", 2), ("mlp3", 3)])
def test_linear_layers_before_the_one_that_draws(head, hidden):
    assert len(small("mask_rcnn", mask_head=head).mask.head.hidden) == hidden


@pytest.mark.parametrize("name", ["mask_rcnn", "ms_rcnn"])
def test_crowds_are_no_objects(name):
    dense = torch.zeros(2, 64, 96, dtype=torch.bool)
    dense[0, 10:30, 10:30] = dense[1, 5:60, 20:90] = True
    crowded = Targets.from_masks(Masks.from_dense(dense), torch.arange(2), crowd=torch.tensor([False, True]))
    model = small(name, anchor_samples=10**6)
    images, _ = batch(count=1)
    with_crowd, without = (model(images, [targets]) for targets in (crowded, crowded[:1]))
    for part in ("rpn_score", "rpn_box"):
        torch.testing.assert_close(with_crowd[part], without[part])


# --- keypoints beside masks and instead of them

POSE = {"num_classes": 1, "keypoints": 17, "keypoint_width": 16}


def people(count=2):
    return batch(mode="parts", objects=(2, 3), count=count)


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"masks": False},
        {"masks": False, "keypoints": 0},
        {"variant": "c4", "region_samples": 8},
        {"convention": "legacy"},
    ],
)
def test_any_of_masks_and_keypoints_is_learned_and_found(options):
    model = small("ms_rcnn", **POSE | options)
    images, targets = people()
    losses = model(images, targets)
    assert ("mask" in losses) == ("mask_iou" in losses) == options.get("masks", True)
    assert ("keypoint" in losses) == (options.get("keypoints", 17) > 0)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    for found in model.eval().predict(images):
        assert 0 < len(found) == len(found.masks)
        assert found.masks.area().any() == options.get("masks", True)
        assert (found.keypoints is not None) == (options.get("keypoints", 17) > 0)


def test_keypoints_lie_in_the_original_picture():
    model, (images, _) = small("mask_rcnn", **POSE).eval(), people()
    larger = replace(images, originals=tuple((3 * h, 2 * w) for h, w in images.sizes))
    for one, other in zip(model.predict(images), model.predict(larger), strict=True):
        torch.testing.assert_close(other.keypoints, one.keypoints * torch.tensor([2.0, 3, 1]))
        corner, opposite = one.boxes[:, None, :2], one.boxes[:, None, 2:]
        assert ((one.keypoints[..., :2] > corner) & (one.keypoints[..., :2] < opposite.maximum(corner + 1))).all()


def test_the_fixed_divisor_is_the_most_keypoints_that_there_can_be():
    images, targets = people(1)
    by_visible, fixed = (small("mask_rcnn", keypoint_loss=k, **POSE) for k in ("by_visible", "fixed"))
    torch.manual_seed(1)
    one = by_visible(images, targets)["keypoint"]
    torch.manual_seed(1)
    other = fixed(images, targets)["keypoint"]
    shown = other / one * (64 * 0.25 * 17)
    torch.testing.assert_close(shown, shown.round(), rtol=0, atol=0.01)
    assert shown > 17


def test_pictures_without_people_teach_no_keypoints_but_break_nothing():
    model = small("mask_rcnn", **POSE)
    images, _ = people(1)
    losses = model(images, [Targets.none((64, 96))])
    assert losses["keypoint"].item() == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
