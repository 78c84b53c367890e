"""FPN, norms, deformable convolutions, and suppression: small parts against their references."""

from copy import deepcopy

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.ops import FeaturePyramidNetwork, batched_nms, deform_conv2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from maskwise.parts import norms
from maskwise.parts.deformable import DeformableConvolution, by_reading, deform
from maskwise.parts.fpn import FPN, Strided
from maskwise.parts.norms import FrozenBatchNorm
from maskwise.parts.suppression import soft_nms

# --- pyramid


def maps(height, width):
    sides = [(height, width)]
    for _ in range(2):
        sides.append(tuple(-(-side // 2) for side in sides[-1]))
    return [torch.rand(2, c, h, w) for c, (h, w) in zip((4, 6, 8), sides, strict=True)]


@pytest.mark.parametrize(("height", "width"), [(16, 24), (13, 7), (5, 1), (1, 1)])
def test_pyramids_are_torchvisions_also_of_odd_sizes(height, width):
    mine, theirs = FPN([4, 6, 8], 5), FeaturePyramidNetwork([4, 6, 8], 5, extra_blocks=LastLevelMaxPool())
    for i in range(3):
        theirs.inner_blocks[i][0].load_state_dict(mine.lateral[i].state_dict())
        theirs.layer_blocks[i][0].load_state_dict(mine.output[i].state_dict())
    several = maps(height, width)
    expected = theirs({str(i): x for i, x in enumerate(several)}).values()
    for found, want in zip(mine(several), expected, strict=True):
        torch.testing.assert_close(found, want)


def test_a_pyramid_with_norms_has_no_biases_beside_them():
    pyramid = FPN([4, 6, 8], 8, norm="group")
    assert [x.shape[1] for x in pyramid(maps(8, 8))] == [8] * 4
    assert all(m.bias is None for m in pyramid.modules() if isinstance(m, nn.Conv2d))
    assert sum(isinstance(m, nn.GroupNorm) for m in pyramid.modules()) == 6


def test_strided_levels_are_those_of_retinanet():
    mine, theirs = Strided(5, 2), LastLevelP6P7(5, 5)
    for layer, other in zip(mine.convolutions, (theirs.p6, theirs.p7), strict=True):
        other.load_state_dict(layer.state_dict())
    p5 = torch.randn(2, 5, 7, 9)
    expected, _ = theirs([p5], [p5], ["p5"])
    for found, want in zip(FPN([5], 5, coarser=mine).coarser(p5), expected[1:], strict=True):
        torch.testing.assert_close(found, want)


# --- norms


def random_batch_norm(channels):
    norm = nn.BatchNorm2d(channels, eps=1e-3).eval()
    for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.uniform_(value, 0.5, 2)
    return norm


def test_a_frozen_norm_is_the_batch_norm_at_test_time_also_in_training():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), random_batch_norm(8))
    x = torch.randn(2, 3, 9, 9)
    expected = network.eval()(x)
    norms.replace(network, "frozen")
    torch.testing.assert_close(network.train()(x), expected)
    assert isinstance(network[1], FrozenBatchNorm)
    assert not [name for name, _ in network.named_parameters() if name.startswith("1.")]


def test_group_norm_has_32_groups_or_what_divides():
    assert [norms.group_norm(c).num_groups for c in (256, 64, 32, 48, 7)] == [32, 8, 4, 4, 1]
    assert [norms.group_norm(c, least=1).num_groups for c in (256, 64, 48, 7)] == [32, 32, 16, 1]


def test_a_narrow_head_with_group_norm_sees_how_much_of_something_there_is():
    """Two regions that differ in one channel, everywhere alike."""
    norm, region = norms.group_norm(32), torch.ones(2, 32, 7, 7)
    region[1, 0] = 9.0
    first, second = norm(region)
    assert (first[0] - second[0]).abs().min() > 1


def test_norms_are_replaced_wherever_they_are():
    network = nn.Sequential(nn.Sequential(nn.Conv2d(3, 64, 1), nn.BatchNorm2d(64)), nn.BatchNorm2d(64))
    norms.replace(network, "group")
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert sum(isinstance(m, nn.GroupNorm) for m in network.modules()) == 2


def test_batch_norm_of_all_processes_is_batch_norm_in_one_and_keeps_statistics_and_activation():
    norm = timm.create_model("tf_efficientnet_lite0", features_only=True).bn1
    nn.init.uniform_(norm.running_mean)
    network = nn.Sequential(nn.Conv2d(3, 32, 3), norm, nn.Conv2d(32, 8, 3), random_batch_norm(8))
    other = deepcopy(network)
    norms.replace(other, "synchronized")
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in other.modules()) == 2
    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(other.eval()(x), network.eval()(x))
    torch.testing.assert_close(other.train()(x), network.train()(x))
    assert isinstance(norms.after(nn.Conv2d(3, 8, 3), "synchronized")[1], nn.SyncBatchNorm)


# --- deformable convolution


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"dilation": 2, "padding": 2}, {"groups": 2}])
def test_it_begins_as_the_convolution_that_it_replaces(options):
    plain = nn.Conv2d(4, 6, 3, **{"padding": 1} | options)
    x = torch.randn(2, 4, 9, 11)
    deformable = DeformableConvolution(plain)
    torch.testing.assert_close(deformable(x), plain(x))
    deformable(x).sum().backward()
    assert deformable.offset.weight.grad.any()


@pytest.mark.parametrize("reach", [0.0, 0.7, 20.0])
@pytest.mark.parametrize(
    "options",
    [{}, {"stride": (2, 1)}, {"dilation": (2, 1), "padding": (0, 2)}, {"groups": 2, "bias": False}, {"groups": 4}],
)
def test_on_a_cpu_it_is_torchvisions_with_all_gradients(options, reach):
    plain = nn.Conv2d(4, 8, 3, **{"padding": 1} | options)
    geometry = {name: getattr(plain, name) for name in ("stride", "padding", "dilation")}
    x = torch.randn(2, 4, 9, 11)
    height, width = plain(x).shape[2:]
    offset = torch.randn(2, 18, height, width) * reach
    inputs = [t.detach().requires_grad_() for t in (x, offset, plain.weight, plain.bias) if t is not None]
    weights = torch.randn(2, 8, height, width)
    several = []
    for operator in (by_reading, deform_conv2d):
        found = operator(*(inputs if plain.bias is not None else [*inputs, None]), **geometry)
        several.append((found, *torch.autograd.grad((found * weights).sum(), inputs)))
    mine, theirs = several
    at_cells = reach == 0  # where a bilinear function has a corner, of which either slope is right
    for i, (one, other) in enumerate(zip(mine, theirs, strict=True)):
        if not (at_cells and i == 2):
            torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("groups", [1, 2])
def test_of_no_regions_there_is_nothing_and_a_gradient_of_zero(groups):
    deformable = DeformableConvolution(nn.Conv2d(4, 6, 3, padding=1, groups=groups))
    found = deformable(torch.zeros(0, 4, 7, 7))
    assert found.shape == (0, 6, 7, 7)
    found.sum().backward()
    assert not deformable.weight.grad.any()


def test_which_convolutions_are_replaced():
    stage = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, groups=4))
    deform(stage, [stage])
    assert [isinstance(m, DeformableConvolution) for m in stage] == [False, True, False]


def test_a_stage_without_one_is_an_error():
    stage = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1))
    with pytest.raises(ValueError, match="no 3x3 convolution"):
        deform(stage, [stage])


# --- suppression


@st.composite
def detections(draw):
    """Boxes of whole pixels, no two scores alike."""
    count = draw(st.integers(0, 12))
    rows = [[draw(st.integers(0, 20)), draw(st.integers(0, 20))] for _ in range(count)]
    sides = [[draw(st.integers(1, 10)), draw(st.integers(1, 10))] for _ in range(count)]
    corner, side = (torch.tensor(v, dtype=torch.float32).reshape(-1, 2) for v in (rows, sides))
    scores = torch.tensor(draw(st.permutations(range(count))), dtype=torch.float32) / 20 + 0.2
    labels = torch.tensor([draw(st.integers(0, 2)) for _ in range(count)], dtype=torch.int64)
    return torch.cat([corner, corner + side], 1), scores, labels


@given(detections())
def test_with_a_tiny_sigma_it_is_hard_suppression_of_whatever_overlaps(several):
    boxes, scores, labels = several
    keep, lowered = soft_nms(boxes, scores, labels, sigma=1e-12, least=1e-3)
    assert torch.equal(keep, batched_nms(boxes, scores, labels, 0.0))
    assert torch.equal(lowered[keep], scores[keep])


@given(detections(), st.floats(0.2, 2))  # below that, the score of one box of many in one place is no number above 0
def test_scores_only_fall_and_the_best_of_each_class_keeps_its_own(several, sigma):
    boxes, scores, labels = several
    keep, lowered = soft_nms(boxes, scores, labels, sigma=sigma, least=0.0)
    assert len(keep) == len(boxes)
    assert (lowered <= scores).all()
    assert (lowered[keep].diff() <= 0).all()
    for label in labels.unique():
        best = torch.where(labels == label, scores, 0).argmax()
        assert lowered[best] == scores[best]


@given(detections(), st.integers(0, 6))
def test_the_first_so_many_are_the_same_without_the_rest(several, most):
    keep, lowered = soft_nms(*several, sigma=0.5, least=0.05)
    first, theirs = soft_nms(*several, sigma=0.5, least=0.05, most=most)
    assert torch.equal(first, keep[:most])
    assert torch.equal(theirs[first], lowered[first])


def test_soft_suppression_by_hand():
    """iou .5 with the first, which is better: .8 exp(-.25 / .5)."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 20]])
    keep, lowered = soft_nms(boxes, torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64), sigma=0.5, least=0.01)
    assert keep.tolist() == [0, 1]
    torch.testing.assert_close(lowered[1], 0.8 * torch.tensor(-0.5).exp())
