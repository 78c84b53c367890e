"""What the quality head of Mask Scoring R-CNN learns from."""

import pytest
import torch
from small import CLASSES, batch, small
from torch.nn.functional import max_pool2d

from maskwise.data.synthetic.scenes import Scenes
from maskwise.masks import Masks
from maskwise.methods import mask_rcnn
from maskwise.parts.mask_head import mask_iou, share_inside
from maskwise.parts.mask_head import mask_iou_loss as loss
from maskwise.parts.roi import Regions
from maskwise.structures import Targets


def regions(boxes, matched):
    labels = torch.zeros(len(matched), dtype=torch.int64)
    return Regions(boxes, labels, torch.tensor(matched))


def test_what_lies_outside_the_box_counts_against_the_mask():
    """An object of 8 x 4 pixels, of which the box holds the left 4 x 4, as a grid of 4 x 4 cells.

    Drawn are the upper three rows of the four. A_full = 16 / .5 = 32, shared 12, union 12 + 32 - 12: t = .375.
    """
    dense = torch.zeros(1, 16, 16, dtype=torch.bool)
    dense[0, 4:8, 4:12] = True
    targets = Targets.from_masks(Masks.from_dense(dense), torch.tensor([0]))
    share = share_inside([regions(torch.tensor([[4.0, 4, 8, 8]]), [0])], [targets])
    assert share.tolist() == [0.5]
    drawn = torch.zeros(1, 4, 4, dtype=torch.bool)
    drawn[0, :3] = True
    assert mask_iou(drawn, torch.ones(1, 4, 4, dtype=torch.bool), share).tolist() == [0.375]


def test_a_box_may_cut_pixels():
    dense = torch.zeros(1, 16, 16, dtype=torch.bool)
    dense[0, 4:8, 4:8] = True
    targets = Targets.from_masks(Masks.from_dense(dense), torch.tensor([0]))
    boxes = torch.tensor([[4.0, 4, 6.5, 8], [5.25, 0, 5.5, 5], [9, 9, 12, 12]])
    share = share_inside([regions(boxes, [0, 0, 0])], [targets])
    torch.testing.assert_close(share, torch.tensor([10 / 16, 0.25 / 16, 0]))


def test_nothing_drawn_and_nothing_wanted_is_zero_and_not_a_division_by_zero():
    nothing = torch.zeros(2, 28, 28, dtype=torch.bool)
    assert mask_iou(nothing, nothing, torch.tensor([0.0, 1.0])).tolist() == [0, 0]


def test_masks_that_miss_teach_nothing_and_the_rest_half_the_square():
    found = torch.tensor([0.5, 0.9, 3.0], requires_grad=True)
    value = loss(found, torch.tensor([0.7, 0.5, 0.0]))
    assert value.item() == pytest.approx((0.5 * 0.04 + 0.5 * 0.16) / 2)
    value.backward()
    torch.testing.assert_close(found.grad, torch.tensor([-0.1, 0.2, 0]))
    none = loss(found, torch.zeros(3))
    assert none.item() == 0
    assert none.requires_grad


def test_the_target_is_near_the_true_iou_at_full_resolution():
    """Boxes around objects, moved; in them masks of other objects, shifted: what a network draws, more or less."""
    torch.manual_seed(0)
    errors = []
    for i in range(6):
        targets = Scenes(size=(192, 192), count=(4, 8), radius=(12, 40)).scene(i).targets
        n = len(targets)
        sides = (targets.boxes[:, 2:] - targets.boxes[:, :2]).repeat(1, 2)
        boxes = (targets.boxes + sides * 0.15 * torch.randn(n, 4)).clamp(0, 192)
        which = torch.arange(n)
        shifted = targets.masks.translate(int(torch.randint(-4, 5, ())), int(torch.randint(-4, 5, ())))
        drawn = shifted.sample(boxes, which, 28)
        region = Regions(boxes, targets.labels, which)
        wanted = targets.masks.sample(boxes, which, 28) >= 0.5
        found = mask_iou(drawn >= 0.5, wanted, share_inside([region], [targets]))
        pasted = Masks.paste((drawn >= 0.5).float(), boxes, (192, 192))
        errors.append((found - pasted.iou(targets.masks).diagonal()).abs())
    errors = torch.cat(errors)
    assert len(errors) > 20
    assert errors.mean() < 0.03


@pytest.mark.parametrize("classes", ["all", "present"])
def test_several_classes_of_a_region_teach_in_half_the_precision_too(classes):
    with torch.autocast("cpu", torch.bfloat16):
        loss = small("ms_rcnn", quality_classes=classes)(*batch(count=1))["mask_iou"]
    assert loss > 0


@pytest.mark.parametrize("mask_loss", ["sigmoid", "softmax"])
def test_of_all_classes_the_head_sees_the_masks_that_would_be_drawn(mask_loss):
    model = small("ms_rcnn", quality_input="all_classes", mask_loss=mask_loss).eval()
    told, shown = [], []
    model.mask.head.register_forward_hook(lambda _, __, logits: told.append(logits))
    model.mask.iou.register_forward_pre_hook(lambda _, given: shown.append(given[0]))
    model.predict(batch(count=1)[0])
    (logits,), (seen,) = told, shown
    for label in range(CLASSES):
        drawn = mask_rcnn.probabilities(model.cfg, logits, torch.full((len(logits),), label))
        torch.testing.assert_close(seen[:, label - CLASSES], max_pool2d(drawn, 2))


@pytest.mark.long
@pytest.mark.parametrize("quality_input", ["concatenated", "unpooled"])
@pytest.mark.parametrize("detached", ["nothing", "mask", "features", "both"])
def test_what_is_detached_is_not_trained_by_the_quality_head(quality_input, detached):
    model = small("ms_rcnn", quality_input=quality_input, quality_detached=detached)
    model(*batch(count=1))["mask_iou"].backward()

    def trained(part):
        return any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())

    assert trained(model.mask.iou)
    assert trained(model.mask.head.predict) == (detached in ("nothing", "features"))
    assert trained(model.neck) == (detached != "both")  # the mask is drawn from the features, too
    only_mask = small("ms_rcnn", quality_input="mask_only", quality_detached=detached)
    only_mask(*batch(count=1))["mask_iou"].backward()
    assert trained(only_mask.neck) == (detached in ("nothing", "features"))
