"""Keypoints beside masks and instead of them."""

from dataclasses import replace

import pytest
import torch

from maskwise.data.scenes import Scenes
from maskwise.methods import mask_rcnn
from maskwise.structures import Images

SMALL = {"num_classes": 1, "backbone": "resnet18", "width": 32, "hidden": 64, "min_score": 0.0, "max_instances": 10}
SMALL |= {"per_level_train": 50, "per_level_test": 50, "proposals_train": 30, "proposals_test": 20}
SMALL |= {"keypoints": 17, "keypoint_width": 16}


def people(count=2):
    several = [Scenes(mode="parts", size=(64, 96), count=(2, 3)).scene(i) for i in range(count)]
    pixels = [torch.from_numpy(s.pixels.transpose(2, 0, 1).copy()) / 255 for s in several]
    return Images.batch(pixels), [s.targets for s in several]


def small(**options):
    torch.manual_seed(0)
    return mask_rcnn.build(mask_rcnn.Config(**SMALL | options))


@pytest.mark.parametrize(
    "options", [{}, {"masks": False}, {"masks": False, "keypoints": 0}, {"variant": "c4"}, {"convention": "legacy"}]
)
def test_any_of_masks_and_keypoints_is_learned_and_found(options):
    model = small(**options)
    images, targets = people()
    losses = model.train()(images, targets)
    assert ("mask" in losses) == options.get("masks", True)
    assert ("keypoint" in losses) == (options.get("keypoints", 17) > 0)
    sum(losses.values()).backward()
    for found in model.eval().predict(images):
        assert 0 < len(found) == len(found.masks)
        assert found.masks.area().any() == options.get("masks", True)
        assert (found.keypoints is not None) == (options.get("keypoints", 17) > 0)


def test_keypoints_lie_in_the_original_picture():
    model, (images, _) = small().eval(), people()
    larger = replace(images, originals=tuple((3 * h, 2 * w) for h, w in images.sizes))
    for one, other in zip(model.predict(images), model.predict(larger), strict=True):
        torch.testing.assert_close(other.keypoints, one.keypoints * torch.tensor([2.0, 3, 1]))
        corner, opposite = one.boxes[:, None, :2], one.boxes[:, None, 2:]
        assert ((one.keypoints[..., :2] > corner) & (one.keypoints[..., :2] < opposite.maximum(corner + 1))).all()


def test_the_fixed_divisor_is_the_most_keypoints_that_there_can_be():
    images, targets = people(1)
    by_visible, fixed = (small(keypoint_loss=kind, region_samples=10**4) for kind in ("by_visible", "fixed"))
    torch.manual_seed(1)
    one = by_visible(images, targets)["keypoint"]
    torch.manual_seed(1)
    other = fixed(images, targets)["keypoint"]
    shown = other / one * (10**4 * 0.25 * 17)
    torch.testing.assert_close(shown, shown.round(), rtol=0, atol=0.01)
    assert shown > 17
