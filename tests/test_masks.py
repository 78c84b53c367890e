import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import roi_align

from maskwise.masks import Masks

stacks = arrays.arrays(bool, arrays.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=16)).map(torch.from_numpy)
sides = st.integers(1, 40)


def random_boxes(n, size, *, outside=0.0):
    limit = torch.tensor([size[1], size[0]], dtype=torch.float32)
    corners = torch.rand(n, 2, 2) * (1 + 2 * outside) * limit - outside * limit
    low, high = corners.amin(1), corners.amax(1)
    return torch.cat([low, torch.maximum(high, low + 0.5)], 1)


@given(stacks)
def test_dense_in_and_out(dense):
    masks = Masks.from_dense(dense)
    assert (masks.dense() == dense).all()
    assert (masks.area() == dense.sum((1, 2))).all()
    assert masks.bits.numel() <= dense.numel()


@given(stacks)
def test_runs_and_outlines_give_the_same_masks_again(dense):
    masks = Masks.from_dense(dense)
    for again in (Masks.from_rle(masks.rle(), masks.size), Masks.from_outlines(masks.outlines(), masks.size)):
        assert (again.dense() == dense).all()


@given(stacks)
def test_runs_equal_those_of_pycocotools(dense):
    expected = coco.encode(np.asfortranarray(dense.permute(1, 2, 0).numpy().astype(np.uint8)))
    assert [m["counts"] for m in Masks.from_dense(dense).rle()] == [e["counts"].decode() for e in expected]


@given(stacks, st.integers(-1, 5))
def test_flips_and_turns_equal_those_of_dense_masks(dense, quarters):
    masks = Masks.from_dense(dense)
    assert (masks.flip_horizontal().dense() == dense.flip(2)).all()
    assert (masks.flip_vertical().dense() == dense.flip(1)).all()
    assert (masks.rotate(quarters).dense() == dense.rot90(quarters, (1, 2))).all()


@given(stacks)
def test_points_are_on_the_pixels_that_hold_them(dense):
    masks, (n, h, w) = Masks.from_dense(dense), dense.shape
    points = torch.rand(30, 2) * torch.tensor([w + 4, h + 4]) - 2
    which = torch.randint(n, (30,))
    x, y = points.floor().long().T
    expected = F.pad(dense, (2, 2, 2, 2))[which, y + 2, x + 2]
    assert torch.equal(masks.at(points, which), expected)


@given(stacks, st.integers(-20, 20), st.integers(-20, 20), sides, sides)
def test_a_crop_shows_what_the_dense_one_shows(dense, x, y, height, width):
    wide = F.pad(dense, (60, 60, 60, 60))
    expected = wide[:, 60 + y : 60 + y + height, 60 + x : 60 + x + width]
    assert (Masks.from_dense(dense).crop(x, y, (height, width)).dense() == expected).all()


@given(stacks, st.integers(-5, 5), st.integers(-5, 5))
def test_translation_there_and_back_loses_only_what_left(dense, dx, dy):
    masks = Masks.from_dense(dense)
    there = masks.translate(dx, dy)
    assert (there.area() <= masks.area()).all()
    back = there.translate(-dx, -dy).dense()
    assert not (back & ~dense).any()


@given(stacks, sides, sides)
def test_resizing_reads_the_old_mask_at_the_new_centres(dense, height, width):
    y = ((2 * np.arange(height) + 1) * dense.shape[1]) // (2 * height)
    x = ((2 * np.arange(width) + 1) * dense.shape[2]) // (2 * width)
    assert (Masks.from_dense(dense).resize((height, width)).dense() == dense[:, y][:, :, x]).all()


@given(stacks)
def test_choosing_and_joining(dense):
    masks = Masks.from_dense(dense)
    order = torch.randperm(len(masks))
    assert (masks[order].dense() == dense[order]).all()
    assert (masks[::2].dense() == dense[::2]).all()
    assert (masks[masks.area() > 3].dense() == dense[dense.sum((1, 2)) > 3]).all()
    assert (Masks.cat([masks, masks[order]]).dense() == torch.cat([dense, dense[order]])).all()
    with pytest.raises(ValueError, match="different sizes"):
        Masks.cat([masks, Masks.none((99, 99))])


@given(stacks)
def test_iou_equals_counting_pixels(dense):
    masks = Masks.from_dense(dense)
    flat = dense.flatten(1).float()
    shared, area = flat @ flat.T, flat.sum(1)
    union = area[:, None] + area - shared
    torch.testing.assert_close(masks.iou(masks), torch.where(union > 0, shared / union, 0.0))
    crowd = torch.ones(len(masks), dtype=torch.bool)
    covered = torch.where(area[:, None] > 0, shared / area[:, None], 0.0)
    torch.testing.assert_close(masks.iou(masks, crowd=crowd), covered)


def test_of_a_crowd_counts_how_much_of_each_mask_it_covers():
    """Masks of 2 and 4 pixels against three of 4, of which the last marks a crowd."""

    def rows(*spans):
        return Masks.from_dense(
            torch.stack([(torch.arange(8) >= a) & (torch.arange(8) < b) for a, b in spans])[:, None]
        )

    few, more = rows((0, 2), (2, 6)), rows((0, 4), (4, 8), (0, 4))
    expected = torch.tensor([[2 / 4, 0, 2 / 2], [2 / 6, 2 / 6, 2 / 4]])
    torch.testing.assert_close(few.iou(more, crowd=torch.tensor([False, False, True])), expected)


@given(stacks)
def test_boxes_are_tight(dense):
    for box, picture in zip(Masks.from_dense(dense).boxes().tolist(), dense, strict=True):
        y, x = torch.where(picture)
        assert box == ([x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else [0, 0, 0, 0])


@given(stacks, st.integers(1, 4))
def test_the_boundary_lies_within_the_distance_of_something_else(dense, distance):
    padded = F.pad(dense, (distance,) * 4).float()[:, None]
    inner = -F.max_pool2d(-padded, 2 * distance + 1, 1)[:, 0] > 0.5
    assert (Masks.from_dense(dense).boundary(distance).dense() == (dense & ~inner)).all()


@given(arrays.arrays(np.int64, (9, 11), elements=st.sampled_from([0, 1, 2, 7, 26_001, 255])))
def test_label_maps_in_and_out(ids):
    masks, numbers = Masks.from_label_map(ids, background=(0, 255))
    assert set(numbers) == set(np.unique(ids).tolist()) - {0, 255}
    renumbered = masks.label_map()
    assert (np.array([0, *numbers])[renumbered] == np.where(ids == 255, 0, ids)).all()


def test_the_earlier_mask_stays_on_top_in_a_label_map():
    both = torch.ones(2, 2, 3, dtype=torch.bool)
    assert (Masks.from_dense(both).label_map() == 1).all()


@pytest.mark.parametrize("size", [(7, 9), (60, 41)])
def test_sampling_equals_roi_align_on_dense_masks(size):
    torch.manual_seed(0)
    dense = F.interpolate(torch.rand(6, 1, 5, 5), size, mode="bilinear")[:, 0] > 0.55
    boxes, which = random_boxes(40, size, outside=0.3), torch.randint(0, 6, (40,))
    regions = torch.cat([which[:, None].float(), boxes], 1)
    expected = roi_align(dense[:, None].float(), regions, 14, 1.0, -1, True)[:, 0]
    torch.testing.assert_close(Masks.from_dense(dense).sample(boxes, which, 14), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_pasting_equals_reading_the_small_mask_at_pixel_centres(threshold):
    torch.manual_seed(1)
    h, w = 47, 61
    boxes, small = random_boxes(50, (h, w), outside=0.2), torch.rand(50, 28, 28)
    x0, y0, x1, y1 = (v[:, None] for v in boxes.unbind(1))
    x, y = (torch.arange(w) + 0.5 - x0) / (x1 - x0) * 2 - 1, (torch.arange(h) + 0.5 - y0) / (y1 - y0) * 2 - 1
    grid = torch.stack([x[:, None].expand(50, h, w), y[:, :, None].expand(50, h, w)], -1)
    value = F.grid_sample(small[:, None], grid, align_corners=False)[:, 0]
    clear = (value - threshold).abs() > 1e-5
    pasted = Masks.paste(small, boxes, (h, w), threshold=threshold).dense()
    assert (pasted == (value >= threshold))[clear].all()


def test_legacy_pasting_equals_torchvision():
    torch.manual_seed(2)
    size = (53, 38)
    boxes, small = random_boxes(60, size), torch.rand(60, 28, 28)
    value = paste_masks_in_image(small[:, None], boxes, size)[:, 0]
    clear = (value - 0.5).abs() > 1e-5
    assert (Masks.paste(small, boxes, size, convention="legacy").dense() == (value > 0.5))[clear].all()


@given(stacks)
def test_pasting_a_mask_into_its_own_box_is_the_identity(dense):
    n, h, w = dense.shape
    side = max(h, w)
    square = F.pad(dense, (0, side - w, 0, side - h))
    boxes = torch.tensor([[0.0, 0.0, side, side]]).expand(n, 4)
    assert (Masks.paste(square.float(), boxes, (side, side)).dense() == square).all()


@pytest.mark.parametrize("boxes", [[[-50, -50, -40, -40]], [[5, 5, 5, 5]], [[3, 3, 1e6, 1e6]], [[900, 2, 950, 9]]])
def test_boxes_outside_or_without_area_paste_nothing_or_what_is_seen(boxes):
    pasted = Masks.paste(torch.ones(1, 28, 28), torch.tensor(boxes, dtype=torch.float32), (20, 30))
    assert pasted.dense().shape == (1, 20, 30)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pixels_are_counted_under_autocast_too(dtype):
    masks, box = Masks.from_dense(torch.ones(1, 301, 303, dtype=torch.bool)), torch.tensor([[0.0, 0.0, 303.0, 301.0]])
    small = torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype):
        assert masks.area_inside(box, torch.tensor([0])).tolist() == [301 * 303]
        assert masks.sample(box, torch.tensor([0]), 28).min() > 0.9999
        pasted = Masks.paste(small, box, (301, 303))
    assert torch.equal(pasted.bits, Masks.paste(small, box, (301, 303)).bits)


def test_nothing_at_all():
    none = Masks.none((4, 5))
    assert none.rle() == []
    assert none.outlines() == []
    assert none.dense().shape == (0, 4, 5)
    assert none.boxes().shape == (0, 4)
    assert none.iou(none).shape == (0, 0)
    assert none.resize((9, 9)).size == (9, 9)
    assert none.sample(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), 7).shape == (0, 7, 7)
    assert len(Masks.paste(torch.zeros(0, 28, 28), torch.zeros(0, 4), (4, 5))) == 0


def test_375_nuclei_on_a_large_picture_cost_less_than_8_mb():
    size = (1040, 1388)
    centres = torch.rand(375, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1388.0, 1040.0])
    boxes = torch.cat([centres - 25, centres + 25], 1)
    masks = Masks.paste(torch.ones(375, 28, 28), boxes, size)
    assert len(masks) == 375
    assert masks.bits.nbytes + masks.windows.nbytes < 8e6


def test_objects_of_a_20000_pixel_mosaic_cost_what_they_cover():
    size = (20_000, 20_000)
    corners = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0)) * 19_900
    began = time.process_time()
    masks = Masks.paste(torch.ones(2000, 28, 28), torch.cat([corners, corners + 60], 1), size)
    again = Masks.from_rle(masks.rle(), size)
    assert (again.area() == masks.area()).all()
    assert masks.bits.nbytes < 2e7
    assert time.process_time() - began < 20


def test_runs_for_another_picture_are_refused():
    with pytest.raises(ValueError, match=r"mask 0 is for a picture of \[3, 3\], expected \[4, 4\]"):
        Masks.from_rle(Masks.from_dense(torch.ones(1, 3, 3, dtype=torch.bool)).rle(), (4, 4))
