import torch

from maskwise.parts.convention import CONVENTIONS


def test_where_pixels_are_counted_inclusively_a_region_outside_keeps_its_nearest_pixel():
    outside = torch.tensor([[50.0, -20, 60, -5]])
    assert CONVENTIONS["legacy"].clip(outside, (30, 40)).tolist() == [[39, 0, 40, 1]]
    assert CONVENTIONS["continuous"].clip(outside, (30, 40)).tolist() == [[40, 0, 40, 0]]


def test_inclusive_regions_are_scaled_by_their_first_and_last_pixel():
    region = torch.tensor([[10.0, 20, 30, 41]])  # pixels 10 .. 29 and 20 .. 40
    assert CONVENTIONS["legacy"].scale(region, x=2, y=0.5).tolist() == [[20, 10, 59, 21]]
    assert CONVENTIONS["continuous"].scale(region, x=2, y=0.5).tolist() == [[20, 10, 60, 20.5]]
