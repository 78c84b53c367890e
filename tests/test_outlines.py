from functools import partial

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

from maskwise import outlines, rle
from maskwise.outlines import Polygon

bitmaps = arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=14))


def drawn(polygons, size):
    window = outlines.fill(polygons, size)
    out = np.zeros(size, bool)
    out[window.y0 : window.y0 + window.bits.shape[0], window.x0 : window.x0 + window.bits.shape[1]] = window.bits
    return out


@given(bitmaps)
def test_outlines_fill_the_same_bitmap_again(bits):
    assert (drawn(outlines.trace(bits), bits.shape) == bits).all()


@given(bitmaps, st.integers(-3, 9), st.integers(-3, 9))
def test_a_corner_shifts_the_outline(bits, x, y):
    for here, there in zip(outlines.trace(bits), outlines.trace(bits, corner=(x, y)), strict=True):
        np.testing.assert_array_equal(here.outer + np.array([x, y]), there.outer)


def test_a_ring_has_one_hole_and_an_island_in_it_is_a_part_of_its_own():
    bits = np.zeros((9, 9), bool)
    bits[1:8, 1:8] = True
    bits[2:7, 2:7] = False
    bits[4, 4] = True
    ring, island = outlines.trace(bits)
    assert (len(ring.holes), len(island.holes)) == (1, 0)
    assert sorted(map(tuple, ring.outer)) == [(1, 1), (1, 8), (8, 1), (8, 8)]
    assert (drawn([ring, island], bits.shape) == bits).all()


def test_pixels_that_meet_at_a_corner_are_two_parts():
    assert len(outlines.trace(np.eye(2, dtype=bool))) == 2


@given(st.lists(st.tuples(st.floats(0, 20), st.floats(0, 15)), min_size=3, max_size=8))
def test_filling_equals_pycocotools(corners):
    expected = coco.frPyObjects([np.array(corners).ravel().tolist()], 15, 20)[0]
    window = outlines.fill([Polygon(np.array(corners), [])], (15, 20))
    assert rle.encode([window], (15, 20))[0]["counts"] == expected["counts"].decode()


def test_a_hole_of_one_part_does_not_cut_another():
    square = np.array([[0.0, 0], [6, 0], [6, 6], [0, 6]])
    whole = drawn([Polygon(square, [square[:, :] / 2]), Polygon(square / 3, [])], (6, 6))
    assert whole[:2, :2].all()
    assert not whole[2, 2]


@pytest.mark.parametrize("tolerance", [0.5, 1.0, 2.0])
def test_simplified_outlines_stay_within_the_tolerance(tolerance):
    y, x = np.mgrid[:64, :64]
    disc = (x - 32) ** 2 + (y - 32) ** 2 < 28**2
    exact, (simple,) = outlines.trace(disc)[0], outlines.trace(disc, tolerance=tolerance)
    assert len(simple.outer) < len(exact.outer) / (2 if tolerance >= 1 else 1.2)
    again = drawn([simple], disc.shape)
    radius = np.hypot(x - 31.5, y - 31.5)[again != disc]
    assert (abs(radius - 28) < tolerance + 1.5).all()


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=4, max_size=14))
@example([(5, 9), (7, 9), (4, 6), (4, 2), (5, 4), (10, 3), (11, 11), (1, 7)])
def test_corners_that_are_left_out_lie_near_what_is_kept_and_not_just_on_a_line_through_it(corners):
    ring = np.array(corners, float)
    kept = outlines.simplify(ring, 2.0)
    assert max(min(map(partial(to_piece, corner), kept, np.roll(kept, -1, 0))) for corner in ring) <= 2.0 + 1e-9


def to_piece(corner, a, b):
    line = b - a
    along = np.clip((corner - a) @ line / max(line @ line, 1), 0, 1)
    return np.hypot(*(corner - a - along * line))


def test_a_tiny_ring_is_never_simplified_away():
    assert len(outlines.trace(np.ones((1, 1), bool), tolerance=50)[0].outer) >= 3


def test_nothing_has_no_outline():
    assert outlines.trace(np.zeros((4, 4), bool)) == []
    assert outlines.trace(np.zeros((0, 0), bool)) == []
    assert not drawn([], (4, 4)).any()


@pytest.mark.parametrize("line", [[], [[3, 3]], [[3, 3], [5, 6]]])
def test_fewer_than_three_corners_enclose_nothing(line):
    ring, square = np.array(line, float).reshape(-1, 2), np.array([[1, 1], [9, 1], [9, 9], [1, 9]], float)
    assert not drawn([Polygon(ring, [])], (20, 20)).any()
    assert drawn([Polygon(square, [ring])], (20, 20)).sum() == 64
    assert drawn([Polygon(ring, [square]), Polygon(square, [])], (20, 20)).sum() == 64
