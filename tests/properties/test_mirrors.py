"""What is exact commutes with mirrors: anchors, regions that are read, targets of masks. Networks do not."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from maskwise import boxes
from maskwise.masks import Masks
from maskwise.parts.convention import Convention
from maskwise.parts.keypoint_head import NOWHERE, cells_of
from maskwise.parts.mask_head import masks_of
from maskwise.parts.roi import Pool, Regions
from maskwise.parts.rpn import anchors_of_cell, anchors_of_map
from maskwise.structures import Targets

H, W = 48, 64


@st.composite
def regions(draw, most=4):
    """Inside the picture, in fractions that floats hold exactly."""
    rows = []
    for _ in range(draw(st.integers(1, most))):
        x, y = draw(st.integers(0, 4 * W - 8)) / 4, draw(st.integers(0, 4 * H - 8)) / 4
        rows.append([x, y, draw(st.floats(x + 1, W, width=32)), draw(st.floats(y + 1, H, width=32))])
    return torch.tensor(rows)


def test_the_anchors_of_a_map_mirrored_are_its_anchors():
    """They stand at the corners of cells, so the mirror is one cell further left."""
    anchors = anchors_of_map(anchors_of_cell([16.0, 40.0], stride=8), (6, 8), stride=8)
    for mirrored in (boxes.flip_horizontal(anchors, W - 8), boxes.flip_vertical(anchors, H - 8)):
        assert sorted(mirrored.round(decimals=2).tolist()) == sorted(anchors.round(decimals=2).tolist())


@given(regions(), st.integers(0, 99))
def test_a_mirrored_map_is_read_in_mirrored_regions(several, seed):
    x = torch.randn(1, 2, H // 8, W // 8, generator=torch.Generator().manual_seed(seed))
    pool = Pool(size=5, strides=(8,), convention=Convention())
    across = pool([x.flip(3)], [boxes.flip_horizontal(several, W)])
    torch.testing.assert_close(across, pool([x], [several]).flip(3), rtol=1e-3, atol=1e-3)
    down = pool([x.flip(2)], [boxes.flip_vertical(several, H)])
    torch.testing.assert_close(down, pool([x], [several]).flip(2), rtol=1e-3, atol=1e-3)


@given(regions(), st.integers(0, 99))
def test_targets_of_mirrored_masks_are_mirrored_targets(several, seed):
    dense = torch.rand(2, H, W, generator=torch.Generator().manual_seed(seed)) > 0.4
    soft = Convention(soft_targets=True)
    matched = torch.arange(len(several)) % 2
    found = []
    for bits, region in ((dense, several), (dense.flip(2), boxes.flip_horizontal(several, W))):
        targets = Targets.from_masks(Masks.from_dense(bits), torch.zeros(2, dtype=torch.int64))
        drawn = Regions(region, torch.zeros(len(region), dtype=torch.int64), matched)
        found.append(masks_of([drawn], [targets], cells=7, convention=soft))
    torch.testing.assert_close(found[1], found[0].flip(2), rtol=1e-3, atol=1e-3)


@given(regions(), st.lists(st.tuples(st.floats(0, W, width=32), st.floats(0, H, width=32)), min_size=1, max_size=4))
def test_cells_of_mirrored_keypoints_are_mirrored_cells(several, points):
    """But for keypoints on the line between two cells, which belong to the right one."""
    seen = torch.tensor([[*p, 2.0] for p in points]).expand(len(several), -1, -1)
    mirrored = torch.cat([W - seen[..., :1], seen[..., 1:]], 2)
    one = cells_of(seen, several, cells=9)
    other = cells_of(mirrored, boxes.flip_horizontal(several, W), cells=9)
    at = (seen[..., 0] - several[:, :1]) / boxes.sides(several)[:, :1] * 9
    clear = ((at - at.round()).abs() > 1e-3) & (one != NOWHERE)
    assert torch.equal(other[clear] // 9, one[clear] // 9)
    assert torch.equal(other[clear] % 9, 8 - one[clear] % 9)
