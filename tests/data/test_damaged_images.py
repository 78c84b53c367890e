"""What is no picture, or no whole one, from any source: one error with a reason. And nothing of Pillow is changed."""

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
from maskwise.data.images import ImageReadError, image_size, read_image

HEIGHT, WIDTH = 19, 26
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
GREY = RGB[..., 0]
PIL.Image.init()
NEWER = sorted({"AVIF", "QOI"} & set(PIL.Image.SAVE))  # not every Pillow writes them


def encoded(pixels: np.ndarray, kind: str, mode: str | None = None, **options: object) -> bytes:
    """The bytes of a file of this kind; `mode` converts first."""
    file = io.BytesIO()
    picture = PIL.Image.fromarray(pixels)
    (picture if mode is None else picture.convert(mode)).save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *before: tuple[bytes, bytes]) -> bytes:
    """A PNG by hand, for what Pillow does not write. `rows` with their filter bytes."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), *before, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        body += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return body


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
    **{name: encoded(RGB, name) for name in NEWER},
    "ico": encoded(RGB, "ICO", sizes=[(16, 16)]),
    "pcx": encoded(RGB, "PCX"),
    "sgi": encoded(RGB, "SGI"),
}
if int(PIL.__version__.split(".")[0]) >= 13:  # before, Pillow filled what a DDS lacks with black
    FILES["dds"] = encoded(RGB, "DDS")


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


def test_a_small_tiff_of_one_huge_tile_is_refused_before_memory_is_taken() -> None:
    tile = zlib.compress(bytes(2000 * 2000))
    tags = [(256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1), (322, 2000), (323, 2000)]
    tags += [(324, 8 + 2 + 12 * 10 + 4), (325, len(tile))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    data = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + tile
    assert read_image(data, max_pixels=2000 * 2000).shape == (16, 16, 3)
    with pytest.raises(ImageReadError, match="too many pixels: 2000 x 2000"):
        read_image(data, max_pixels=2000 * 2000 - 1)


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
    odd = png(2, 1, 8, 0, b"\0\7\7", (b"acTL", bytes(8)))
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
