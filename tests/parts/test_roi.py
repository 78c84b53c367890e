"""Which regions are learned from, and what is read in them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torchvision.ops import roi_align, roi_pool

from maskwise.masks import Masks
from maskwise.parts import roi
from maskwise.parts.convention import CONVENTIONS
from maskwise.parts.roi import Pool, level_of, on_grid, sampled, warp
from maskwise.structures import Targets

STRIDES = (4, 8, 16, 32)


def levels(*, strides=STRIDES, height=160, width=192, channels=3):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, channels, height // s, width // s, generator=generator) for s in strides]


def regions():
    """Of both pictures: of all levels, thin, at the border, in parts of cells."""
    one = torch.tensor([[3.2, 7.1, 20.9, 30.3], [0, 0, 192, 160], [10, 10, 11.5, 150], [150, 100, 192, 160]])
    return [one, one.flip(0) * 0.7]


def as_torchvision(several):
    return torch.cat([torch.cat([torch.full_like(r[:, :1], i), r], 1) for i, r in enumerate(several)])


@pytest.mark.parametrize("size", [7, 14])
@pytest.mark.parametrize("name", CONVENTIONS)
def test_one_level_is_read_as_torchvision_reads_it(name, size):
    convention = CONVENTIONS[name]
    (x,) = levels(strides=(8,))
    found = Pool(size=size, strides=(8,), convention=convention)([x], regions())
    theirs = as_torchvision(regions())
    if convention.inclusive:
        theirs[:, 3:] -= 1
    expected = roi_align(x, theirs, size, 1 / 8, convention.sampling, convention.aligned)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_several_points_a_bin_are_those_of_torchvision_with_a_larger_grid():
    (x,) = levels(strides=(8,))
    pool = Pool(size=7, strides=(8,), convention=CONVENTIONS["continuous"], reduce="maximum")
    expected = F.max_pool2d(roi_align(x, as_torchvision(regions()), 14, 1 / 8, 1, True), 2)
    torch.testing.assert_close(pool([x], regions()), expected, rtol=1e-4, atol=1e-5)


def test_roi_pool_is_torchvisions():
    (x,) = levels(strides=(8,))
    pool = Pool(size=7, strides=(8,), convention=CONVENTIONS["continuous"], operator="pool")
    torch.testing.assert_close(pool([x], regions()), roi_pool(x, as_torchvision(regions()), 7, 1 / 8))


@pytest.mark.parametrize("operator", ["align", "warp", "pool"])
def test_regions_keep_their_place_where_features_are_of_half_the_precision(operator):
    (x,) = (x.bfloat16() for x in levels(strides=(8,), height=1600, width=1600))
    pool = Pool(size=7, strides=(8,), convention=CONVENTIONS["legacy"], operator=operator)
    place = [torch.tensor([[1301.3, 1207.7, 1331.9, 1260.2]]), torch.zeros(0, 4)]  # bfloat16 would say 1304, 1208
    with torch.autocast("cpu", torch.bfloat16):
        found = pool([x], place)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), pool([x.float()], place), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("operator", ["align", "warp", "pool"])
def test_each_region_is_read_from_its_level_in_its_order(operator):
    maps = levels()
    pool = Pool(size=7, strides=STRIDES, convention=CONVENTIONS["continuous"], operator=operator)
    found = pool(maps, regions())
    flat, place = torch.cat(regions()), 0
    for i, of_picture in enumerate(regions()):
        for region in of_picture:
            level = int(level_of(flat[place][None], strides=STRIDES))
            alone = Pool(size=7, strides=STRIDES[level : level + 1], convention=pool.convention, operator=operator)
            expected = alone([maps[level][i : i + 1]], [region[None]])
            torch.testing.assert_close(found[place : place + 1], expected, rtol=1e-4, atol=1e-5)
            place += 1


@pytest.mark.parametrize("operator", ["align", "warp", "pool"])
def test_no_region_gives_no_features_and_keeps_the_gradient(operator):
    maps = [x.requires_grad_() for x in levels()]
    pool = Pool(size=7, strides=STRIDES, convention=CONVENTIONS["continuous"], operator=operator)
    found = pool(maps, [torch.zeros(0, 4), torch.zeros(0, 4)])
    assert found.shape == (0, 3, 7, 7)
    one = pool(maps, [torch.zeros(0, 4), torch.tensor([[5.0, 5, 5, 5]])])
    assert one.isfinite().all()
    (found.sum() + one.sum()).backward()


# --- RoIWarp


def test_roi_warp_has_gradients_for_features_and_region():
    """Against finite differences, where corners are not rounded and no point lies on the border of a cell."""
    x = torch.randn(2, 2, 9, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rois = torch.tensor([[1, 5.3, 9.2, 60.1, 51.7], [0, 21.7, 11.1, 70.3, 63.9]], dtype=torch.float64)

    def read(features, region):
        return on_grid(features, rois[:, 0], region / 8, 3)

    assert torch.autograd.gradcheck(read, (x.requires_grad_(), rois[:, 1:].clone().requires_grad_()))


def test_roi_warp_rounds_what_it_reads_but_not_its_gradient():
    (x,) = levels(strides=(8,))
    near, whole = torch.tensor([[0, 17.0, 30, 70, 90]]), torch.tensor([[0, 16.0, 32, 72, 88]])
    found = []
    reads = [lambda rois: warp(x, rois, 5, stride=8)] * 2 + [lambda rois: on_grid(x, rois[:, 0], rois[:, 1:] / 8, 5)]
    for rois, read in zip((near, whole, whole), reads, strict=True):
        rois = rois.clone().requires_grad_()
        value = read(rois)
        (value**2).sum().backward()
        found.append((value, rois.grad))
    for value, gradient in found[1:]:
        torch.testing.assert_close(value, found[0][0])
        torch.testing.assert_close(gradient, found[0][1])
    assert (found[0][1][0, 1:] != 0).all()


def test_roi_warp_of_whole_cells_is_roi_align_without_the_shift():
    (x,) = levels(strides=(8,))
    rois = as_torchvision([torch.tensor([[16.0, 32, 72, 88]]), torch.tensor([[8.0, 8, 136, 120]])])
    expected = roi_align(x, rois, 14, 1 / 8, 1, False)
    torch.testing.assert_close(warp(x, rois, 14, stride=8), expected, rtol=1e-4, atol=1e-5)


def test_roi_warp_repeats_the_border():
    """As a padded map would be read, values and gradients."""
    (x,) = (x[:1].requires_grad_() for x in levels(strides=(8,)))
    around = F.pad(x, (4, 4, 4, 4), mode="replicate")
    outside = torch.tensor([[0, -24.0, -16, 40, 32], [0, 150, 100, 216, 184], [0, -24, 0, 216, 160]])
    inside = outside + torch.tensor([0, 32.0, 32, 32, 32])
    found, expected = warp(x, outside, 14, stride=8), warp(around, inside, 14, stride=8)
    torch.testing.assert_close(found, expected)
    one, other = (torch.autograd.grad((read**2).sum(), x, retain_graph=True)[0] for read in (found, expected))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("reduce", "pool"), [("average", F.avg_pool2d), ("maximum", F.max_pool2d)])
def test_roi_warp_reads_rows_on_a_cpu_with_the_same_gradients(reduce, pool, monkeypatch):
    """Sides of fewer than 16 cells: no point lies on the border of two."""
    monkeypatch.setattr(roi, "FEW", 2)  # regions at a time, where a map is that small
    (x,) = levels(strides=(16,))
    several = torch.cat(regions())
    found = []
    for rows in (False, True):
        maps, place = x.clone().requires_grad_(), several.clone().requires_grad_()
        if rows:
            read = Pool(size=4, strides=(16,), convention=CONVENTIONS["continuous"], operator="warp", reduce=reduce)
            value = read([maps], place.split(4))
        else:
            value = pool(warp(maps, as_torchvision(place.split(4)), 8, stride=16), 2)
        (value**2).sum().backward()
        found.append((value, maps.grad, place.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


# --- levels


def test_published_examples_of_levels():
    """A box of 224 pixels belongs on P4 (stride 16), half as large ones on the level below."""
    sides = torch.tensor([1.0, 111, 112, 223, 224, 447, 448, 10_000])
    boxes = torch.stack([sides * 0, sides * 0, sides, sides], 1)
    assert level_of(boxes, strides=STRIDES).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert level_of(boxes, strides=(16, 32)).tolist() == [0, 0, 0, 0, 0, 0, 1, 1]


# --- drawing


def with_boxes(*rows):
    dense = torch.zeros(len(rows), 64, 96, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(dense, rows, strict=True):
        mask[y0:y1, x0:x1] = True
    return Targets.from_masks(Masks.from_dense(dense), torch.arange(len(rows)) + 3)


def test_objects_are_regions_too_and_stand_for_themselves():
    targets = with_boxes((0, 0, 10, 10), (50, 30, 70, 60))
    found = sampled(torch.zeros(0, 4), targets, crowds=torch.zeros(0, 4), background=9, total=8)
    assert sorted(found.matched.tolist()) == [0, 1]
    assert torch.equal(found.positive, targets.boxes[found.matched])
    assert torch.equal(found.labels, targets.labels[found.matched])


def test_what_lies_in_a_crowd_is_not_background():
    targets = with_boxes((0, 0, 10, 10))
    proposals = torch.tensor([[60.0, 40, 80, 60], [20, 20, 30, 30], [75, 20, 95, 40]])
    found = sampled(proposals, targets, crowds=torch.tensor([[55.0, 35, 90, 64]]), background=9)
    background = found.boxes[len(found.matched) :]
    assert sorted(background.tolist()) == sorted(proposals[1:].tolist())


@given(st.integers(1, 60), st.integers(0, 40), st.integers(0, 9))
def test_a_quarter_at_most_shows_an_object_and_the_rest_fills_up(total, count, seed):
    torch.manual_seed(seed)
    targets = with_boxes((5, 5, 45, 45), (50, 10, 90, 60))
    near = targets.boxes[torch.arange(count) % 2] + torch.rand(count, 4)
    far = torch.rand(count, 4) * torch.tensor([3.0, 3, 3, 3]) + torch.tensor([40.0, 0, 44, 4])
    found = sampled(torch.cat([near, far]), targets, crowds=torch.zeros(0, 4), background=9, total=total)
    positives = min(total // 4, count + 2)
    assert len(found.matched) == positives
    assert len(found.boxes) == positives + min(total - positives, count)
    assert (found.labels[positives:] == 9).all()
