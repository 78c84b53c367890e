"""Anchors as they were published, and what the proposal network makes of them."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from maskwise.masks import Masks
from maskwise.parts.convention import CONVENTIONS
from maskwise.parts.rpn import RPN, AnchorOutputs, anchors_of_cell, anchors_of_map
from maskwise.structures import Targets


def test_legacy_anchors_are_those_of_faster_rcnn():
    """Of stride 16 and sizes 128, 256, 512, as the first implementation prints them by their last pixel."""
    published = [
        [[-84, -40, 99, 55], [-56, -56, 71, 71], [-36, -80, 51, 95]],
        [[-176, -88, 191, 103], [-120, -120, 135, 135], [-80, -168, 95, 183]],
        [[-360, -184, 375, 199], [-248, -248, 263, 263], [-168, -344, 183, 359]],
    ]
    expected = torch.tensor(published).flatten(0, 1) + torch.tensor([0, 0, 1, 1])
    found = anchors_of_cell([128, 256, 512], stride=16, style="legacy")
    torch.testing.assert_close(found, expected.float())


def test_rounded_anchors_are_torchvisions():
    theirs = AnchorGenerator(sizes=((32,), (64,)), aspect_ratios=((0.5, 1.0, 2.0),) * 2)
    maps = [torch.zeros(1, 1, 16, 24), torch.zeros(1, 1, 8, 12)]
    (expected,) = theirs(ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)]), maps)
    mine = [
        anchors_of_map(anchors_of_cell([size], stride=stride, style="rounded"), (h, w), stride=stride)
        for size, stride, h, w in ((32, 4, 16, 24), (64, 8, 8, 12))
    ]
    assert torch.equal(torch.cat(mine), expected)


def test_exact_anchors_have_the_area_and_the_ratio():
    found = anchors_of_cell([30.0, 60.0], stride=16)
    sides = found[:, 2:] - found[:, :2]
    torch.testing.assert_close(sides.prod(1), torch.tensor([900.0] * 3 + [3600] * 3))
    torch.testing.assert_close(sides[:, 1] / sides[:, 0], torch.tensor([0.5, 1, 2] * 2))
    assert (found[:, :2] == -found[:, 2:]).all()


def network(convention="continuous"):
    torch.manual_seed(0)
    return RPN(8, sizes=[[16.0], [32.0]], strides=(8, 16), convention=CONVENTIONS[convention])


def levels(pictures=1):
    return [torch.rand(pictures, 8, 8, 12), torch.rand(pictures, 8, 4, 6)]


def test_what_is_said_belongs_to_the_anchor_at_its_place():
    """One cell with one high score: the proposal is that anchor."""
    rpn = network()
    found = rpn(levels())
    assert [s.shape for s in found.scores] == [(1, 8 * 12 * 3), (1, 4 * 6 * 3)]
    place = (5 * 12 + 7) * 3 + 1  # row 5, column 7, the square one
    scores = [torch.zeros_like(s) for s in found.scores]
    scores[0][0, place] = 9
    still = AnchorOutputs(scores, [torch.zeros_like(o) for o in found.offsets], found.anchors)
    (best,) = rpn.propose(still, [(64, 96)], per_level=50, keep=10)
    assert best[0].tolist() == [7 * 8 - 8, 5 * 8 - 8, 7 * 8 + 8, 5 * 8 + 8]


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_proposals_lie_in_the_picture_and_are_as_many_as_asked_for(convention):
    rpn = network(convention)
    found = rpn.propose(rpn(levels(2)), [(64, 96), (40, 50)], per_level=40, keep=25)
    for proposals, (h, w) in zip(found, [(64, 96), (40, 50)], strict=True):
        assert 0 < len(proposals) <= 25
        assert (proposals >= 0).all()
        assert (proposals[:, 2:] <= torch.tensor([w, h])).all()
        assert (proposals[:, 2:] > proposals[:, :2]).all()


def test_a_picture_without_objects_teaches_scores_and_a_zero_for_boxes():
    rpn = network()
    losses = rpn.loss(rpn(levels()), [Targets.none((64, 96))])
    assert losses["rpn_score"] > 0.5
    assert losses["rpn_box"].item() == 0
    assert losses["rpn_box"].requires_grad


def test_scores_of_half_the_precision_whose_sum_does_not_fit_it_give_a_number():
    found = network()(levels())
    sure = AnchorOutputs([torch.full_like(s, -60_000.0).half() for s in found.scores], found.offsets, found.anchors)
    assert all(value.isfinite() for value in network().loss(sure, [Targets.none((64, 96))]).values())


def test_the_loss_of_a_network_that_is_right_is_zero():
    rpn = network()
    dense = torch.zeros(1, 64, 96, dtype=torch.bool)
    dense[0, 32:48, 48:64] = True  # the square anchor of a cell
    targets = Targets.from_masks(Masks.from_dense(dense), torch.zeros(1, dtype=torch.int64))
    found = rpn(levels())
    certain = [torch.where((a == targets.boxes).all(1), 20.0, -20.0)[None] for a in found.anchors]
    assert sum((c > 0).sum() for c in certain) == 1
    right = AnchorOutputs(certain, [torch.zeros_like(o) for o in found.offsets], found.anchors)
    assert all(value < 1e-6 for value in rpn.loss(right, [targets], total=10**6).values())
