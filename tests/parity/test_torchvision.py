"""The same weights, the same answer: Mask R-CNN against torchvision's."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.models.detection import maskrcnn_resnet50_fpn

from maskwise.masks import Masks
from maskwise.structures import Images, Targets
from maskwise.weights import torchvision

SIZES = [(160, 192), (144, 176)]
ALL = 10**7


def reference():
    """Random weights with activations that neither vanish nor blow up, and heads that say something."""
    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=6, box_score_thresh=0.3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.weight, 0.2, 0.6)
    with torch.no_grad():
        model.rpn.head.cls_logits.weight.mul_(20)
        model.rpn.head.bbox_pred.weight.mul_(5)
        model.roi_heads.box_predictor.cls_score.weight.mul_(SCALE)
        model.roi_heads.mask_predictor.mask_fcn_logits.weight.mul_(4)
    model.transform.resize = lambda image, target: (image, target)
    return model.eval()


SCALE = 40


def importing(theirs, **options):
    state = theirs.state_dict()
    return torchvision.load(state, cfg=replace(torchvision.config(state), **options)).eval()


def pictures():
    generator = torch.Generator().manual_seed(5)
    return [torch.rand(3, *size, generator=generator) for size in SIZES]


@pytest.fixture(scope="module")
def theirs():
    return reference()


def test_detections_are_equal(theirs):
    mine = importing(theirs, min_score=0.3)
    with torch.no_grad():
        expected = theirs(pictures())
    found = mine.predict(Images.batch(pictures()))
    for want, got in zip(expected, found, strict=True):
        assert len(want["boxes"]) >= 20
        torch.testing.assert_close(got.boxes, want["boxes"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(got.scores, want["scores"], rtol=1e-4, atol=1e-4)
        assert torch.equal(got.labels, want["labels"] - 1)
        masks = got.masks.dense()
        assert (masks != (want["masks"][:, 0] > 0.5)).float().mean() < 1e-3
        assert masks.any((1, 2)).float().mean() > 0.5


def truth():
    """Discs, as both libraries take them."""
    mine, others = [], []
    for h, w in SIZES:
        y, x = torch.arange(h)[:, None], torch.arange(w)
        centres = [(40, 50, 30), (90, 120, 40), (70, 60, 12), (100, 30, 3)]
        dense = torch.stack([(y - a) ** 2 + (x - b) ** 2 < r**2 for a, b, r in centres])
        targets = Targets.from_masks(Masks.from_dense(dense), torch.tensor([0, 3, 4, 1]))
        mine.append(targets)
        others.append({"boxes": targets.boxes, "labels": targets.labels + 1, "masks": dense.to(torch.uint8)})
    return mine, others


def test_losses_are_equal_when_all_samples_are_drawn(theirs):
    mine = importing(theirs, anchor_samples=ALL, region_samples=ALL)
    targets, others = truth()
    for sampler in (theirs.rpn.fg_bg_sampler, theirs.roi_heads.fg_bg_sampler):
        sampler.batch_size_per_image = ALL
    theirs.train()
    theirs.backbone.eval()  # norms as they are, as where they are frozen
    expected = theirs([p.clone() for p in pictures()], others)
    theirs.eval()
    found = mine.train()(Images.batch(pictures()), targets)
    names = {"rpn_score": "loss_objectness", "rpn_box": "loss_rpn_box_reg", "box_class": "loss_classifier"}
    names |= {"box": "loss_box_reg", "mask": "loss_mask"}
    assert found.keys() == names.keys()
    for name, other in names.items():
        assert expected[other] > 0
        torch.testing.assert_close(found[name], expected[other], rtol=1e-4, atol=1e-4)


def test_the_older_names_of_published_files_are_known(theirs):
    state = dict(theirs.state_dict())
    for key in list(state):
        old = key.replace("conv.0.0.", "conv.") if key.startswith("rpn") else key
        for i in range(4):
            old = old.replace(f"mask_head.{i}.0.", f"mask_head.mask_fcn{i + 1}.")
            old = old.replace(f"fpn.inner_blocks.{i}.0.", f"fpn.inner_blocks.{i}.")
            old = old.replace(f"fpn.layer_blocks.{i}.0.", f"fpn.layer_blocks.{i}.")
        state[old] = state.pop(key)
    new, old = torchvision.load(theirs.state_dict()).state_dict(), torchvision.load(state).state_dict()
    assert all(torch.equal(old[key], new[key]) for key in new)


def test_an_epsilon_of_zero_is_carried_over(theirs):
    model = torchvision.load(theirs.state_dict(), norm_eps=0.0)
    mine, their = model.backbone.network["bn1"], theirs.backbone.body["bn1"]
    x = torch.rand(1, 64, 4, 4)
    expected = nn.functional.batch_norm(x, their.running_mean, their.running_var, their.weight, their.bias, eps=0.0)
    torch.testing.assert_close(mine(x), expected)


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_every_weight_has_one_place(theirs, change):
    state = dict(theirs.state_dict())
    value = state["rpn.head.bbox_pred.bias"]
    if change == "missing":
        del state["rpn.head.bbox_pred.bias"]
    else:
        state["rpn.head.extra.bias"] = value
    with pytest.raises(ValueError, match=r"missing: rpn\.offset\.bias" if change == "missing" else r"rpn\.head\.extra"):
        torchvision.load(state)
