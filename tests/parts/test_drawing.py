"""Windows of a map, drawn in the resolution of the picture, against the whole map."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from maskwise.parts.drawing import Grid, draw


@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 40))
def test_windows_are_drawn_as_the_whole_map_would_be(seed, height, width):
    torch.manual_seed(seed)
    h, w = torch.randint(1, 9, (2,)).tolist()
    low = torch.stack([torch.randint(0, w, (3,)), torch.randint(0, h, (3,))], 1)
    high = torch.minimum(low + torch.randint(1, 9, (3, 2)), torch.tensor([w, h]))
    windows, whole, values = torch.cat([low, high], 1), torch.full((3, h, w), -2.0), []
    for shown, (x0, y0, x1, y1) in zip(whole, windows.tolist(), strict=True):
        shown[y0:y1, x0:x1] = torch.randn(y1 - y0, x1 - x0)
        values.append(shown[y0:y1, x0:x1])
    found = draw(windows, values, Grid((h, w), (h / height, w / width)), (height, width), outside=-2.0, threshold=-0.3)
    enlarged = F.interpolate(whole[None], size=(height, width), mode="bilinear")[0]
    sure = (enlarged + 0.3).abs() > 1e-3
    assert torch.equal(found.dense() & sure, (enlarged > -0.3) & sure)


def test_what_shows_nothing_is_a_mask_without_pixels():
    grid = Grid((4, 4), (0.25, 0.25))
    assert draw(torch.zeros(0, 4, dtype=torch.int64), [], grid, (16, 16), outside=0.0, threshold=0.5).size == (16, 16)
    found = draw(torch.tensor([[1, 1, 2, 2]]), [torch.zeros(1, 1)], grid, (16, 16), outside=-1.0, threshold=0.5)
    assert found.area().tolist() == [0]


@pytest.mark.parametrize(("left", "expected"), [(0, range(5)), (1, range(3, 9))])
def test_one_cell_of_four_pixels(left, expected):
    """Between 1 in it and 0 beside it, a half is where the next cell begins: 2 pixels from its middle, and on; beyond
    the border of the map all is as there."""
    grid = Grid((1, 4), (1.0, 0.25))
    windows = torch.tensor([[left, 0, left + 1, 1]])
    found = draw(windows, [torch.ones(1, 1)], grid, (1, 16), outside=0.0, threshold=0.37)
    assert torch.where(found.dense()[0, 0])[0].tolist() == list(expected)
