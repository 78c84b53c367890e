"""The decoder on files that the tests write: every mode and format, every kind of damage, nothing of Pillow changed."""

import io
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageFile
import PIL.PngImagePlugin
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwise.data import images, pillow
from maskwise.data.images import ImageReadError, image_size, list_images, read_image, write_image

HEIGHT, WIDTH = 19, 26
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
GREY = RNG.integers(0, 256, (HEIGHT, WIDTH), np.uint8)
ALPHA = RNG.integers(0, 256, (HEIGHT, WIDTH), np.uint8)
SMOOTH = np.stack(np.meshgrid(np.arange(WIDTH) * 9, np.arange(HEIGHT) * 13), axis=2)
SMOOTH = np.concatenate((SMOOTH, np.full((HEIGHT, WIDTH, 1), 90)), axis=2).astype(np.uint8)


def encoded(pixels: np.ndarray, kind: str, mode: str | None = None, **options: object) -> bytes:
    """The bytes of a file of this kind; `mode` converts first."""
    picture = PIL.Image.fromarray(pixels)
    return saved(picture if mode is None else picture.convert(mode), kind, **options)


def saved(picture: PIL.Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


def over(colour: np.ndarray, alpha: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    share = alpha[..., None] / 255
    return np.rint(colour * share + np.array(background) * (1 - share))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *before: bytes, after: bytes = b"") -> bytes:
    """A PNG by hand, for what Pillow does not write. `rows` with their filter bytes."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = header + b"".join(before) + chunk(b"IDAT", zlib.compress(rows)) + after
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def exif(orientation: int) -> PIL.Image.Exif:
    block = PIL.Image.Exif()
    block[0x0112] = orientation
    return block


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """What a viewer shows: the EXIF standard says where row 0 and column 0 of the file belong."""
    return {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: np.rot90(pixels, -1),
        7: np.rot90(pixels, 2).swapaxes(0, 1),
        8: np.rot90(pixels, 1),
    }[orientation]


# Modes and formats

LOSSLESS = [
    *(
        ("PNG", {}),
        ("BMP", {}),
        ("DIB", {}),
        ("PPM", {}),
        ("TGA", {}),
        ("TGA", {"compression": "tga_rle"}),
        ("PCX", {}),
    ),
    *(("SGI", {}), ("QOI", {}), ("DDS", {}), ("WEBP", {"lossless": True}), ("JPEG2000", {"no_jp2": True})),
    *(("TIFF", {"compression": name}) for name in (None, "packbits", "tiff_lzw", "tiff_adobe_deflate")),
    ("JPEG2000", {}),
]


@pytest.mark.parametrize(("kind", "options"), LOSSLESS)
def test_rgb_comes_back_exactly(kind: str, options: dict[str, object]) -> None:
    data = encoded(RGB, kind, **options)
    np.testing.assert_array_equal(read_image(data), RGB)
    assert image_size(data) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "MPO"])
def test_lossy_formats_come_back_nearly(kind: str) -> None:
    assert np.abs(read_image(encoded(SMOOTH, kind, quality=95)).astype(int) - SMOOTH).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF", "PPM", "TGA", "JPEG2000", "PCX", "SGI"])
def test_grey_is_repeated(kind: str) -> None:
    np.testing.assert_array_equal(read_image(encoded(GREY, kind)), grey(GREY))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF", "PPM", "PCX", "TGA", "MSP"])
def test_one_bit_is_black_and_white(kind: str) -> None:
    bits = GREY > 127
    np.testing.assert_array_equal(read_image(encoded(bits, kind)), grey(bits * np.uint8(255)))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF", "PCX", "TGA"])
def test_palette(kind: str) -> None:
    picture = PIL.Image.fromarray(GREY % 7)
    picture.putpalette(list(range(60, 81)))
    expected = np.arange(60, 81).reshape(7, 3)[GREY % 7]
    np.testing.assert_array_equal(read_image(saved(picture, kind)), expected)


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (10, 200, 77)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "TGA", "WEBP", "ICO"])
def test_alpha_is_laid_over_the_background(kind: str, background: tuple[int, int, int]) -> None:
    options = {"WEBP": {"lossless": True, "exact": True}, "ICO": {"sizes": [(WIDTH, HEIGHT)]}}.get(kind, {})
    data = encoded(np.dstack((RGB, ALPHA)), kind, **options)
    np.testing.assert_allclose(read_image(data, background=background), over(RGB, ALPHA, background), atol=1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "TGA"])
def test_grey_with_alpha(kind: str) -> None:
    data = encoded(np.dstack((GREY, ALPHA)), kind)
    np.testing.assert_allclose(read_image(data, background=(5, 6, 7)), over(grey(GREY), ALPHA, (5, 6, 7)), atol=1)


def test_transparent_palette_entries() -> None:
    picture = PIL.Image.fromarray(GREY % 3)
    picture.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    some = saved(picture, "PNG", transparency=bytes([0, 128, 255]))
    palette = over(np.diag([200, 200, 200])[None], np.array([[0, 128, 255]]), (9, 9, 9))[0]
    np.testing.assert_allclose(read_image(some, background=(9, 9, 9)), palette[GREY % 3], atol=1)
    for kind in ("PNG", "GIF"):
        one = read_image(saved(picture, kind, transparency=1), background=(9, 9, 9))
        np.testing.assert_array_equal(one, np.array([[200, 0, 0], [9, 9, 9], [0, 0, 200]])[GREY % 3])


@pytest.mark.parametrize(("depth", "most"), [(1, 1), (2, 3), (4, 15), (8, 255), (16, 65535)])
def test_transparent_grey_value(depth: int, most: int) -> None:
    """The key is given in the numbers of the file, which Pillow stretches while it reads them."""
    row = bytes.fromhex({1: "80", 2: "c0", 4: "f0", 8: "ff00", 16: "ffff0000"}[depth])  # the largest value, then zero
    data = png(2, 1, depth, 0, b"\0" + row, chunk(b"tRNS", struct.pack(">H", most)))
    np.testing.assert_array_equal(read_image(data, background=(1, 2, 3)), [[[1, 2, 3], [0, 0, 0]]])


@pytest.mark.parametrize("depth", [8, 16])
def test_transparent_colour(depth: int) -> None:
    wide = depth == 16
    colours = struct.pack(">6H", *[v * 257 if wide else v for v in (10, 20, 30, 10, 20, 31)])
    row = colours if wide else colours[1::2]
    data = png(2, 1, depth, 2, b"\0" + row, chunk(b"tRNS", colours[:6]))
    np.testing.assert_array_equal(read_image(data, background=(1, 2, 3)), [[[1, 2, 3], [10, 20, 31]]])


@pytest.mark.parametrize(("mode", "kind"), [("CMYK", "TIFF"), ("CMYK", "JPEG"), ("YCbCr", "TIFF"), ("YCbCr", "JPEG")])
def test_printing_and_video_colours(mode: str, kind: str) -> None:
    data = encoded(SMOOTH, kind, mode)
    assert np.abs(read_image(data).astype(int) - SMOOTH).mean() < 4


def test_lab() -> None:
    """Lightness 0, 50 and 100 are black, the grey 119 of sRGB, and white; a and b of zero are stored as zero."""
    lab = PIL.Image.merge("LAB", [PIL.Image.fromarray(np.array([[v]], np.uint8)) for v in (128, 128, 128)])
    assert np.abs(read_image(saved(lab, "TIFF"))[0, 0].astype(int) - 119).max() <= 2
    red = PIL.Image.merge("LAB", [PIL.Image.fromarray(np.array([[v]], np.uint8)) for v in (136, 128 + 81, 128 + 70)])
    assert np.abs(read_image(saved(red, "TIFF"))[0, 0].astype(int) - (255, 0, 0)).max() <= 12


@pytest.mark.parametrize("mode", ["HSV", "RGBX", "YCbCr", "CMYK", "RGBa", "La", "PA", "P", "1", "L", "LA", "RGBA"])
def test_every_mode_of_pillow_that_no_file_need_have(mode: str) -> None:
    colour = pillow.Image.new("RGB", (3, 2), (90, 90, 90))
    way = {"La": ["L", "LA", "La"], "RGBa": ["RGBA", "RGBa"], "PA": ["P", "PA"]}.get(mode, [mode])
    for step in way:
        colour = colour.convert(step, palette=pillow.Image.Palette.ADAPTIVE)
    rgb = images._to_rgb(colour, "", (0, 0, 0))
    assert rgb.shape == (2, 3, 3)
    assert mode == "1" or np.abs(rgb.astype(int) - 90).max() <= 2


def test_a_mode_that_pillow_may_add_is_refused_not_guessed() -> None:
    picture = pillow.Image.new("L", (3, 2))
    picture._mode = "XYZ"
    with pytest.raises(pillow.Refused, match="XYZ"):
        images._to_rgb(picture, "", (0, 0, 0))


# More than 8 bits

RAMP = np.linspace(0, 1, 64 * 64).reshape(64, 64)


def test_full_scale_16_bits_divide_by_257() -> None:
    values = (RAMP * 65535).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(read_image(encoded(values, kind)), grey(np.rint(values / 257).astype(np.uint8)))


@pytest.mark.parametrize("order", ["<", ">"])
def test_12_bits_in_16_do_not_come_out_black(order: str) -> None:
    values = (200 + RAMP * 3800).astype(f"{order}u2")
    values[0, 0] = 65535  # one hot pixel
    for kind in ("PNG", "TIFF", "JPEG2000"):
        if kind == "JPEG2000" and order == ">":
            continue  # Pillow writes none
        read = read_image(encoded(values, kind))[..., 0].astype(int)
        np.testing.assert_allclose(read[1:], (RAMP * 255)[1:], atol=2)
        assert read[0, 0] == 255


def test_8_bits_in_a_wider_file_stay_as_they_are() -> None:
    for dtype in (np.uint16, np.int32):
        np.testing.assert_array_equal(read_image(encoded(GREY.astype(dtype), "TIFF")), grey(GREY))


def test_32_bit_integers_use_their_own_range() -> None:
    values = ((RAMP - 0.5) * 2e9).astype(np.int32)
    np.testing.assert_allclose(read_image(encoded(values, "TIFF"))[..., 1], RAMP * 255, atol=2)


def test_few_bright_pixels_are_seen() -> None:
    values = np.full((64, 64), 300, np.uint16)
    values[3, 4] = 2000
    read = read_image(encoded(values, "PNG"))
    assert read[3, 4, 0] == 255
    assert read.max(axis=2).sum() == 255


def test_constant_deep_picture_is_black() -> None:
    for dtype in (np.uint16, np.int32, np.float32):
        assert not read_image(encoded(np.full((4, 5), 1000, dtype), "TIFF")).any()


def test_floats_use_their_own_range() -> None:
    values = (RAMP * 7 - 3).astype(np.float32)
    values[5, :4] = np.nan, np.inf, -np.inf, 4
    read = read_image(encoded(values, "TIFF"))[..., 2].astype(int)
    assert read[5, :4].tolist() == [0, 255, 0, 255]
    np.testing.assert_allclose(read[:5], (RAMP * 255)[:5], atol=1)
    assert not read_image(encoded(np.full((2, 2), np.nan, np.float32), "TIFF")).any()
    extreme = np.array([[np.finfo(np.float32).min, 0, np.finfo(np.float32).max]], np.float32)
    assert read_image(encoded(extreme, "TIFF"))[0, :, 0].tolist() == [0, 128, 255]


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_orientation(kind: str, options: dict[str, object], orientation: int) -> None:
    data = encoded(RGB, kind, exif=exif(orientation), **options)
    upright = turned(RGB, orientation)
    np.testing.assert_array_equal(read_image(data), upright)
    assert image_size(data) == upright.shape[:2]
    np.testing.assert_array_equal(read_image(data, orientation="as_stored"), RGB)
    assert image_size(data, orientation="as_stored") == (HEIGHT, WIDTH)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "MPO", "AVIF"])
def test_orientation_of_lossy_formats(kind: str, orientation: int) -> None:
    data = encoded(SMOOTH, kind, exif=exif(orientation), quality=95)
    upright = turned(SMOOTH, orientation)
    assert image_size(data) == upright.shape[:2]
    assert np.abs(read_image(data).astype(int) - upright).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_behind_the_pixels_of_a_png(orientation: int) -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in RGB)
    data = png(WIDTH, HEIGHT, 8, 2, rows, after=chunk(b"eXIf", exif(orientation).tobytes()[6:]))
    np.testing.assert_array_equal(read_image(data), turned(RGB, orientation))
    assert image_size(data) == turned(RGB, orientation).shape[:2]


@pytest.mark.parametrize(
    "block", [b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0" + b"\xff" * 40, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_damaged_exif_block_does_not_cost_the_picture(kind: str, block: bytes) -> None:
    data = encoded(SMOOTH, kind, exif=block)
    assert read_image(data).shape == (HEIGHT, WIDTH, 3)
    assert image_size(data) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("orientation", [0, 9, 200])
def test_an_orientation_that_does_not_exist_is_upright(orientation: int) -> None:
    np.testing.assert_array_equal(read_image(encoded(RGB, "PNG", exif=exif(orientation))), RGB)


# The first of many


@pytest.mark.parametrize(("kind", "options"), [("TIFF", {}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_first_frame(kind: str, options: dict[str, object]) -> None:
    second = PIL.Image.fromarray(255 - RGB)
    data = encoded(RGB, kind, save_all=True, append_images=[second], **options)
    np.testing.assert_array_equal(read_image(data), RGB)


def test_first_frame_of_gif_and_mpo() -> None:
    data = encoded(GREY, "GIF", save_all=True, append_images=[PIL.Image.fromarray(255 - GREY)])
    np.testing.assert_array_equal(read_image(data), grey(GREY))
    data = encoded(SMOOTH, "MPO", save_all=True, append_images=[PIL.Image.fromarray(255 - SMOOTH)])
    assert np.abs(read_image(data).astype(int) - SMOOTH).mean() < 4


# Damage

FILES = {
    "png": encoded(RGB, "PNG"),
    "png palette": encoded(RGB, "PNG", "P"),
    "apng": encoded(RGB, "PNG", save_all=True, append_images=[PIL.Image.fromarray(255 - RGB)]),
    "jpeg": encoded(RGB, "JPEG"),
    "jpeg progressive": encoded(RGB, "JPEG", progressive=True),
    "jpeg restarts": encoded(RGB, "JPEG", restart_marker_blocks=1),
    "jpeg cmyk": encoded(RGB, "JPEG", "CMYK"),
    **{f"tiff {c}": encoded(RGB, "TIFF", compression=c) for c in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits")},
    "tiff group4": encoded(GREY > 127, "TIFF", compression="group4"),
    "tiff 16": encoded(GREY.astype(np.uint16) * 257, "TIFF"),
    "webp": encoded(RGB, "WEBP"),
    "webp lossless": encoded(RGB, "WEBP", lossless=True),
    "webp frames": encoded(RGB, "WEBP", save_all=True, append_images=[PIL.Image.fromarray(255 - RGB)]),
    "gif": encoded(RGB, "GIF"),
    "gif frames": encoded(RGB, "GIF", save_all=True, append_images=[PIL.Image.fromarray(255 - RGB)]),
    "bmp": encoded(RGB, "BMP"),
    "bmp palette": encoded(RGB, "BMP", "P"),
    "ppm": encoded(RGB, "PPM"),
    "tga": encoded(RGB, "TGA"),
    "tga rle": encoded(RGB, "TGA", compression="tga_rle"),
    "jp2": encoded(RGB, "JPEG2000"),
    "avif": encoded(RGB, "AVIF"),
    "ico": encoded(RGB, "ICO", sizes=[(16, 16)]),
    "pcx": encoded(RGB, "PCX"),
    "sgi": encoded(RGB, "SGI"),
    "qoi": encoded(RGB, "QOI"),
    "dds": encoded(RGB, "DDS"),
}


def outcome(data: bytes) -> np.ndarray | None:
    """The picture, or None where it is refused; anything else that escapes fails the test."""
    try:
        return read_image(data)
    except ImageReadError:
        return None


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_an_error_or_the_whole_picture(name: str) -> None:
    data = FILES[name]
    whole = read_image(data)
    near_the_ends = {*range(40), *range(len(data) - 40, len(data))}
    lengths = sorted(near_the_ends | set(range(0, len(data), max(1, len(data) // 50))))
    parts = [outcome(data[:length]) for length in lengths if 0 <= length < len(data)]
    assert parts[len(parts) // 4] is None  # a quarter of a file is no picture
    for part in parts:
        assert part is None or np.array_equal(part, whole)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6))
def test_changed_bytes_never_escape(name: str, changes: list[tuple[float, int]]) -> None:
    data = bytearray(FILES[name])
    for place, value in changes:
        data[int(place**2 * len(data))] = value  # more of them in the header
    try:
        read = read_image(bytes(data), max_pixels=10**6)
    except ImageReadError:
        return
    assert read.dtype == np.uint8
    assert read.shape[2] == 3


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([b"", *(data[:n] for data in FILES.values() for n in (4, 16, 30))]), st.binary(max_size=200))
def test_random_bytes_never_escape(start: bytes, rest: bytes) -> None:
    for read in (read_image, image_size, images.read_label_map):
        with suppress(ImageReadError):
            read(start + rest, max_pixels=10**6)


def test_a_header_that_claims_too_much_is_refused_before_memory_is_taken() -> None:
    data = png(100_000, 100_000, 8, 2, b"")
    for read in (read_image, image_size, images.read_label_map):
        with pytest.raises(ImageReadError, match=r"too many pixels: 100000 x 100000 = 10,000,000,000 > 89,478,485"):
            read(data)


def test_a_header_that_claims_more_rows_than_there_are() -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in RGB)
    with pytest.raises(ImageReadError, match="truncated"):
        read_image(png(WIDTH, HEIGHT + 1, 8, 2, rows))
    np.testing.assert_array_equal(read_image(png(WIDTH, HEIGHT - 1, 8, 2, rows)), RGB[:-1])


@pytest.mark.parametrize("name", FILES)
def test_the_pixel_limit_is_exact(name: str) -> None:
    height, width = image_size(FILES[name])
    assert read_image(FILES[name], max_pixels=width * height).shape == (height, width, 3)
    for read in (read_image, image_size):
        with pytest.raises(ImageReadError, match=f"too many pixels: {width} x {height} = {width * height} > "):
            read(FILES[name], max_pixels=width * height - 1)


def test_a_mosaic_is_allowed_by_the_caller_alone() -> None:
    data = png(20_000, 20_000, 8, 2, b"")
    assert image_size(data, max_pixels=400_000_000) == (20_000, 20_000)
    with pytest.raises(ImageReadError, match="too many pixels"):
        image_size(data, max_pixels=399_999_999)


def test_not_enough_memory_is_an_image_read_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(images, "_to_rgb", fail)
    with pytest.raises(ImageReadError, match="not enough memory"):
        read_image(FILES["png"])


@pytest.mark.parametrize(
    "error", [SystemError("a"), RecursionError(), KeyError(1), AttributeError("b"), OverflowError()]
)
def test_whatever_a_decoder_raises(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(images, "_decoded", fail)
    with pytest.raises(ImageReadError, match="damaged or truncated") as caught:
        read_image(FILES["png"])
    assert caught.value.__cause__ is error


def test_an_interrupt_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(images, "_decoded", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read_image(FILES["png"])


def test_a_jpeg_that_was_cut_and_closed_is_no_half_grey_picture() -> None:
    for mode in ("RGB", "L", "CMYK"):
        whole = encoded(RGB, "JPEG", mode)
        half = whole[: len(whole) - 120]
        for cut in (half + b"\xff\xd9", half + b"\xff\xd9" + bytes(300), half + bytes(300)):
            with pytest.raises(ImageReadError, match="truncated: the JPEG"):
                read_image(cut)
        np.testing.assert_array_equal(read_image(whole + b"a trailer of the camera"), read_image(whole))


def test_a_grey_jpeg_is_not_taken_for_a_cut_one() -> None:
    for mode in ("RGB", "L"):
        for progressive in (False, True):
            data = encoded(np.full((40, 40, 3), 128, np.uint8), "JPEG", mode, progressive=progressive)
            assert (read_image(data) == 128).all()


@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize("missing", [0, 1, 40])
def test_rows_of_a_png_that_are_black_and_rows_that_are_missing(interlaced: int, missing: int) -> None:
    """Five by five pixels of 16 bits; interlaced they come in seven passes, of so many rows of such widths."""
    widths = [1, 1, 2, 1, 1, 3, 2, 2, 2, 5, 5] if interlaced else [5] * 5
    rows = b"".join(bytes(1 + 2 * width) for width in widths)
    data = bytearray(png(5, 5, 16, 0, rows[: len(rows) - missing]))
    data[28] = interlaced
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    if missing:
        with pytest.raises(ImageReadError, match="truncated"):
            read_image(bytes(data))
    else:
        assert not read_image(bytes(data)).any()


def test_a_tiff_that_lacks_a_strip() -> None:
    data = bytearray(encoded(RGB, "TIFF"))
    entry = data.index(struct.pack("<H", 257))
    struct.pack_into("<I", data, entry + 8, HEIGHT + 30)
    with pytest.raises(ImageReadError, match="truncated"):
        read_image(bytes(data))


# Sources


def test_reasons_are_plain_words(tmp_path: Path) -> None:
    folder, empty, text, link = (tmp_path / name for name in ("folder.jpg", "empty.png", "text.png", "link.png"))
    folder.mkdir()
    empty.touch()
    text.write_text("no picture at all, but long enough to be looked at")
    link.symlink_to(tmp_path / "nowhere.png")
    for path, reason in {
        folder: "is a directory",
        empty: "empty file",
        text: "not a picture in a known format",
        link: "no such file",
        tmp_path / "missing.png": "no such file",
        text / "below.png": "not a directory",
        Path("/dev/null"): "is not a regular file",
    }.items():
        for read in (read_image, image_size, images.read_label_map):
            with pytest.raises(ImageReadError) as caught:
                read(path)
            assert caught.value.path == str(path)
            assert reason in caught.value.reason or (
                read is images.read_label_map and "not a picture" in caught.value.reason
            )
            assert str(caught.value) == f"cannot read {path}: {caught.value.reason}"
    for name in ("a\0b.png", "x" * 300 + ".png"):
        with pytest.raises(ImageReadError):
            read_image(tmp_path / name)


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageReadError, match="not a regular file"):
        read_image(tmp_path / "pipe.jpg")


def test_a_pipe_that_takes_the_place_of_a_file_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    monkeypatch.setattr(images.stat, "S_ISREG", lambda _: True)
    with pytest.raises(ImageReadError):
        read_image(tmp_path / "pipe.jpg")


@pytest.mark.parametrize(
    "name", ["Zellkörper ◉ 细胞 🦠.png", "n" * 246 + ".png", " .png", "-rf.png", "wrong.jpg", "no suffix"]
)
def test_names_do_not_matter(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FILES["png"])
    np.testing.assert_array_equal(read_image(tmp_path / name), RGB)
    np.testing.assert_array_equal(read_image(str(tmp_path / name)), RGB)
    assert image_size(tmp_path / name) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("name", FILES)
def test_paths_bytes_and_file_objects_agree(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(FILES[name])
    expected = read_image(FILES[name])
    np.testing.assert_array_equal(read_image(path), expected)
    with path.open("rb") as file:
        assert image_size(file) == expected.shape[:2]
        assert file.tell() == 0
        np.testing.assert_array_equal(read_image(file), expected)


def test_file_objects_are_read_from_where_they_stand() -> None:
    file = io.BytesIO(b"header" + FILES["png"])
    file.seek(6)
    np.testing.assert_array_equal(read_image(file), RGB)
    assert file.tell() == 6
    with pytest.raises(ImageReadError, match="<file object>"):
        read_image(io.BytesIO(b"text"))


def test_a_closed_file_is_an_image_read_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(FILES["png"])
    with (tmp_path / "a.png").open("rb") as file:
        pass
    with pytest.raises(ImageReadError, match=r"a\.png.*closed"):
        read_image(file)


def test_the_formats_can_be_restricted() -> None:
    assert read_image(FILES["jpeg"], formats=["png", "JPEG"]).shape == RGB.shape
    with pytest.raises(ImageReadError, match="not a picture in PNG or WEBP"):
        read_image(FILES["jpeg"], formats=["WEBP", "PNG"])
    with pytest.raises(ValueError, match="unknown picture formats JPG; known: JPEG, PNG") as caught:
        read_image(FILES["jpeg"], formats=["JPG"])
    assert not isinstance(caught.value, ImageReadError)  # the fault of the call, not of the file
    assert not {"EPS", "WMF", "PDF", "SVG", "MPEG"} & set(pillow.FORMATS)


def test_the_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(ImageReadError("a.png", "empty file")))
    assert (error.path, error.reason, str(error)) == ("a.png", "empty file", "cannot read a.png: empty file")


def test_the_array_is_the_callers_own() -> None:
    for data in (FILES["png"], FILES["tiff 16"], FILES["gif"]):
        read = read_image(data)
        assert read.flags.writeable
        assert read.flags.c_contiguous


# Other libraries


def test_nothing_of_pillow_or_warnings_changes() -> None:
    before = (PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES, PIL.Image._decompression_bomb_check)
    filters, openers = list(warnings.filters), dict(PIL.Image.OPEN)
    for data in FILES.values():
        read_image(data)
        outcome(data[: len(data) // 2])
    after = (PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES, PIL.Image._decompression_bomb_check)
    assert after == before
    assert (list(warnings.filters), dict(PIL.Image.OPEN)) == (filters, openers)
    assert PIL.PngImagePlugin.warnings is warnings


def test_the_settings_of_others_do_not_reach_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL.ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)
    for data in FILES.values():
        read_image(data)
        assert outcome(data[: len(data) // 4]) is None


def test_remarks_of_pillow_are_neither_printed_nor_raised(capfd: pytest.CaptureFixture[str]) -> None:
    odd = png(2, 1, 8, 0, b"\0\7\7", chunk(b"acTL", bytes(8)))
    with pytest.warns(UserWarning, match="Invalid APNG"):
        PIL.Image.open(io.BytesIO(odd)).close()
    for action in ("error", "always"):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter(action)
            np.testing.assert_array_equal(read_image(odd), np.full((1, 2, 3), 7))
        assert not seen
    assert capfd.readouterr() == ("", "")


def test_threads() -> None:
    """Each with a limit of its own, eight at once."""
    names = [name for name in sorted(FILES) for _ in range(20)]
    expected = {name: read_image(data) for name, data in FILES.items()}

    def one(name: str, strict: bool) -> bool:
        height, width = expected[name].shape[:2]
        try:
            return np.array_equal(read_image(FILES[name], max_pixels=width * height - strict), expected[name])
        except ImageReadError as error:
            return strict and "too many" in error.reason

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, names, [i % 2 == 0 for i in range(len(names))]))


def test_no_torch_is_needed() -> None:
    code = "import sys, maskwise.data.images; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_no_other_module_opens_pictures() -> None:
    package = Path(images.__file__).parents[1]
    ours = {Path(images.__file__), Path(pillow.__file__)}
    for path in set(package.rglob("*.py")) - ours:
        code = path.read_text(encoding="utf-8")
        assert not any(way in code for way in ("Image.open(", "imread(", "decode_image(", "read_file(")), path


# Writing and listing


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_png_round_trip(tmp_path_factory: pytest.TempPathFactory, height: int, width: int, seed: int) -> None:
    path = tmp_path_factory.mktemp("round") / "a.png"
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    write_image(path, pixels[::-1, ::-1])
    np.testing.assert_array_equal(read_image(path), pixels[::-1, ::-1])


def test_jpeg_is_written_in_good_quality(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.JPEG"):
        write_image(tmp_path / name, SMOOTH)
        assert np.abs(read_image(tmp_path / name, formats=["JPEG"]).astype(int) - SMOOTH).mean() < 4


def test_writing_refuses_what_it_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a name ending in \.png, \.jpg, \.jpeg"):
        write_image(tmp_path / "a.gif", RGB)
    with pytest.raises(ValueError, match=r"no pixels to write, shape \(0, 5, 3\)"):
        write_image(tmp_path / "a.png", np.zeros((0, 5, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ("n" * 251 + ".png")
    write_image(path, RGB)

    def fail(self: object, file: io.BytesIO, kind: str, **options: object) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(pillow.Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_image(path, 255 - RGB)
    assert list(tmp_path.iterdir()) == [path]
    np.testing.assert_array_equal(read_image(path), RGB)


def test_written_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_image(tmp_path / "a.png", RGB)
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_list_images(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c/d/e.tiff", "c/Z.webp", "ü.jpeg", ".hidden.png", ".git/x.png", "notes.txt", "png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "c" / "loop").symlink_to(tmp_path)
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere")
    names = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert names == ["a.JPG", "b.png", "broken.png", "c/Z.webp", "c/d/e.tiff", "ü.jpeg"]
    assert list_images(str(tmp_path / "folder.jpg")) == []
    with pytest.raises(ValueError, match=r"not a folder: .*b\.png"):
        list_images(tmp_path / "b.png")


def test_list_images_follows_links_to_folders(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").touch()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "elsewhere")
    assert list_images(tmp_path / "root") == [tmp_path / "root" / "linked" / "a.png"]
