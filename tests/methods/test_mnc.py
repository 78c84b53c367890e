"""What the stages of the cascade hand to each other, forwards and backwards."""

import math

import pytest
import torch
from small import batch, small
from torch import nn
from torch.nn import functional as F

from maskwise import boxes
from maskwise.masks import Masks
from maskwise.methods.mnc import MOST_GRADIENT, Config, GradientClamp, first_regions, fitting, second_regions, wanted
from maskwise.parts import voting
from maskwise.parts.convention import Convention
from maskwise.parts.roi import Pool, Regions, on_grid
from maskwise.structures import Targets

NONE = torch.zeros(0, 4)


def square(*rows):
    dense = torch.zeros(len(rows), 64, 64, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(dense, rows, strict=True):
        mask[y0:y1, x0:x1] = True
    return Targets.from_masks(Masks.from_dense(dense), torch.arange(len(rows)))


def config(**options):
    return Config(num_classes=8, **options)


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [
        {"stages": 3, "box_gradient": False, "mask_cells": 21},
        {"head": "backbone", "region_samples": 4, "proposals_test": 4, "norm": "batch"},
        {"backbone": "tf_efficientnet_lite0", "norm": "batch", "least_side": 1000.0},
    ],
    ids=str,
)
def test_variants_learn_and_predict(options):
    model = small("mnc", **options)
    images, targets = batch(size=(64, 64))
    losses = model(images, targets)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert all(found.masks.size == (64, 64) for found in model.eval().predict(images))


@pytest.mark.slow
def test_vgg_sees_regions_with_its_own_linear_layers():
    model = small("mnc", backbone="vgg16", head="backbone", region_samples=8)
    assert next(tuple(p.shape) for p in model.mask_path.parameters()) == (4096, 512, 7, 7)
    images, targets = batch(size=(64, 64), count=1)
    assert all(value.isfinite() for value in model(images, targets).values())
    assert len(model.eval().predict(images)[0]) > 0


# --- RoIWarp between the stages


def test_a_ramp_is_read_and_its_gradient_taken_by_hand():
    """A map whose value is its column. Of a region from column 2 to 6 the four points of each of two bins lie at
    2.5 3.5 | 4.5 5.5: the greatest are 3.5 and 5.5, which are 0.375 and 0.875 of the way from the left to the right."""
    x = torch.arange(12.0).expand(1, 1, 9, 12)
    pool = Pool(size=2, strides=(16,), convention=Convention(), operator="warp", reduce="maximum")
    region = torch.tensor([[35.0, 30, 93, 99]], requires_grad=True)  # rounds to whole cells
    found = pool([x], [region])
    torch.testing.assert_close(found, torch.tensor([[3.5, 5.5], [3.5, 5.5]])[None, None])
    found.sum().backward()
    share = 2 * (0.375 + 0.875) / 16
    torch.testing.assert_close(region.grad, torch.tensor([[4 / 16 - share, 0, share, 0]]))


def test_the_gradient_of_offsets_is_that_of_finite_differences():
    """From the offsets of boxes through decoding and RoIWarp to what is seen there."""
    x = torch.randn(1, 2, 9, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    where = torch.tensor([[21.3, 19.2, 110.1, 91.7], [40, 30, 93, 99]], dtype=torch.float64)

    def see(offsets):
        moved = boxes.clip(boxes.decode(offsets, where, (10, 10, 5, 5)), (144, 176))
        return F.max_pool2d(on_grid(x, moved.new_zeros(2), moved / 16, 4), 2)

    offsets = torch.randn(2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(see, offsets.requires_grad_())


@pytest.mark.parametrize("gradient", [True, pytest.param(False, marks=pytest.mark.long)])
def test_masks_teach_boxes_or_do_not(gradient):
    """Of the loss of the masks alone: the first round's reaches the offsets of the proposals, the second's also those
    of the box head."""
    model = small("mnc", box_gradient=gradient)
    for name, teaches in (("mask", {"rpn.offset"}), ("mask_again", {"rpn.offset", "box_head.offset"})):
        model.zero_grad()
        torch.manual_seed(0)
        model(*batch())[name].backward()
        taught = {n.removesuffix(".weight") for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        assert {"mask.1", "backbone.network.layer3.0.conv1"} <= taught
        assert taught & {"rpn.offset", "box_head.offset"} == (teaches if gradient else set())


def test_what_an_offset_is_taught_is_clamped():
    """Of two pictures: what is small passes, and of what is large 1/512 over both; what comes to the same offsets
    another way, as the loss of the RPN, stays as it is."""
    model, offsets = small("mnc"), torch.zeros(2, 4, requires_grad=True)
    gradient = torch.tensor([[1e-6, 0, -3e-6, 1e-4], [1, -5, 1e-3, -1e-3]])
    most = MOST_GRADIENT / 2
    (model.passed(offsets, GradientClamp(most)) * gradient + 3 * offsets).sum().backward()
    expected = torch.tensor([[1e-6, 0, -3e-6, 1e-4], [most, -most, most, -most]])
    torch.testing.assert_close(offsets.grad, 3 + expected)
    assert not small("mnc", box_gradient=False).passed(offsets, GradientClamp(most)).requires_grad


@pytest.mark.parametrize("scale", [1 / 4, pytest.param(65536.0, marks=pytest.mark.long)])
def test_the_clamp_goes_with_the_scale_of_the_losses(scale):
    """As in half precision, or in a step of several parts."""
    model = small("mnc")

    def taught(scale):
        model.zero_grad()
        torch.manual_seed(0)
        (scale * sum(model(*batch()).values())).backward()
        return model.rpn.offset.weight.grad / scale

    torch.testing.assert_close(taught(scale), taught(1.0), rtol=1e-4, atol=1e-9)


# --- from one round to the next


def test_regions_go_where_their_class_lies_by_hand():
    """dx = 10 * 0.5 moves by half the width, dw = 5 ln 2 doubles it, within the picture; background stays."""
    model, (images, _) = small("mnc"), batch(size=(64, 64), count=1)
    where = torch.tensor([[10.0, 10, 30, 30], [10, 10, 30, 30], [40, 40, 60, 60]])
    offsets = torch.zeros(3, 8, 4)
    offsets[0, 3] = torch.tensor([5.0, 0, 0, 0])
    offsets[:, 4] = torch.tensor([0, 0, 5 * math.log(2), 0])
    (moved,) = model.move([where], offsets, torch.tensor([3, 8, 4]), images)
    torch.testing.assert_close(moved, torch.tensor([[20.0, 10, 40, 30], [10, 10, 30, 30], [30, 40, 64, 60]]))
    (first,) = model.move([where[:1]], offsets[:1], torch.tensor([3]), images)
    again = boxes.decode(offsets[:1, 3], where[:1], (10, 10, 5, 5))
    torch.testing.assert_close(first, again)


def test_regions_of_the_first_round_are_of_three_kinds():
    """64: 19 with an object (0.3); of the 45 others 38 touch one (0.85) and 7 do not."""
    targets = square((0, 0, 32, 32))
    good, near, far = (
        torch.tensor([[0.0, 0, 32, 30]]),
        torch.tensor([[0.0, 0, 32, 8]]),
        torch.tensor([[40.0, 40, 60, 60]]),
    )
    proposals = torch.cat([good.expand(90, 4), near.expand(90, 4), far.expand(90, 4)])
    found = first_regions(config(), proposals, targets, NONE)
    kinds = [int((found.boxes == one).all(1).sum()) for one in (near, far)]
    assert (len(found.matched), *kinds) == (19, 38, 7)
    assert found.labels.tolist() == [0] * 19 + [8] * 45
    few = first_regions(config(), torch.cat([near.expand(90, 4), far.expand(3, 4)]), targets, NONE)
    assert (len(few.matched), len(few.boxes)) == (1, 64), "near ones take the place of far ones"
    assert len(first_regions(config(), NONE, Targets.none((64, 64)), NONE).boxes) == 0


def test_the_second_round_learns_from_all_of_the_first_and_from_the_objects():
    targets = square((0, 0, 32, 32), (40, 40, 60, 60))
    crowd = torch.tensor([[0.0, 34, 30, 64]])
    moved = torch.tensor([[0.0, 0, 32, 8], [2, 0, 32, 32], [1, 40, 20, 60], [41, 40, 60, 60]])
    found = second_regions(config(), moved, targets, crowd)
    assert found.matched.tolist() == [0, 1, 0, 1]
    assert torch.equal(found.positive, torch.cat([moved[[1, 3]], targets.boxes]))
    assert torch.equal(found.boxes[4:], moved[:1]), "what lies in a crowd teaches nothing"
    assert found.labels.tolist() == [0, 1, 0, 1, 8]


@pytest.mark.parametrize(("stages", "rounds"), [(3, 1), (5, 2)])
def test_three_stages_or_five(stages, rounds, monkeypatch):
    model, (images, targets) = small("mnc", stages=stages), batch(count=1)
    assert sum(name.startswith("mask_class") for name in model(images, targets)) == rounds
    candidates = []
    survive = voting.survivors
    monkeypatch.setattr(
        voting, "survivors", lambda regions, *a, **k: candidates.append(regions) or survive(regions, *a, **k)
    )
    model.eval().predict(images)
    assert [len(c) for c in candidates] == [20 * rounds], "all proposals, and all of them regressed"


def test_five_stages_find_what_three_do_and_more():
    three, five = (small("mnc", stages=stages).eval() for stages in (3, 5))
    images, _ = batch(count=1)
    x = three.features(images)
    where = three.rpn.propose(three.rpn([x]), images.sizes, per_level=50, keep=20)
    one, other = three.draw_and_classify(x, where), five.draw_and_classify(x, where)
    assert torch.equal(one.logits, other.logits), "the same weights"


# --- masks and classes


def test_mask_targets_by_hand():
    """The right half of a region is the object; a cell of which four tenths show it belongs to it."""
    where = Regions(torch.tensor([[0.0, 0, 40, 40]]), torch.tensor([0]), torch.tensor([0]))
    cfg = config(mask_cells=4)
    for left, column in (
        (20, [False, False, True, True]),
        (15, [False, True, True, True]),
        (17, [False, False, True, True]),
    ):
        found = wanted(cfg, [where], [square((left, 0, 64, 64))])
        assert found.tolist() == [[column] * 4]


def test_a_class_needs_a_mask_that_fits():
    """Object of 20 x 20 in a region of 40 x 20, its left half; drawn are both halves (IoU 1/2), three quarters of the
    left one (3/4), the right one (0)."""
    regions = Regions(torch.tensor([[0.0, 0, 40, 20]]).expand(3, 4), torch.tensor([0, 0, 0]), torch.tensor([0, 0, 0]))
    targets = square((0, 0, 20, 20))
    drawn = torch.full((3, 4, 4), -9.0)
    drawn[0], drawn[1, :3, :2], drawn[2, :, 2:] = 9.0, 9.0, 9.0
    cfg = config(mask_cells=4)
    truth = wanted(cfg, [regions], [targets])
    assert fitting(cfg, drawn, truth, [regions], [targets]).tolist() == [0, 0, 8]
    faint = drawn.where(drawn < 0, math.log(0.41 / 0.59))
    assert fitting(cfg, faint, truth, [regions], [targets]).tolist() == [0, 0, 8], "0.4 is enough for a cell"


def test_what_lies_outside_the_region_counts_against_the_mask():
    """The region holds a third of the object and is filled: IoU 1/3."""
    regions = Regions(torch.tensor([[0.0, 0, 20, 20]]), torch.tensor([0]), torch.tensor([0]))
    targets, cfg = square((0, 0, 60, 20)), config(mask_cells=4)
    drawn = torch.full((1, 4, 4), 9.0)
    assert fitting(cfg, drawn, wanted(cfg, [regions], [targets]), [regions], [targets]).tolist() == [8]


@pytest.mark.parametrize(("bias", "taught"), [(9.0, True), (-9.0, False)])
def test_only_masks_that_fit_are_taught_by_the_class(bias, taught):
    """Masks that fill their regions fit objects as large as these, empty ones fit nothing."""
    model, targets = small("mnc", region_samples=4), square((8, 8, 56, 56))
    nn.init.zeros_(model.mask[3].weight)
    nn.init.constant_(model.mask[3].bias, bias)
    x = torch.rand(1, 256, 4, 4)
    losses, _ = model.learn(x, [first_regions(model.cfg, NONE, targets, NONE)], [targets])
    losses["mask_class"].backward()
    assert bool(model.mask[3].bias.grad is not None and model.mask[3].bias.grad.any()) == taught


def test_the_second_path_sees_features_only_where_the_mask_is():
    model = small("mnc").eval()
    features, drawn = torch.rand(1, 256, 14, 14), torch.zeros(1, 28, 28)
    drawn[:, :, :14] = 1.0
    seen = []
    model.mask_path.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.classify(features, drawn)
    assert torch.equal(seen[0][..., :7], features[..., :7])
    assert not seen[0][..., 7:].any()


def test_the_losses_of_masks_and_classes_by_hand():
    """Masks that say 1/2 everywhere: ln 2 a cell, twice (the weight). Nothing of nine classes is preferred: ln 9."""
    model, targets = small("mnc", mask_weight=2.0), square((8, 8, 56, 56))
    for layer in (model.mask[3], model.score, model.box_head.score):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    proposals = torch.tensor([[0.0, 0, 20, 20], [50, 50, 60, 60]])
    losses, _ = model.learn(torch.rand(1, 256, 4, 4), [first_regions(model.cfg, proposals, targets, NONE)], [targets])
    assert losses["mask"].item() == pytest.approx(2 * math.log(2))
    assert losses["mask_class"].item() == pytest.approx(math.log(9))
    assert losses["box_class"].item() == pytest.approx(math.log(9))


def test_boxes_found_are_regressed_and_scores_are_of_the_masked_path():
    model, (images, _) = small("mnc", stages=3).eval(), batch(size=(64, 64), count=1)
    nn.init.zeros_(model.score.weight)
    nn.init.zeros_(model.score.bias)
    with torch.no_grad():
        model.score.bias[5] = 9.0
        model.box_head.offset.weight.zero_()
        model.box_head.offset.bias.view(8, 4)[5, 0] = 10.0  # by their width to the right
    (found,) = model.predict(images)
    x = model.features(images)
    (where,) = model.rpn.propose(model.rpn([x]), images.sizes, per_level=50, keep=20)
    moved = where + F.pad(boxes.sides(where)[:, :1], (0, 3)) + F.pad(boxes.sides(where)[:, :1], (2, 1))
    best = found[found.labels == 5]
    assert best.scores.min().item() == pytest.approx(torch.tensor([9.0] + [0.0] * 8).softmax(0)[0].item())
    assert torch.cdist(best.boxes, boxes.clip(moved, (64, 64))).amin(1).max() < 1e-3
