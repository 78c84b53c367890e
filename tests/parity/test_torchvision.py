"""The same weights, the same answer: Mask R-CNN against torchvision's, of both versions, and its Keypoint R-CNN."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.models.detection import (
    keypointrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
)
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor

from maskwise.masks import Masks
from maskwise.structures import Images, Targets
from maskwise.weights import torchvision

SIZES = [(128, 160), (96, 144)]
ALL = 10**7
SPREAD = 1.5
"""Of the scores, before softmax: more, and many come out alike."""
FEW = 60
"""Proposals of a picture, to save time."""
SAME = {"proposals_train": FEW, "proposals_test": FEW, "nms_iou": 0.7, "min_score": 0.3, "max_instances": 15}
KINDS = {
    "first": (maskrcnn_resnet50_fpn, {"num_classes": 6}),
    "second": (maskrcnn_resnet50_fpn_v2, {"num_classes": 6}),
    "keypoints": (keypointrcnn_resnet50_fpn, {"num_classes": 2}),
}


def reference(kind):
    """Random weights with activations that neither vanish nor blow up, and heads that say something."""
    torch.manual_seed(0)
    make, options = KINDS[kind]
    options = options | {"rpn_post_nms_top_n_train": FEW, "rpn_post_nms_top_n_test": FEW, "box_nms_thresh": 0.7}
    options |= {"box_detections_per_img": 15, "box_score_thresh": 0.3}
    model = make(weights=None, weights_backbone=None, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.weight, 0.2, 0.6)
    heads = model.roi_heads
    if heads.keypoint_head is not None:  # as deep as theirs, and an eighth as wide, to save time
        heads.keypoint_head = KeypointRCNNHeads(256, (64,) * 8)
        heads.keypoint_predictor = KeypointRCNNPredictor(64, 5)
    with torch.no_grad():
        model.rpn.head.cls_logits.weight.mul_(20)
        model.rpn.head.bbox_pred.weight.mul_(5)
        if heads.mask_predictor is not None:
            heads.mask_predictor.mask_fcn_logits.weight.mul_(4)
    model.transform.resize = lambda image, target: (image, target)
    with_opinions(model.eval())
    return model


@torch.no_grad()
def with_opinions(model):
    """Scores of regions that differ much, around zero."""
    layer, seen = model.roi_heads.box_predictor.cls_score, []
    with layer.register_forward_hook(lambda *called: seen.append(called[-1])):
        model(pictures())
    scale = SPREAD / seen[0].std(0).mean()
    layer.weight.mul_(scale)
    layer.bias.copy_(-scale * (seen[0].mean(0) - layer.bias))


def importing(theirs, **options):
    state = theirs.state_dict()
    return torchvision.load(state, cfg=replace(torchvision.config(state), **SAME, **options)).eval()


def pictures():
    generator = torch.Generator().manual_seed(5)
    return [torch.rand(3, *size, generator=generator) for size in SIZES]


@pytest.fixture(scope="module")
def first():
    return reference("first")


@pytest.fixture(
    scope="module", params=["first", *(pytest.param(k, marks=pytest.mark.long) for k in KINDS if k != "first")]
)
def theirs(request, first):
    return first if request.param == "first" else reference(request.param)


def test_detections_are_equal(theirs):
    mine = importing(theirs)
    with torch.no_grad():
        expected = theirs(pictures())
    found = mine.predict(Images.batch(pictures()))
    for want, got in zip(expected, found, strict=True):
        assert len(want["boxes"]) >= 10
        got = in_order(got, want)
        torch.testing.assert_close(got.boxes, want["boxes"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(got.scores, want["scores"], rtol=1e-4, atol=1e-4)
        assert torch.equal(got.labels, want["labels"] - 1)
        if "masks" in want:
            masks = got.masks.dense()
            assert (masks != (want["masks"][:, 0] > 0.5)).float().mean() < 1e-3
            assert masks.any((1, 2)).float().mean() > 0.3
        else:
            torch.testing.assert_close(got.keypoints[..., :2], want["keypoints"][..., :2], rtol=0, atol=1e-3)
            torch.testing.assert_close(got.keypoints[..., 2], want["keypoints_scores"], rtol=1e-4, atol=1e-4)
            assert len(got.keypoints[..., :2].round().unique(dim=0)) >= 10


def in_order(found, want):
    """As the others rank them: two scores may be so close that the last bit decides."""
    theirs = torch.cat([want["boxes"], 1000 * (want["labels"] - 1)[:, None]], 1)
    place = torch.cdist(theirs, torch.cat([found.boxes, 1000 * found.labels[:, None]], 1)).argmin(1)
    assert sorted(place.tolist()) == list(range(len(found)))
    return found[place]


def truth(*, classes):
    """Discs, as both libraries take them, with keypoints on their rims and one outside."""
    mine, others = [], []
    for h, w in SIZES:
        y, x = torch.arange(h)[:, None], torch.arange(w)
        discs = torch.tensor([[40, 50, 30], [60, 90, 40], [70, 60, 12], [80, 30, 3]])
        dense = torch.stack([(y - a) ** 2 + (x - b) ** 2 < r**2 for a, b, r in discs.tolist()])
        where = torch.tensor([[0.0, 0.2], [-0.6, 0.1], [0.7, -0.3], [0.1, 0.8], [3.0, 0.0]])
        points = discs[:, None, [1, 0]] + where * discs[:, None, 2:]
        points = torch.cat([points, torch.tensor([2, 1, 0, 2, 2]).expand(4, 5)[..., None]], 2)
        targets = Targets.from_masks(Masks.from_dense(dense), torch.tensor([0, 3, 4, 1]) % classes, keypoints=points)
        mine.append(targets)
        others.append({"boxes": targets.boxes, "labels": targets.labels + 1, "masks": dense.to(torch.uint8)})
        others[-1]["keypoints"] = points
    return mine, others


LOSSES = {"rpn_score": "loss_objectness", "rpn_box": "loss_rpn_box_reg", "box_class": "loss_classifier"}
LOSSES |= {"box": "loss_box_reg", "mask": "loss_mask", "keypoint": "loss_keypoint"}


@pytest.mark.parametrize(
    "theirs",
    ["first", pytest.param("second", marks=pytest.mark.slow), pytest.param("keypoints", marks=pytest.mark.long)],
    indirect=True,
)
def test_losses_are_equal_when_all_samples_are_drawn(theirs):
    mine = importing(theirs, anchor_samples=ALL, region_samples=ALL)
    targets, others = truth(classes=mine.cfg.num_classes)
    for sampler in (theirs.rpn.fg_bg_sampler, theirs.roi_heads.fg_bg_sampler):
        sampler.batch_size_per_image = ALL
    with_fixed_norms(theirs)
    expected = theirs([p.clone() for p in pictures()], others)
    theirs.eval()
    found = with_fixed_norms(mine)(Images.batch(pictures()), targets)
    assert {LOSSES[name] for name in found} == expected.keys()
    for name, value in found.items():
        assert value > 0
        torch.testing.assert_close(value, expected[LOSSES[name]], rtol=1e-4, atol=1e-4)


def with_fixed_norms(model):
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def test_the_older_names_of_published_files_are_known(first):
    state = dict(first.state_dict())
    for key in list(state):
        old = key.replace("conv.0.0.", "conv.") if key.startswith("rpn") else key
        for i in range(4):
            old = old.replace(f"mask_head.{i}.0.", f"mask_head.mask_fcn{i + 1}.")
            old = old.replace(f"fpn.inner_blocks.{i}.0.", f"fpn.inner_blocks.{i}.")
            old = old.replace(f"fpn.layer_blocks.{i}.0.", f"fpn.layer_blocks.{i}.")
        state[old] = state.pop(key)
    new, old = torchvision.load(first.state_dict()).state_dict(), torchvision.load(state).state_dict()
    assert all(torch.equal(old[key], new[key]) for key in new)


def test_an_epsilon_of_zero_is_carried_over(first):
    model = torchvision.load(first.state_dict(), norm_eps=0.0).eval()
    mine, their = model.backbone.network["bn1"], first.backbone.body["bn1"]
    x = torch.rand(1, 64, 4, 4)
    expected = nn.functional.batch_norm(x, their.running_mean, their.running_var, their.weight, their.bias, eps=0.0)
    torch.testing.assert_close(mine(x), expected)


def test_norms_are_frozen_where_they_were(first):
    state = first.state_dict()
    frozen = {k: v for k, v in state.items() if "num_batches" not in k}
    assert (torchvision.config(state).norm, torchvision.config(frozen).norm) == ("batch", "frozen")


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_every_weight_has_one_place(first, change):
    state = dict(first.state_dict())
    value = state["rpn.head.bbox_pred.bias"]
    if change == "missing":
        del state["rpn.head.bbox_pred.bias"]
    else:
        state["rpn.head.extra.bias"] = value
    match = r"missing weights: rpn\.offset\.bias" if change == "missing" else r"unknown weights: rpn\.head\.extra"
    with pytest.raises(ValueError, match=match):
        torchvision.load(state)
