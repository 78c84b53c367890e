"""Label maps: every id comes back as it was stored, or the file is refused with a reason."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from maskwise.data.images import ImageReadError, image_size, read_image, read_label_map, write_label_map

IDS = np.arange(6 * 7).reshape(6, 7) % 5
PALETTE = np.random.default_rng(0).integers(0, 256, 768).tolist()


def saved(picture: PIL.Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def png_row(row: bytes, *, width: int, depth: int, colour: int) -> bytes:
    """A PNG of one row, for what Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    body = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")):
        body += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return body


def with_tag(tiff: bytes, tag: int, value: int) -> bytes:
    """The TIFF with another value in the tag."""
    changed = bytearray(tiff)
    struct.pack_into("<H", changed, tiff.index(struct.pack("<H", tag)) + 8, value)
    return bytes(changed)


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.uint16, st.tuples(st.integers(1, 12), st.integers(1, 12))),
    st.sampled_from([".png", ".tif", ".TIFF"]),
    st.sampled_from([np.uint16, np.int32, np.int64, np.uint64]),
)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, ids: np.ndarray, suffix: str, dtype: type) -> None:
    path = tmp_path_factory.mktemp("round") / f"ids{suffix}"
    write_label_map(path, ids.astype(dtype)[:, ::-1])
    read = read_label_map(path)
    assert read.dtype == np.int32
    assert read.flags.writeable
    np.testing.assert_array_equal(read, ids[:, ::-1])


def test_ids_of_16_bits_are_written_without_scaling(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif"):
        write_label_map(tmp_path / name, np.array([[0, 1, 255, 256, 65535]]))
        with PIL.Image.open(tmp_path / name) as picture:
            assert np.asarray(picture).tolist() == [[0, 1, 255, 256, 65535]]


def test_writing_refuses_what_does_not_fit(tmp_path: Path) -> None:
    for ids, named in (([[0, 65536]], "65536"), ([[70000, -1]], "70000"), ([[5, -3]], "-3")):
        with pytest.raises(ValueError, match=f"ids 0 to 65535, got {named}"):
            write_label_map(tmp_path / "a.png", np.array(ids))
    with pytest.raises(ValueError, match=r"expected a name ending in \.png, \.tif, \.tiff"):
        write_label_map(tmp_path / "a.jpg", IDS)
    with pytest.raises(ValueError, match="no pixels"):
        write_label_map(tmp_path / "a.png", np.zeros((0, 3), np.int32))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
def test_palette_positions_not_colours(kind: str) -> None:
    picture = PIL.Image.fromarray(IDS.astype(np.uint8))
    picture.putpalette(PALETTE)
    np.testing.assert_array_equal(read_label_map(saved(picture, kind)), IDS)


def test_a_palette_with_transparency_changes_no_id() -> None:
    picture = PIL.Image.fromarray(IDS.astype(np.uint8))
    picture.putpalette(PALETTE)
    for kind in ("PNG", "GIF"):
        np.testing.assert_array_equal(read_label_map(saved(picture, kind, transparency=0)), IDS)


@pytest.mark.parametrize(("kind", "dtype"), [(k, np.uint8) for k in ("PNG", "TIFF", "BMP", "GIF")] + [("PNG", ">u2")])
def test_grey_values(kind: str, dtype: str) -> None:
    np.testing.assert_array_equal(read_label_map(saved(PIL.Image.fromarray(IDS.astype(dtype)), kind)), IDS)


@pytest.mark.parametrize("dtype", ["<u2", ">u2", np.int32, np.float32])
@pytest.mark.parametrize("factor", [1, 300])
def test_wide_tiffs(dtype: str, factor: int) -> None:
    """Small and large numbers alike: nothing depends on what a map holds."""
    ids = IDS * factor
    np.testing.assert_array_equal(read_label_map(saved(PIL.Image.fromarray(ids.astype(dtype)), "TIFF")), ids)


def test_ids_above_16_bits() -> None:
    ids = np.array([[0, 2**31 - 1, 70_000]], np.int32)
    np.testing.assert_array_equal(read_label_map(saved(PIL.Image.fromarray(ids), "TIFF")), ids)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_one_bit(kind: str) -> None:
    np.testing.assert_array_equal(read_label_map(saved(PIL.Image.fromarray(IDS > 2), kind)), IDS > 2)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_png_of_few_bits_is_not_stretched(depth: int) -> None:
    """Pillow hands out 2 and 4 bits multiplied by 85 and 17."""
    values = np.arange(8) % 2**depth
    bits = "".join(format(v, f"0{depth}b") for v in values)
    row = int(bits, 2).to_bytes(depth, "big")
    np.testing.assert_array_equal(read_label_map(png_row(row, width=8, depth=depth, colour=0)), values[None])


def test_tiff_of_four_bits_is_not_stretched() -> None:
    packed = PIL.Image.fromarray((np.arange(8) * 16 + np.arange(8) + 1).astype(np.uint8)[None])
    four = with_tag(with_tag(saved(packed, "TIFF"), 258, 4), 256, 16)
    np.testing.assert_array_equal(read_label_map(four)[0, :6], [0, 1, 1, 2, 2, 3])


def test_colours_that_are_grey_are_ids() -> None:
    grey = np.repeat(IDS.astype(np.uint8)[..., None], 4, axis=2)
    grey[..., 3] = 255
    for channels in (grey, grey[..., :3], grey[..., 2:]):
        for kind in ("PNG", "TIFF"):
            np.testing.assert_array_equal(read_label_map(saved(PIL.Image.fromarray(channels), kind)), IDS)


def test_what_cannot_be_ids_is_refused() -> None:
    rgb = np.repeat(IDS.astype(np.uint8)[..., None], 3, axis=2)
    rgb[3, 3, 1] = 77
    clear = np.repeat(IDS.astype(np.uint8)[..., None], 2, axis=2)
    grey = PIL.Image.fromarray(IDS.astype(np.uint8))
    for data, reason in {
        saved(PIL.Image.fromarray(rgb), "PNG"): "this is a picture in colours",
        saved(PIL.Image.fromarray(clear), "PNG"): "transparency",
        saved(PIL.Image.fromarray(rgb).convert("CMYK"), "TIFF"): "not CMYK",
        saved(grey, "JPEG"): "not a picture in PNG or TIFF",
        saved(grey, "WEBP", lossless=True): "not a picture in PNG or TIFF",
        saved(grey, "TIFF", compression="jpeg"): "jpeg compression changes ids",
        with_tag(saved(grey, "TIFF"), 262, 0): "white is zero",
        saved(PIL.Image.fromarray(-IDS.astype(np.int32)), "TIFF"): "must not be negative, found -4",
        saved(PIL.Image.fromarray((IDS / 2).astype(np.float32)), "TIFF"): "whole numbers",
        saved(PIL.Image.fromarray((-IDS).astype(np.float32)), "TIFF"): "whole numbers",
        saved(PIL.Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"): "whole numbers",
        saved(PIL.Image.fromarray(np.full((2, 2), 2**25, np.float32)), "TIFF"): "whole numbers",
    }.items():
        with pytest.raises(ImageReadError, match=reason):
            read_label_map(data)


def test_16_bit_colours_are_refused_even_where_they_are_grey() -> None:
    """Pillow keeps the upper byte of them: 300 would come back as 1."""
    row = struct.pack(">3H", 300, 300, 300)
    with pytest.raises(ImageReadError, match="16-bit colours"):
        read_label_map(png_row(row, width=1, depth=16, colour=2))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_turned_as_its_picture_is(kind: str, orientation: int, dtype: type) -> None:
    block = PIL.Image.Exif()
    block[0x0112] = orientation
    data = saved(PIL.Image.fromarray(IDS.astype(dtype)), kind, exif=block)
    np.testing.assert_array_equal(read_label_map(data), read_image(data)[..., 0])
    assert read_label_map(data).shape == image_size(data)
    np.testing.assert_array_equal(read_label_map(data, orientation="as_stored"), IDS)


def test_a_truncated_map_is_refused(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif"):
        write_label_map(tmp_path / name, np.arange(3000).reshape(50, 60))
        data = (tmp_path / name).read_bytes()
        for part in range(0, len(data) - 60, 37):
            with pytest.raises(ImageReadError):
                read_label_map(data[:part])


def test_the_pixel_limit_holds(tmp_path: Path) -> None:
    write_label_map(tmp_path / "a.png", IDS)
    assert read_label_map(tmp_path / "a.png", max_pixels=42).shape == (6, 7)
    with pytest.raises(ImageReadError, match="too many pixels: 7 x 6 = 42 > 41"):
        read_label_map(tmp_path / "a.png", max_pixels=41)
