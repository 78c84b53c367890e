"""Box head and mask heads."""

import math

import pytest
import torch
from torch import nn

from maskwise.masks import Masks
from maskwise.parts.box_head import BoxHead, BoxOutputs, convolutions_and_layer, two_layers
from maskwise.parts.convention import CONVENTIONS
from maskwise.parts.mask_head import ConvolutionalMaskHead, LinearMaskHead, MaskIoUHead, masks_of
from maskwise.parts.roi import Regions
from maskwise.structures import Targets


def square(x0, y0, x1, y1, *, label=0):
    dense = torch.zeros(1, 64, 64, dtype=torch.bool)
    dense[0, y0:y1, x0:x1] = True
    return Targets.from_masks(Masks.from_dense(dense), torch.tensor([label]))


def head(convention="continuous"):
    return BoxHead(nn.Flatten(), 4, 2, convention=CONVENTIONS[convention])


@pytest.mark.parametrize(("convention", "expected"), [("continuous", 2.0), ("legacy", 1.5)])
def test_the_box_loss_by_hand(convention, expected):
    """A region of 20 x 20 whose object lies 4 pixels to the right: dx = 10 * 4 / 20 = 2, the rest 0.

    Over two regions: L1 gives 2 / 2, smooth L1 (beta 1) 1.5 / 2. All logits 0: ln 3.
    """
    regions = Regions(torch.tensor([[10.0, 10, 30, 30], [40, 40, 60, 60]]), torch.tensor([1, 2]), torch.tensor([0]))
    found = BoxOutputs(torch.zeros(2, 3), torch.zeros(2, 2, 4))
    losses = head(convention).loss(found, [regions], [square(14, 10, 34, 30, label=1)])
    assert losses["box"].item() == pytest.approx(expected / 2)
    assert losses["box_class"].item() == pytest.approx(math.log(3))


def test_only_the_offsets_of_the_class_are_taught():
    offsets = torch.zeros(1, 2, 4, requires_grad=True)
    regions = Regions(torch.tensor([[10.0, 10, 30, 30]]), torch.tensor([1]), torch.tensor([0]))
    head().loss(BoxOutputs(torch.zeros(1, 3), offsets), [regions], [square(14, 12, 36, 31, label=1)])["box"].backward()
    assert (offsets.grad[0, 0] == 0).all()
    assert (offsets.grad[0, 1] != 0).all()


def test_no_region_is_a_zero_with_a_gradient():
    box = head()
    none = Regions(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    losses = box.loss(box(torch.zeros(0, 4, 1, 1)), [none], [Targets.none((64, 64))])
    assert all(value.item() == 0 and value.requires_grad for value in losses.values())


def test_detections_by_hand():
    """Of three regions the second is beside the first and less sure, the third is of the other class."""
    regions = torch.tensor([[10.0, 10, 30, 30], [11, 10, 31, 30], [11, 10, 31, 30]])
    logits = torch.tensor([[5.0, 0, 0], [4, 0, 0], [0, 3, 0]])
    found = BoxOutputs(logits, torch.zeros(3, 2, 4))
    options = {"min_score": 0.5, "nms_iou": 0.5, "most": 100}
    (hard,) = head().detect(found, [regions], [(64, 64)], soft_sigma=None, **options)
    assert hard.labels.tolist() == [0, 1]
    assert hard.boxes.tolist() == [[10, 10, 30, 30], [11, 10, 31, 30]]
    torch.testing.assert_close(hard.scores, logits.softmax(1)[[0, 2], [0, 1]])
    (soft,) = head().detect(found, [regions], [(64, 64)], soft_sigma=10.0, **options)
    assert soft.labels.tolist() == [0, 1, 0]
    iou = 19 / 21
    assert soft.scores[2].item() == pytest.approx(logits.softmax(1)[1, 0].item() * math.exp(-(iou**2) / 10))
    (few,) = head().detect(found, [regions], [(64, 64)], soft_sigma=None, **options | {"most": 1})
    assert few.labels.tolist() == [0]


@pytest.mark.parametrize("count", [0, 3])
def test_shapes_of_heads(count):
    small, large = torch.rand(count, 8, 7, 7), torch.rand(count, 8, 14, 14)
    assert two_layers(8, 7, hidden=16)(small).shape == (count, 16)
    assert convolutions_and_layer(8, 7, norm="group", hidden=16)(small).shape == (count, 16)
    assert ConvolutionalMaskHead(8, 5, width=6)(large).shape == (count, 5, 28, 28)
    assert ConvolutionalMaskHead(8, 1, width=6, convolutions=0)(small).shape == (count, 1, 14, 14)
    for layers in (2, 3):
        head = LinearMaskHead(8, 5, layers=layers, hidden=16)
        assert len(head.hidden) == layers
        assert head(large).shape == (count, 5, 28, 28)
    assert MaskIoUHead(8, 5, hidden=16)(large).shape == (count, 5)
    assert MaskIoUHead(8, 5, hidden=16, size=7, halvings=0)(small).shape == (count, 5)


def test_mask_targets_by_hand():
    """The right half of a region is the object; torchvision's targets are shares, read half a pixel further on."""
    regions = Regions(torch.tensor([[10.0, 10, 30, 30]]), torch.tensor([0]), torch.tensor([0]))
    half = torch.zeros(1, 4, 4)
    half[..., 2:] = 1
    found = masks_of([regions], [square(20, 0, 64, 64)], cells=4, convention=CONVENTIONS["continuous"])
    assert torch.equal(found, half)
    shares = masks_of([regions], [square(21, 0, 64, 64)], cells=4, convention=CONVENTIONS["torchvision"])
    torch.testing.assert_close(shares[0, 0], torch.tensor([0, 0, 0.9, 1]), atol=0.11, rtol=0)
    assert 0 < shares[0, 0, 2] < 1
