import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwise.evaluate.objects import (
    above,
    box_iou,
    intersections,
    mask_areas,
    mask_boxes,
    present,
    touching_masks,
    xywh,
    xyxy,
)


def bits_of(seed, n, size=(13, 17)):
    rng = np.random.default_rng(seed)
    return rng.random((n, *size)) < rng.choice([0, 0.1, 0.5, 1], (n, 1, 1))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), d=st.integers(0, 4), n=st.integers(0, 4))
def test_overlaps_of_masks_equal_counting_pixels(seed, d, n, rle):
    bits = bits_of(seed, d + n)
    found, truth = [rle(b) for b in bits[:d]], [rle(b) for b in bits[d:]]
    crowd = np.random.default_rng(seed).random(n) < 0.5
    shared = (bits[:d, None] & bits[None, d:]).sum((2, 3))
    union = (bits[:d, None] | bits[None, d:]).sum((2, 3))
    own = np.broadcast_to(bits[:d].sum((1, 2))[:, None], shared.shape)
    assert np.array_equal(intersections(found, truth), shared)
    expected = shared / np.maximum(np.where(crowd, own, union), 1)
    np.testing.assert_allclose(touching_masks(found, truth, crowd).table((d, n)), expected, atol=1e-15)
    np.testing.assert_allclose(touching_masks(found, truth).table((d, n)), shared / np.maximum(union, 1), atol=1e-15)
    assert mask_areas(found).tolist() == bits[:d].sum((1, 2)).tolist()


def test_box_iou_and_crowd():
    found, truth = np.array([[0.0, 0, 4, 2]]), np.array([[2.0, 0, 6, 4], [2.0, 0, 6, 4], [9.0, 9, 10, 10]])
    np.testing.assert_allclose(box_iou(found, truth), [[4 / 20, 4 / 20, 0]])
    np.testing.assert_allclose(box_iou(found, truth, np.array([False, True, True])), [[4 / 20, 4 / 8, 0]])


def test_boxes_of_masks(rle):
    bits = np.zeros((2, 5, 6), bool)
    bits[0, 1:3, 2:6] = True
    assert mask_boxes([rle(b) for b in bits]).tolist() == [[2, 1, 6, 3], [0, 0, 0, 0]]
    assert mask_boxes([]).shape == (0, 4)


@settings(deadline=None, max_examples=200)
@given(box=st.tuples(*[st.decimals(0, 5000, places=3)] * 4))
def test_extent_survives_the_way_over_corners(box):
    """Sizes decide at 32 x 32 and 96 x 96 exactly, so a last digit matters."""
    box = np.array([[float(v) for v in box]])
    assert np.array_equal(xywh(xyxy(box)), box)


@settings(deadline=None, max_examples=200)
@given(box=st.tuples(*[st.floats(0, 5000, width=32)] * 4))
def test_corners_of_float32_survive_the_way_over_extents(box):
    box = np.array([[min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])]])
    np.testing.assert_allclose(xyxy(xywh(box)), box, rtol=0, atol=1e-12)


def test_masks_of_different_pictures_are_refused(rle):
    with pytest.raises(ValueError, match=r"different sizes: \[\(2, 3\), \(3, 2\)\]"):
        touching_masks([rle(np.ones((2, 3)))], [rle(np.ones((3, 2)))])


def test_a_policy_for_masks_says_so_when_there_are_none():
    with pytest.raises(ValueError, match="the prediction has none"):
        present(None, "prediction")


def test_above_keeps_detections_of_that_score_or_more_with_all_their_fields(comparison_of):
    found = [(slice(0, 5), 0, 0.5), (slice(0, 9), 1, 0.4), (slice(3, 9), 2, 0.9)]
    comparison = comparison_of(([(slice(0, 5), 0, False)], found), ([], []), classes=3)
    kept = above(comparison, 0.5).pairs[0].found
    assert kept.labels.tolist() == [0, 2]
    assert kept.mask_scores.tolist() == kept.scores.tolist() == [0.5, 0.9]
    assert mask_areas(kept.masks).tolist() == [5, 6]
    assert len(above(comparison, 1).pairs[0].found) == 0
    assert above(comparison, 1).pairs[0].truth is comparison.pairs[0].truth
    for name in ("boxes", "quality"):
        assert len(getattr(kept, name)) == 2
