"""Keypoints to cells and back, and the loss in between."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection import roi_heads

from maskwise.masks import Masks
from maskwise.parts import keypoint_head
from maskwise.parts.keypoint_head import NOWHERE, cells_of, decode, with_keypoints
from maskwise.parts.roi import Regions
from maskwise.structures import Targets

REGION = torch.tensor([[10.0, 20, 24, 48]])  # a cell of 56 is 1/4 wide and 1/2 high


def test_a_keypoint_is_the_cell_that_it_lies_in():
    points = torch.tensor([[[10.0, 20, 2], [10.3, 20.5, 1], [24, 48, 2], [23.9, 30, 2]]])
    assert cells_of(points, REGION, cells=56).tolist() == [[0, 56 + 1, 56 * 56 - 1, 20 * 56 + 55]]


def test_what_is_not_labelled_or_outside_is_nowhere():
    points = torch.tensor([[[12.0, 30, 0], [9.9, 30, 2], [24.1, 30, 2], [12, 48.1, 2]]])
    assert cells_of(points, REGION, cells=56).tolist() == [[NOWHERE] * 4]


def objects(points):
    n = len(points)
    return Targets.from_masks(
        Masks.from_dense(torch.ones(n, 64, 64, dtype=torch.bool)), torch.zeros(n, dtype=torch.int64), keypoints=points
    )


def of(boxes, matched):
    return Regions(boxes, torch.zeros(len(boxes), dtype=torch.int64), torch.tensor(matched, dtype=torch.int64))


def test_the_loss_is_the_mean_over_what_is_shown_or_over_a_fixed_number():
    """Two of three keypoints are shown, all logits are 0 but that of the first one's cell: 1."""
    points = torch.tensor([[[10.0, 20, 2], [12, 30, 1], [12, 30, 0]]])
    maps = torch.zeros(1, 3, 56, 56)
    maps[0, 0, 0, 0] = 1
    expected = (math.log(3135 + math.e) - 1) + math.log(3136)
    one = keypoint_head.loss(maps, [of(REGION, [0])], [objects(points)], inclusive=False)
    assert one.item() == pytest.approx(expected / 2)
    fixed = keypoint_head.loss(maps, [of(REGION, [0])], [objects(points)], inclusive=False, over=8.0)
    assert fixed.item() == pytest.approx(expected / 8)


@pytest.mark.parametrize("shown", [0, 2])
def test_nothing_to_learn_is_a_zero_with_a_gradient(shown):
    points = torch.tensor([[[60.0, 60, shown]]])
    maps = torch.zeros(1, 1, 56, 56, requires_grad=True)
    value = keypoint_head.loss(maps, [of(REGION, [0])], [objects(points)], inclusive=False)
    value.backward()
    assert value.item() == 0
    assert (maps.grad == 0).all()


def test_regions_without_keypoints_are_left_out():
    points = torch.tensor([[[12.0, 30, 2], [0, 0, 0]], [[60, 60, 2], [12, 30, 0]]])
    regions = of(REGION.repeat(3, 1), [1, 0, 1])
    left = with_keypoints(regions, objects(points))
    assert left.matched.tolist() == [0]
    assert left.positive.tolist() == REGION.tolist()


def test_objects_without_the_right_keypoints_are_refused():
    targets = objects(torch.zeros(1, 3, 3))
    with pytest.raises(ValueError, match="knows 17 keypoints, the objects have 3"):
        keypoint_head.loss(torch.zeros(1, 17, 56, 56), [of(REGION, [0])], [targets], inclusive=False)
    with pytest.raises(ValueError, match="1 objects have none"):
        with_keypoints(of(REGION, [0]), Targets.from_masks(targets.masks, targets.labels))
    nothing = with_keypoints(of(torch.zeros(0, 4), []), Targets.none((64, 64)))
    assert len(nothing.boxes) == 0


@st.composite
def regions(draw):
    """Whole pixels and parts, thinner than a pixel and longer than the map."""
    x, y = (draw(st.floats(0, 50, width=32)) for _ in "xy")
    w, h = (draw(st.floats(0.25, 180, width=32)) for _ in "wh")
    return torch.tensor([x, y, x + w, y + h])


@given(st.lists(regions(), min_size=1, max_size=4), st.integers(0, 99))
def test_decoding_equals_torchvisions(several, seed):
    boxes = torch.stack(several)
    maps = torch.randn(len(boxes), 3, 14, 14, generator=torch.Generator().manual_seed(seed))
    points, scores = roi_heads.heatmaps_to_keypoints(maps, boxes)
    found = decode(maps, boxes, score="logit")
    torch.testing.assert_close(found[..., 2], scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[..., :2], points[..., :2], rtol=1e-4, atol=1e-4)


@given(regions(), st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_a_map_that_is_right_decodes_to_the_keypoint(region, u, v):
    """To half a pixel, or half a cell where that is more."""
    corner, side = region[:2], region[2:] - region[:2]
    truth = corner + side * torch.tensor([u, v])
    cell = cells_of(torch.cat([truth, torch.tensor([2.0])])[None, None], region[None], cells=56)
    y, x = torch.meshgrid(torch.arange(56.0), torch.arange(56.0), indexing="ij")
    hill = -((x - cell % 56) ** 2) - (y - cell // 56) ** 2
    found = decode(hill[None, None], region[None], score="probability")[0, 0]
    step = torch.maximum(side / 56, torch.ones(2))
    assert ((found[:2] - truth).abs() <= 0.5 * step + 0.5 * side / 56 + 1e-3).all()


def test_a_known_peak_is_found_to_half_a_pixel():
    """In a region of the size of the map, at the middle of the pixel."""
    maps = torch.zeros(1, 2, 56, 56)
    maps[0, 0, 10, 20] = maps[0, 1, 55, 0] = 5
    found = decode(maps, torch.tensor([[100.0, 200, 156, 256]]), score="logit")
    assert found[0].tolist() == [[120.5, 210.5, 5], [100.5, 255.5, 5]]


def test_the_probability_does_not_depend_on_the_size_of_the_region():
    maps = torch.randn(1, 1, 56, 56, generator=torch.Generator().manual_seed(0))
    same = decode(maps, torch.tensor([[0.0, 0, 56, 56]]), score="probability")[0, 0, 2]
    assert same.item() == pytest.approx(maps.flatten().softmax(0).max().item(), rel=1e-4)
    twice = decode(maps, torch.tensor([[0.0, 0, 112, 112]]), score="probability")[0, 0, 2]
    assert twice.item() == pytest.approx(same.item(), rel=0.5)


def test_no_region_has_no_keypoints():
    assert decode(torch.zeros(0, 17, 56, 56), torch.zeros(0, 4), score="logit").shape == (0, 17, 3)
