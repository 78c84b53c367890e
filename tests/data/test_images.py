"""The decoder on files that the tests write: every mode and format, upright, the first frame; writing and listing."""

import io
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwise.data import images, pillow
from maskwise.data.dataset import Item
from maskwise.data.formats.pictures import put_picture
from maskwise.data.images import (
    ImageReadError,
    count_frames,
    image_size,
    list_images,
    read_image,
    to_bytes,
    write_image,
)
from maskwise.structures import Targets

HEIGHT, WIDTH = 19, 26
PIL.Image.init()
AVIF, QOI = (["AVIF"] * ("AVIF" in PIL.Image.SAVE)), (["QOI"] * ("QOI" in PIL.Image.SAVE))  # not in every Pillow
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
    *(("SGI", {}), ("DDS", {}), ("WEBP", {"lossless": True}), ("JPEG2000", {"no_jp2": True})),
    *(("TIFF", {"compression": name}) for name in (None, "packbits", "tiff_lzw", "tiff_adobe_deflate")),
    ("JPEG2000", {}),
    *((name, {}) for name in QOI),
]


@pytest.mark.parametrize(("kind", "options"), LOSSLESS)
def test_rgb_comes_back_exactly(kind: str, options: dict[str, object]) -> None:
    data = encoded(RGB, kind, **options)
    np.testing.assert_array_equal(read_image(data), RGB)
    assert image_size(data) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "MPO", *AVIF])
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


COLOURS = [("CMYK", "TIFF"), ("CMYK", "JPEG"), ("YCbCr", "JPEG")]
if int(PIL.__version__.split(".")[0]) >= 13:  # before, Pillow refused its own YCbCr TIFFs
    COLOURS.append(("YCbCr", "TIFF"))


@pytest.mark.parametrize(("mode", "kind"), COLOURS)
def test_printing_and_video_colours(mode: str, kind: str) -> None:
    data = encoded(SMOOTH, kind, mode)
    assert np.abs(read_image(data).astype(int) - SMOOTH).mean() < 4


def test_lab() -> None:
    """Lightness 0, 50 and 100 are black, the grey 119 of sRGB, and white; a and b of zero are stored as zero."""
    lab = PIL.Image.merge("LAB", [PIL.Image.fromarray(np.array([[v]], np.uint8)) for v in (128, 128, 128)])
    assert np.abs(read_image(saved(lab, "TIFF"))[0, 0].astype(int) - 119).max() <= 2
    red = PIL.Image.merge("LAB", [PIL.Image.fromarray(np.array([[v]], np.uint8)) for v in (136, 128 + 81, 128 + 70)])
    assert np.abs(read_image(saved(red, "TIFF"))[0, 0].astype(int) - (255, 0, 0)).max() <= 12


PLAIN = images._Stored("", None, white_is_zero=False)


@pytest.mark.parametrize("mode", ["HSV", "RGBX", "YCbCr", "CMYK", "RGBa", "La", "PA", "P", "1", "L", "LA", "RGBA"])
def test_every_mode_of_pillow_that_no_file_need_have(mode: str) -> None:
    colour = pillow.Image.new("RGB", (3, 2), (90, 90, 90))
    way = {"La": ["L", "LA", "La"], "RGBa": ["RGBA", "RGBa"], "PA": ["P", "PA"]}.get(mode, [mode])
    for step in way:
        colour = colour.convert(step, palette=pillow.Image.Palette.ADAPTIVE)
    rgb = images._to_rgb(colour, PLAIN, (0, 0, 0))
    assert rgb.shape == (2, 3, 3)
    assert mode == "1" or np.abs(rgb.astype(int) - 90).max() <= 2


def test_a_mode_that_pillow_may_add_is_refused_not_guessed() -> None:
    picture = pillow.Image.new("L", (3, 2))
    picture._mode = "XYZ"
    with pytest.raises(pillow.Refused, match="XYZ"):
        images._to_rgb(picture, PLAIN, (0, 0, 0))


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
@pytest.mark.parametrize("kind", ["JPEG", "MPO", *AVIF])
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


def test_a_column_of_16_bits_takes_no_longer_than_a_row() -> None:
    tall = np.arange(200_000, dtype=np.uint16)[:, None]
    began = time.process_time()
    found = to_bytes(tall)
    assert time.process_time() - began < 0.5
    assert np.array_equal(found[:, 0], to_bytes(tall.T)[0])


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


@pytest.mark.parametrize("count", [1, 2, 3, 8, 10])
def test_the_first_bytes_of_a_picture_are_called_truncated(count: int) -> None:
    with pytest.raises(ImageReadError) as caught:
        read_image(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"[:count])
    assert "truncated" in caught.value.reason
    assert "unpack" not in caught.value.reason


def test_a_folder_that_is_closed_to_us_is_passed_over(tmp_path: Path, monkeypatch, caplog) -> None:
    for place in ("a.png", "lost/b.png"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        write_image(tmp_path / place, RGB)
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path / "lost")
    assert list_images(tmp_path) == [tmp_path / "a.png"]
    assert caplog.messages == [f"{tmp_path / 'lost'}: closed to us, passed over"]


def test_names_as_long_as_a_file_system_takes_are_linked(tmp_path, picture):
    image = picture(tmp_path / ("ü" * 125 + ".png"))
    item = Item(name=image.name, size=(6, 8), labelled=Targets.none((6, 8)), image=image, link=True)
    target = tmp_path / "out" / image.name
    assert put_picture(item, target) == [target]
    assert target.readlink() == image.resolve()
    assert [path.name for path in target.parent.iterdir()] == [image.name]


@pytest.mark.parametrize("link", [False, True])
def test_a_picture_that_lies_there_already_is_never_linked_to_itself(tmp_path, picture, link):
    image = picture(tmp_path / "a.png")
    before, alias = image.read_bytes(), tmp_path / "b.png"
    alias.symlink_to(image)
    for source in (image, alias):
        item = Item(name="a.png", size=(6, 8), labelled=Targets.none((6, 8)), image=source, link=link)
        assert put_picture(item, image) == []
    assert put_picture(item, alias) == []
    assert image.read_bytes() == before
    assert not image.is_symlink()
    assert alias.is_symlink()


@given(st.data())
def test_frames_of_a_gif_are_counted_as_pillow_counts_them(data):
    """Also of one that is cut off or has been changed."""
    several = [PIL.Image.fromarray(np.full((4, 4, 3), 60 * i, np.uint8)) for i in range(4)]
    file = io.BytesIO()
    several[0].save(file, "GIF", save_all=True, append_images=several[1:], comment=b"," * 300, loop=3)
    content = bytearray(file.getvalue()[: data.draw(st.integers(20, len(file.getvalue())))])
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(13, len(content) - 1), st.integers(0, 255)), max_size=3)
    ):
        content[place] = value
    try:
        expected = PIL.Image.open(io.BytesIO(content)).n_frames
    except Exception:  # it is no picture at all
        return
    assert count_frames(bytes(content)) == expected


def test_frames_of_a_gif_are_counted_no_further_than_asked():
    file = io.BytesIO()
    PIL.Image.new("P", (1, 1)).save(file, "GIF")
    head, _, frame = file.getvalue().partition(b",")
    content = head + b"," + frame.removesuffix(b";") + 10**6 * (b"," + frame.removesuffix(b";"))
    start = time.perf_counter()
    assert count_frames(content) == 1000
    assert time.perf_counter() - start < 0.5
