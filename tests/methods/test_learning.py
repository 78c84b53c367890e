"""Every method can learn: two scenes by heart."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from small import batch, small

from maskwise.methods import METHODS

WINDOWS = {"octaves": (-0.75, -0.5, -0.25, 0.0, 0.25, 0.5), "samples": 4, "mask_side": 32, "drawn_side": 64}
LEARNERS: dict[str, dict[str, Any]] = {
    "two-stage": {"norm": "batch", "width": 64, "hidden": 128},
    "cascade": {"norm": "batch", "hidden": 128, "mask_hidden": 256},
    "one-stage": {"norm": "batch", "width": 64, "limits": (32.0,), "max_instances": 100, "min_score": 0.05},
    "proposals": {"norm": "batch", "width": 64, "hidden": 128, **WINDOWS, "code": 128, "max_instances": 100},
    "grouping": {"norm": "batch", "width": 32},
    "recurrent": {"norm": "batch", "width": 64, "max_steps": 4, "stop_threshold": 0.5, "mask_threshold": 0.5},
}
"""Options of each family."""
STEPS = {"two-stage": 60, "cascade": 200, "one-stage": 150, "proposals": 150, "grouping": 150, "recurrent": 250}
RATES = {"grouping": 5e-3, "recurrent": 5e-3}
"""The highest, where it is not 0.002."""


def trained(model, images, targets, *, steps=60, rate=2e-3):
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(model(images, targets).values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def overlaps(found, targets):
    """IoU of each object with the best mask of its class, of those that the method is sure of."""
    sure = found[found.scores > 0.5]
    iou = targets.masks.iou(sure.masks)
    same = targets.labels[:, None] == sure.labels
    return torch.where(same, iou, 0).max(1).values if len(sure) else torch.zeros(len(targets))


def as_learned(name, targets):
    """Proposals have no class: all are of the only one."""
    if METHODS[name].family != "proposals":
        return targets
    return [replace(t, labels=torch.zeros_like(t.labels)) for t in targets]


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_two_scenes_are_learned_by_heart(name):
    images, targets = batch(size=(96, 96), objects=(3, 3), radius=(12, 20), overlap=0.0)
    family = METHODS[name].family
    how = {"steps": STEPS[family], "rate": RATES.get(family, 2e-3)}
    model = trained(small(name, **LEARNERS[family]), images, targets, **how)
    found, targets = model.predict(images), as_learned(name, targets)
    assert torch.cat([overlaps(f, t) for f, t in zip(found, targets, strict=True)]).mean() > 0.8


@pytest.mark.slow
def test_keypoints_of_two_scenes_are_learned_by_heart():
    images, targets = batch(size=(96, 96), objects=(1, 1), mode="parts", radius=(16, 20), overlap=0.0)
    options = {"num_classes": 1, "keypoints": 17, "keypoint_width": 32, "norm": "batch", "masks": False}
    model = trained(small("mask_rcnn", **options), images, targets)
    for found, truth in zip(model.predict(images), targets, strict=True):
        shown = truth.keypoints[0, :, 2] > 0
        distance = (found.keypoints[0] - truth.keypoints[0])[shown, :2].norm(dim=1)
        assert shown.sum() > 5
        assert distance.median() < 0.03 * 96
