"""What masks share, cover and show, from their runs alone, against counting the pixels of whole pictures."""

import hotcoco.mask
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwise import rle
from maskwise.evaluate import objects, runs
from maskwise.evaluate.objects import box_iou, touching_boxes, touching_masks

few = st.integers(0, 6)
SEEDS = st.integers(0, 10**6)


def pictures(seed, n):
    """Blobs on each other, noise, empty and full masks, single pixels."""
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 12), rng.integers(1, 12)
    bits = rng.random((n, *size)) < rng.choice([0, 0.1, 0.6, 1], (n, 1, 1))
    for i in range(0, n, 2):
        y, x = rng.integers(0, size[0]), rng.integers(0, size[1])
        bits[i] = False
        bits[i, y : y + rng.integers(1, 9), x : x + rng.integers(1, 9)] = True
    if n:
        bits[-1] = False
        bits[-1, -1, -1] = True
    return bits


def encoded(bits):
    return rle.encode([rle.Window(0, 0, b) for b in bits], bits.shape[1:])


def painted(one, count, size):
    """Runs as pictures."""
    bits = np.zeros((count, size[0] * size[1]), bool)
    for start, end, owner in zip(*(column.tolist() for column in one), strict=True):
        assert start < end
        assert not bits[owner, start:end].any()
        bits[owner, start:end] = True
    return bits.reshape(count, size[1], size[0]).transpose(0, 2, 1)


@settings(deadline=None, max_examples=100)
@given(seed=SEEDS, d=few, n=few, at_once=st.integers(1, 5))
def test_runs_equal_counting_pixels(seed, d, n, at_once):
    bits = pictures(seed, d + n)
    size = bits.shape[1:]
    first, second = (runs.of_masks(encoded(part)) for part in (bits[:d], bits[d:]))
    assert (painted(first, d, size) == bits[:d]).all()
    assert runs.areas(first, d).tolist() == bits[:d].sum((1, 2)).tolist()
    before, runs.AT_ONCE = runs.AT_ONCE, at_once  # so that pictures this small come in several turns
    try:
        pairs = runs.shared(first, second)
        seen = runs.visible(first, np.random.default_rng(seed).permutation(d))
    finally:
        runs.AT_ONCE = before
    both = (bits[:d, None] & bits[None, d:]).sum((2, 3))
    assert np.array_equal(runs.table(*pairs, (d, n)), both)
    assert [pairs.first.tolist(), pairs.second.tolist()] == [of.tolist() for of in np.nonzero(both)]
    assert (painted(runs.union(first), 1, size)[0] == bits[:d].any(axis=0)).all()
    top = np.full(size, -1)
    for i in np.random.default_rng(seed).permutation(d).tolist():
        top[bits[i]] = i
    assert (painted(seen, d, size) == (top == np.arange(d)[:, None, None])).all()


@settings(deadline=None, max_examples=50)
@given(seed=SEEDS, d=st.integers(1, 6), n=st.integers(1, 6), crowds=st.booleans())
def test_overlaps_of_many_masks_are_those_of_hotcoco_to_the_last_digit(seed, d, n, crowds):
    bits = pictures(seed, d + n)
    found, truth = encoded(bits[:d]), encoded(bits[d:])
    crowd = (np.random.default_rng(seed).random(n) < 0.5) & crowds
    expected = hotcoco.mask.iou(found, truth, crowd)
    before, objects.FEW = objects.FEW, 0
    try:
        many = touching_masks(found, truth, crowd)
    finally:
        objects.FEW = before
    assert np.array_equal(many.table((d, n)), expected)
    for a, b in zip(many, touching_masks(found, truth, crowd), strict=True):
        assert np.array_equal(a, b)


@settings(deadline=None, max_examples=50)
@given(seed=SEEDS, d=few, n=few)
def test_boxes_that_touch(seed, d, n):
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 6, (d + n, 2)) + rng.random((d + n, 2)).round(1)
    boxes = np.concatenate([corners, corners + rng.integers(0, 4, (d + n, 2))], axis=1)
    crowd = rng.random(n) < 0.3
    met = touching_boxes(boxes[:d], boxes[d:], crowd)
    expected = box_iou(boxes[:d], boxes[d:], crowd)
    assert np.array_equal(met.table((d, n)), expected)
    assert len(met.iou) == np.count_nonzero(expected)
