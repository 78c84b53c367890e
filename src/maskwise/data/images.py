"""Pictures and label maps, in and out: the one image decoder of the package.

Every picture becomes `h w 3` bytes of RGB in the upright frame, and every failure is one `ImageReadError`. Colour
profiles are not applied. Of animations and multi-page files the first frame is read.

More than 8 bits. Pillow's `convert` clips them to white; here grey pictures of 16 or 32 bits are scaled so:

* no value above 255: taken as they are;
* the 99.9th percentile in the upper half of 16 bits: a full-scale picture, value / 257;
* otherwise, as with 12 bits of a microscope in a 16-bit file: the 0.1th to 99.9th percentile become 0 to 255.

Floating point: the smallest to the largest finite value become 0 to 255; NaN is black, an infinity black or white.
Of 16-bit colour Pillow hands out the upper byte only, which is the same as value / 257 but for rounding.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple

import numpy as np
from jaxtyping import Int32, Integer, Shaped, UInt8

from maskwise.data import gif, pillow, png
from maskwise.data.complete import load_whole
from maskwise.data.files import is_open, replacing
from maskwise.data.pillow import Refused

if TYPE_CHECKING:
    from PIL import Image, ImageFile
else:
    from maskwise.data.pillow import Image

Source = Path | str | bytes | BinaryIO | BufferedIOBase
"""A file by its name, the bytes of a file, or a file opened in binary mode (read from its position, then put back)."""
Orientation = Literal["upright", "as_stored"]

MAX_PIXELS = 89_478_485
"""Pillow's own default: 256 MiB of 24-bit pixels. An error here, never a warning."""
_allowed: ContextVar[int] = ContextVar("allowed", default=MAX_PIXELS)

IMAGE_SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".tif", ".tiff", ".webp", ".avif"}
) | {*(".bmp", ".dib", ".gif", ".jp2", ".j2k", ".jpc", ".pbm", ".pgm", ".pnm", ".ppm", ".qoi", ".sgi", ".tga")}
"""Names that `list_images` takes for pictures, in lower case."""

MOST_FRAMES = 1000
"""More are not counted: that of a long stack would take longer than to read its first page."""

_ORIENTATION_TAG = 0x0112
_SMALLER_TAG = 0x00FE  # bit 0: a page shows another one smaller
_SERIES = ("TIFF", "GIF", "PNG", "WEBP", "AVIF", "DCX", "FLI")  # of pictures; in others they are layers or previews
_INVERSE = {6: 8, 8: 6}  # of the EXIF orientations; the others are their own
_ID_FORMATS = ("PNG", "TIFF", "BMP", "GIF")  # they keep numbers; a JPEG changes them
_LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")
_STRETCH = {"L;2": 85, "L;4": 17}  # by which Pillow multiplies 2- and 4-bit grey to fill a byte
_SAVED_AS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF"}
_SAVE_OPTIONS = {"PNG": {}, "JPEG": {"quality": 95}, "TIFF": {"compression": "tiff_adobe_deflate"}}


class ImageReadError(ValueError):
    """A picture that could not be read: which one, and why in plain words."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # both, so that it survives pickling between processes
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read {self.path}: {self.reason}"


@contextmanager
def allowing(max_pixels: int) -> Iterator[None]:
    """Inside, this is the limit of every call that names none: readers of formats ask pictures for their sizes deep
    inside, and only whoever called them knows that mosaics are wanted."""
    token = _allowed.set(max_pixels)
    try:
        yield
    finally:
        _allowed.reset(token)


def read_image(
    source: Source,
    *,
    max_pixels: int | None = None,
    formats: Sequence[str] | None = None,
    background: tuple[int, int, int] = (255, 255, 255),
    orientation: Orientation = "upright",
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture as RGB, turned upright by its EXIF orientation, transparency laid over `background`.

    `formats` (Pillow's names) restricts what is tried; `max_pixels` is compared with the header before memory is taken;
    without it the limit is `MAX_PIXELS`, or what `allowing` says.
    """
    with _opened(source, max_pixels, formats) as picture:
        stored = _stored_as(picture)
        return _to_rgb(_decoded(picture, orientation), stored, background)


class Header(NamedTuple):
    size: tuple[int, int]
    """Height and width of what `read_image` would return."""
    turned: int
    """The EXIF orientation by which it turns the picture upright, 2 to 8; 1 where it does not."""


def image_size(
    source: Source,
    *,
    max_pixels: int | None = None,
    formats: Sequence[str] | None = None,
    orientation: Orientation = "upright",
) -> tuple[int, int]:
    """Height and width of what `read_image` would return, from the header alone."""
    return read_header(source, max_pixels=max_pixels, formats=formats, orientation=orientation).size


def read_header(
    source: Source,
    *,
    max_pixels: int | None = None,
    formats: Sequence[str] | None = None,
    orientation: Orientation = "upright",
) -> Header:
    """What `read_image` would return, without decoding it."""
    with _opened(source, max_pixels, formats) as picture:
        width, height = _stored_size(picture)
        turned = _exif_orientation(picture) if orientation == "upright" else 1
        return Header((width, height) if turned >= 5 else (height, width), turned)


def count_frames(source: Source, *, max_pixels: int | None = None) -> int:
    """Pages of a TIFF, or frames of an animation, up to `MOST_FRAMES`; `read_image` takes the first one."""
    with _opened(source, max_pixels, None) as picture:
        if picture.format not in _SERIES:
            return 1
        if picture.format == "GIF":
            return gif.count_frames(_file_of(picture), MOST_FRAMES)
        return _pages(picture) if picture.format == "TIFF" else min(getattr(picture, "n_frames", 1), MOST_FRAMES)


def read_label_map(
    path: Source, *, max_pixels: int | None = None, orientation: Orientation = "upright"
) -> Int32[np.ndarray, "h w"]:
    """The ids of a label map, exactly as stored: palette positions, grey values of 1 to 32 bits, whole floats.

    Colours are accepted only where they are grey and opaque: any other coding of ids as colours is for its reader to
    undo. Turned upright as pictures are.
    """
    with _opened(path, max_pixels, _ID_FORMATS) as picture:
        if (compression := picture.info.get("compression")) in _LOSSY_TIFF:
            raise Refused(f"{compression} compression changes ids; store label maps without loss")
        raw_mode = pillow.raw_mode(picture)
        return _to_ids(_decoded(picture, orientation), raw_mode)


def write_image(path: Path | str, pixels: UInt8[np.ndarray, "h w 3"]) -> None:
    """Write RGB as PNG or JPEG, by the suffix. The file appears whole or not at all."""
    _write(Path(path), pixels, (".png", ".jpg", ".jpeg"))


def write_label_map(path: Path | str, ids: Integer[np.ndarray, "h w"]) -> None:
    """Write ids as 16-bit grey PNG or TIFF, by the suffix. The file appears whole or not at all."""
    if ids.size and not (ids.min() >= 0 and ids.max() <= 65535):
        wrong = ids.max() if ids.max() > 65535 else ids.min()
        raise ValueError(f"{path}: a 16-bit label map holds ids 0 to 65535, got {wrong}")
    _write(Path(path), ids.astype(np.uint16), (".png", ".tif", ".tiff"))


def _write(path: Path, pixels: Shaped[np.ndarray, "h w *c"], suffixes: tuple[str, ...]) -> None:
    if (suffix := path.suffix.lower()) not in suffixes:
        raise ValueError(f"{path}: expected a name ending in {', '.join(suffixes)}")
    if not pixels.size:
        raise ValueError(f"{path}: no pixels to write, shape {pixels.shape}")
    kind = _SAVED_AS[suffix]
    with replacing(path) as file:
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, kind, **_SAVE_OPTIONS[kind])


def list_images(folder: Path | str) -> list[Path]:
    """The pictures in a folder and its subfolders by suffix, sorted; hidden files and folders are passed over.

    Links are followed; a folder that a link leads to again is entered once. A broken link is listed: reading it fails.
    Closed folders in it are passed over.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"not a folder: {folder}")
    return sorted(_walk(folder, set()), key=lambda path: path.relative_to(folder).parts)


def _walk(folder: Path, seen: set[Path]) -> Iterator[Path]:
    if (real := folder.resolve()) in seen:
        return
    seen.add(real)
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _walk(path, seen) if is_open(path) else ()
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            yield path


# Opening: one boundary through which every failure leaves as an ImageReadError.


@contextmanager
def _opened(source: Source, max_pixels: int | None, formats: Sequence[str] | None) -> "Iterator[ImageFile.ImageFile]":
    chosen = pillow.chosen_formats(formats)
    limit = _allowed.get() if max_pixels is None else max_pixels
    try:
        with pillow.at_most(limit), _file(source) as file, pillow.open_picture(file, chosen) as picture:
            yield picture
    except Exception as error:  # decoders raise some fifteen kinds; all mean that this file is not readable
        raise ImageReadError(_name(source), _reason(error)) from error


def _name(source: Source) -> str:
    match source:
        case bytes():
            return f"<{len(source):,} bytes>"
        case str() | Path():
            return str(source)
        case _:
            name = getattr(source, "name", None)
            return name if isinstance(name, str) else "<file object>"


def _reason(error: Exception) -> str:
    match error:
        case Refused():
            return str(error)
        case FileNotFoundError():
            return "no such file"
        case MemoryError():
            return "not enough memory"
        case OSError(strerror=str(words)):
            return words.lower()
        case _:
            return f"damaged or truncated ({str(error) or type(error).__name__})"


@contextmanager
def _file(source: Source) -> Iterator[BufferedIOBase]:
    match source:
        case bytes():
            yield BytesIO(source)
        case str() | Path():
            with _regular_file(source) as file:
                yield file
        case _:
            yield BytesIO(_rest(source))


def _regular_file(path: Path | str) -> BufferedIOBase:
    kind = Path(path).stat().st_mode
    if stat.S_ISDIR(kind):
        raise Refused("is a directory")
    if not stat.S_ISREG(kind):
        raise Refused("is not a regular file")
    # A pipe that takes the file's place between the two calls must not block us either.
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))


def _rest(file: BinaryIO | BufferedIOBase) -> bytes:
    start = file.tell() if file.seekable() else None
    data = file.read()
    if start is not None:
        file.seek(start)
    if not isinstance(data, bytes):
        raise Refused(f"a file opened in binary mode is needed, this one gives {type(data).__name__}")
    return data


def _pages(picture: "ImageFile.ImageFile") -> int:
    """The same picture in smaller, as large scans have it, is none; the first that cannot be read is the last."""
    count = 1
    for i in range(1, MOST_FRAMES):
        try:
            picture.seek(i)
            count += not getattr(picture, "tag_v2", {}).get(_SMALLER_TAG, 0) & 1
        except Exception:  # decoders raise some fifteen kinds; the usual one says that there are no more
            break
    return count


# Orientation: read before decoding, from the header, so that image_size and read_image always agree.


def _exif_orientation(picture: "ImageFile.ImageFile") -> int:
    """1 to 8; 1 also where the EXIF block is damaged, as every viewer has it."""
    try:
        if picture.format == "PNG" and "exif" not in picture.info and (block := png.exif_at_end(_file_of(picture))):
            picture.info["exif"] = b"Exif\0\0" + block
        # The method of the base class: that of PNG decodes the whole picture first.
        value = Image.Image.getexif(picture).get(_ORIENTATION_TAG, 1)
    except Exception:
        return 1
    return value if value in range(1, 9) else 1


def _file_of(picture: "ImageFile.ImageFile") -> BufferedIOBase:
    assert isinstance(picture.fp, BufferedIOBase)
    return picture.fp


def _stored_size(picture: "ImageFile.ImageFile") -> tuple[int, int]:
    """Width and height before turning; for TIFF Pillow says them after turning."""
    tags = getattr(picture, "tag_v2", None)
    return picture.size if tags is None else (tags[256], tags[257])


def _decoded(picture: "ImageFile.ImageFile", orientation: Orientation) -> "Image.Image":
    """The picture with its pixels, in the frame asked for."""
    turn = _exif_orientation(picture)
    load_whole(picture)
    is_upright = picture.format == "TIFF"  # Pillow turns these, and only these, while it loads them
    if (orientation == "upright") == is_upright:
        return picture
    return _turned(picture, _INVERSE.get(turn, turn) if is_upright else turn)


def _turned(picture: "Image.Image", turn: int) -> "Image.Image":
    how = Image.Transpose
    methods = (how.FLIP_LEFT_RIGHT, how.ROTATE_180, how.FLIP_TOP_BOTTOM)
    methods += (how.TRANSPOSE, how.ROTATE_270, how.TRANSVERSE, how.ROTATE_90)
    return picture if turn == 1 else picture.transpose(methods[turn - 2])


# Colour


class _Stored(NamedTuple):
    """How a file keeps a pixel; known only before decoding."""

    mode: str
    """as Pillow names it"""
    numbers: type[np.generic] | None
    """of a TIFF with one number a pixel, where Pillow takes another sign for granted"""
    white_is_zero: bool
    """which Pillow heeds where numbers are bytes"""


def _stored_as(picture: "ImageFile.ImageFile") -> _Stored:
    tags = getattr(picture, "tag_v2", {})  # of a TIFF
    bits, kind = (tags.get(tag, (1,))[0] for tag in (258, 339))
    numbers = {(8, 2): np.int8, (32, 1): np.uint32}.get((bits, kind)) if tags.get(277, 1) == 1 else None
    return _Stored(pillow.raw_mode(picture), numbers, white_is_zero=tags.get(262) == 0)


def _to_rgb(picture: "Image.Image", stored: _Stored, background: tuple[int, int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Every mode by name: one that Pillow adds some day is refused, not guessed."""
    match picture.mode:
        case "RGB":
            rgb = _pixels(picture)
        case "CMYK" | "YCbCr" | "LAB" | "HSV" | "RGBX":
            return _pixels(picture.convert("RGB"))
        case "P" if "transparency" not in picture.info and not _has_alpha(picture):
            return _pixels(picture.convert("RGB"))
        case "P" | "PA" | "LA" | "RGBA":
            return _pixels(_over(picture.convert("RGBA"), background))
        case "La" | "RGBa":
            return _pixels(_over(picture.convert(picture.mode.upper()).convert("RGBA"), background))
        case "1" | "L" if stored.numbers is None:
            rgb = _pixels(picture.convert("RGB"))
        case "L" | "I" | "F" | "I;16" | "I;16L" | "I;16B" | "I;16N":
            values = np.asarray(picture)
            grey = to_bytes(values if stored.numbers is None else values.view(stored.numbers))
            rgb = np.repeat((255 - grey if stored.white_is_zero else grey)[..., None], 3, axis=2)
        case mode:
            raise Refused(f"pixels of kind {mode} are not supported")
    if (key := picture.info.get("transparency")) is not None:
        # Of 16-bit colour Pillow keeps the upper byte, so the key is compared by that.
        if picture.mode == "RGB":
            is_key = (rgb == np.right_shift(key, 8 if ";16" in stored.mode else 0)).all(axis=2)
        else:
            is_key = _numbers(picture, stored.mode) == (key > 0 if picture.mode == "1" else key)
        rgb[is_key] = background
    return rgb


def _has_alpha(picture: "Image.Image") -> bool:
    return picture.palette is not None and picture.palette.mode.endswith("A")


def _over(picture: "Image.Image", background: tuple[int, int, int]) -> "Image.Image":
    canvas = Image.new("RGB", picture.size, background)
    canvas.paste(picture, mask=picture)
    return canvas


def _pixels(picture: "Image.Image") -> UInt8[np.ndarray, "h w 3"]:
    """Copy RGB out of Pillow. In strips: `np.asarray` needs twice the memory, and gives an array nobody may write."""
    width, height = picture.size
    out = np.empty((height, width, 3), np.uint8)
    rows = max(1, 2**18 // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        out[top:bottom] = np.asarray(picture.crop((0, top, width, bottom)))
    return out


def to_bytes(values: Shaped[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w *c"]:
    """Scale numbers of more than 8 bits by the rule at the top of this file, all channels alike."""
    low, high = _range(values)
    scale = 255 / (high - low) if high > low else 0.0
    out = np.empty(values.shape, np.uint8)
    with np.errstate(invalid="ignore", over="ignore"):  # infinity x 0
        rows = max(1, 2**18 // values[0].size)
        for top in range(0, len(values), rows):
            scaled = (values[top : top + rows].astype(np.float64) - low) * scale
            out[top : top + rows] = np.rint(np.nan_to_num(np.clip(scaled, 0, 255), nan=0))
    return out


def _range(values: Shaped[np.ndarray, "h w *c"]) -> tuple[float, float]:
    """What becomes 0 and what becomes 255."""
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        lowest = float(np.min(values, initial=np.inf, where=finite))
        highest = float(np.max(values, initial=-np.inf, where=finite))
        return (lowest, highest) if finite.any() else (0, 0)
    lowest, highest = int(values.min()), int(values.max())
    if lowest >= 0 and highest <= 255:
        return 0, 255
    step = max(1, int(np.sqrt(values.size / 2**20)))
    low, high = (float(v) for v in np.percentile(values[::step, ::step], (0.1, 99.9)))
    if lowest >= 0 and highest <= 65535 and high >= 2**15:
        return 0, 65535
    return (low, high) if high > low else (lowest, highest)


# Ids


def _numbers(picture: "Image.Image", raw_mode: str) -> Shaped[np.ndarray, "h w"]:
    """The numbers of a picture with one channel as the file has them."""
    return np.asarray(picture) // _STRETCH.get(raw_mode.rstrip("R"), 1)


def _to_ids(picture: "Image.Image", raw_mode: str) -> Int32[np.ndarray, "h w"]:
    match picture.mode:
        case "RGB" | "RGBA" | "LA":
            return _grey(np.asarray(picture), picture.mode, raw_mode).astype(np.int32)
        case "L" if raw_mode.rstrip("R").endswith("I"):
            raise Refused("white is zero in this TIFF, so it is unclear whether its ids count down from 255")
        case "1":
            return np.asarray(picture).astype(np.int32)
        case "F":
            return _whole(np.asarray(picture))
        case "P" | "L" | "I" | "I;16" | "I;16L" | "I;16B" | "I;16N":
            ids = _numbers(picture, raw_mode).astype(np.int32)
        case mode:
            raise Refused(f"a label map has one number a pixel, not {mode}")
    if (lowest := ids.min()) < 0:
        raise Refused(f"ids must not be negative, found {lowest}")
    return ids


def _grey(pixels: UInt8[np.ndarray, "h w c"], mode: str, raw_mode: str) -> UInt8[np.ndarray, "h w"]:
    if ";16" in raw_mode:
        raise Refused("16-bit colours cannot be read as ids without loss; store one 16-bit channel")
    if mode.endswith("A") and (pixels[..., -1] != 255).any():
        raise Refused("a label map with transparency: unclear which ids are meant")
    if mode.startswith("RGB") and (pixels[..., :2] != pixels[..., 1:3]).any():
        raise Refused("a label map has one number a pixel, this is a picture in colours")
    return pixels[..., 0]


def _whole(values: Shaped[np.ndarray, "h w"]) -> Int32[np.ndarray, "h w"]:
    # Above 2^24 neighbouring ids share one float.
    if not ((values >= 0) & (values <= 2**24) & (values == np.rint(values))).all():
        raise Refused("ids must be whole numbers from 0 to 16,777,216; this TIFF holds others")
    return values.astype(np.int32)
