"""Files that are small and take long: refused before work is begun."""

import time
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from maskwise.data.images import ImageReadError, read_image

SCAN, END = b"\xff\xda", b"\xff\xd9"
PIXELS = np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8)


def progressive(*, repeated: int, between: bytes = b"") -> bytes:
    """A JPEG whose smallest scan comes again and again; `between` stands before the repetitions."""
    file = BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    starts = [i for i in range(len(data)) if data[i : i + 2] == SCAN]
    scans = [data[start:stop] for start, stop in zip(starts, [*starts[1:], len(data) - 2], strict=True)]
    assert data.endswith(END)
    return data[:-2] + between + min(scans[1:], key=len) * repeated + END


def segment(content: bytes) -> bytes:
    return b"\xff\xfe" + (len(content) + 2).to_bytes(2, "big") + content


def test_progressive_pictures_are_read():
    assert read_image(progressive(repeated=0)).shape == PIXELS.shape


@pytest.mark.parametrize("between", [b"", segment(END), b"\xff" * 3 + segment(END * 100)])
def test_a_jpeg_of_very_many_scans_is_refused(between):
    with pytest.raises(ImageReadError, match="a JPEG of more than 100 scans"):
        read_image(progressive(repeated=1000, between=between))


def test_a_jpeg_of_very_many_segments_is_refused():
    with pytest.raises(ImageReadError, match="a JPEG of more than 10,000 segments"):
        read_image(progressive(repeated=0, between=segment(SCAN) * 20_000))


@pytest.mark.parametrize("place", ["between", "behind"])
def test_what_only_looks_like_scans_is_none(place):
    """In a comment, and behind the end, where phones keep films."""
    decoy = SCAN * 500
    file = progressive(repeated=0, between=segment(decoy)) if place == "between" else progressive(repeated=0) + decoy
    assert np.array_equal(read_image(file), read_image(progressive(repeated=0)))


def test_a_large_bomb_is_refused_at_once():
    began = time.monotonic()
    with pytest.raises(ImageReadError):
        read_image(progressive(repeated=0, between=segment(SCAN) * 5_000_000))
    assert time.monotonic() - began < 5
