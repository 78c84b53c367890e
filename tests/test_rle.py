import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

from maskwise import rle
from maskwise.rle import Window

bitmaps = arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=24))


def dense(window, shape):
    out = np.zeros(shape, bool)
    out[window.y0 : window.y0 + window.bits.shape[0], window.x0 : window.x0 + window.bits.shape[1]] = window.bits
    return out


def reference(bits):
    return coco.encode(np.asfortranarray(bits.astype(np.uint8)))["counts"].decode()


@given(bitmaps, st.data())
def test_strings_equal_those_of_pycocotools(bits, data):
    """For a window anywhere in a larger picture, full columns and touching borders among them."""
    up, down, left, right = (data.draw(st.integers(0, 3)) for _ in range(4))
    picture = np.pad(bits, ((up, down), (left, right)))
    first, second = rle.encode([Window(left, up, bits), Window(0, 0, picture)], picture.shape)
    assert first == second == {"size": list(picture.shape), "counts": reference(picture)}


@given(bitmaps)
def test_decoding_gives_the_tight_window_back(bits):
    window = rle.decode({"size": list(bits.shape), "counts": reference(bits)})
    assert (dense(window, bits.shape) == bits).all()
    assert all(window.bits.any(axis).all() or window.bits.any() for axis in (0, 1))
    if bits.any():
        assert window.bits[0].any()
        assert window.bits[-1].any()
        assert window.bits[:, 0].any()
        assert window.bits[:, -1].any()


@given(st.lists(bitmaps, max_size=5))
def test_many_are_decoded_as_each_alone(several):
    codes = [{"size": list(bits.shape), "counts": reference(bits)} for bits in several]
    found = rle.decode_all(codes)
    assert len(found) == len(codes)
    for code, window in zip(codes, found, strict=True):
        alone = rle.decode(code)
        assert window[:2] == alone[:2]
        assert np.array_equal(window.bits, alone.bits)


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=30))
def test_runs_of_any_length_survive_the_string(counts):
    assert rle.from_string(rle.to_string(np.array(counts))).tolist() == counts


def test_runs_of_zero_length_are_understood():
    window = rle.from_counts(np.array([0, 2, 0, 1, 3, 0, 3]), (3, 3))
    assert dense(window, (3, 3)).T.ravel().tolist() == [True] * 3 + [False] * 6


def test_a_pixel_in_the_last_corner_of_a_huge_picture():
    size = (20_000, 20_000)
    text = rle.encode([Window(19_999, 19_999, np.ones((1, 1), bool))], size)[0]
    assert rle.from_string(text["counts"]).tolist() == [4 * 10**8 - 1, 1]
    window = rle.decode(text)
    assert (window.x0, window.y0, window.bits.shape) == (19_999, 19_999, (1, 1))


def test_no_masks_and_masks_without_pixels():
    assert rle.encode([], (3, 4)) == []
    assert rle.encode([Window(0, 0, np.zeros((0, 0), bool))], (3, 4))[0]["counts"] == reference(np.zeros((3, 4), bool))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("é", "cannot hold"),
        ("P", "cut off"),
        ("11", "runs cover 2 pixels"),
        ("o" * 13 + "0", "60 bits"),
        ("\x7f", "hold"),
    ],
)
def test_broken_strings_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        rle.decode({"size": [3, 3], "counts": text})


@given(st.binary(max_size=40))
def test_random_bytes_decode_or_are_refused(text):
    with contextlib.suppress(ValueError):
        rle.decode({"size": [4, 5], "counts": text.decode("latin-1")})
