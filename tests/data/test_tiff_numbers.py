"""TIFFs whose numbers Pillow hands out otherwise than the file means them, byte by byte."""

import struct

import numpy as np
import pytest

from maskwise.data.images import ImageReadError, read_image

RAMP = np.linspace(0, 65535, 64).reshape(8, 8)


def tiff(values, *, white_is_zero=False, signed=False, planes=False):
    """Uncompressed, one strip a plane."""
    colours = values.shape[2] if values.ndim == 3 else 1
    data = (np.moveaxis(values, 2, 0) if planes else values).tobytes()
    strips = colours if planes else 1
    photometric = 2 if colours > 1 else 0 if white_is_zero else 1
    tags = {256: values.shape[1], 257: values.shape[0], 258: [8 * values.itemsize] * colours, 259: 1, 262: photometric}
    tags |= {277: colours, 278: values.shape[0], 284: 2 if planes else 1, 339: [2 if signed else 1] * colours}
    size = len(data) // strips
    tags[279] = [size] * strips
    tags[273] = [1024 + i * size for i in range(strips)]
    entries, beyond = b"", b""
    for tag, value in sorted(tags.items()):
        several = value if isinstance(value, list) else [value]
        raw = struct.pack(f"<{len(several)}I", *several)
        if len(raw) > 4:
            raw, beyond = struct.pack("<I", 512 + len(beyond)), beyond + raw
        entries += struct.pack("<HHI", tag, 4, len(several)) + raw
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return (head.ljust(512, b"\0") + beyond).ljust(1024, b"\0") + data


@pytest.mark.parametrize("kind", ["<u1", "<u2"])
def test_where_white_is_zero_it_is_white(kind):
    values = (RAMP if kind != "<u1" else RAMP // 257).astype(kind)
    plain, inverted = (read_image(tiff(values, white_is_zero=white)) for white in (False, True))
    assert plain[0, 0, 0] == 0
    assert plain[-1, -1, 0] == 255
    assert np.array_equal(inverted, 255 - plain)


def test_numbers_of_32_bits_without_a_sign_rise_to_the_last():
    grey = read_image(tiff((RAMP * 65537).astype("<u4")))[..., 0].ravel().astype(int)
    assert (np.diff(grey) >= 0).all()
    assert (grey[0], grey[-1]) == (0, 255)


def test_bytes_with_a_sign_begin_below_zero():
    grey = read_image(tiff(np.linspace(-128, 127, 64).reshape(8, 8).astype("i1"), signed=True))[..., 0].ravel()
    assert (np.diff(grey.astype(int)) >= 0).all()
    assert (grey[0], grey[-1]) == (0, 255)


def test_colours_in_planes_are_read_or_refused_but_never_noise():
    colours = np.zeros((8, 8, 3), "<u2")
    colours[..., 0], colours[:4, :, 1] = 65535, 65535
    small = (colours >> 8).astype("u1")
    assert np.array_equal(read_image(tiff(colours)), small)
    assert np.array_equal(read_image(tiff(small, planes=True)), small)
    with pytest.raises(ImageReadError, match="more than 8 bits in a plane for each colour"):
        read_image(tiff(colours, planes=True))
