"""A Pillow of our own: a second instance of its Python modules, under a private name, beside the one users import.

Pillow is steered by globals: `Image.MAX_IMAGE_PIXELS` (checked again inside several plugins), the wide-spread
`ImageFile.LOAD_TRUNCATED_IMAGES = True` that turns half a file into a half-grey picture, and the filters of `warnings`,
which make a harmless remark about a tag a failure under `-W error`. To set them for one call would change them for
every thread and library of the process. Importing the same source files once more gives
modules whose globals nobody else sees; the compiled half of Pillow keeps no such state and is shared (so what libtiff
prints about a damaged file is still printed). Costs about 0.1 s, once, and no copy of a picture.

Here one picture is opened, within a limit of pixels and a list of formats. `images.py` is the only caller.
"""

import importlib
import importlib.util
import logging
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from io import BufferedIOBase
from types import ModuleType, SimpleNamespace
from typing import IO, TYPE_CHECKING, cast

import PIL

if TYPE_CHECKING:
    from PIL import Image, ImageFile

_NAME = "_maskwise_pillow"
_SIGNATURE = 16
"""Bytes by which formats are told apart."""
_COMPILED = ("_imaging", "_imagingcms", "_webp", "_avif")

# What Pillow reads, likeliest first, less what is no picture by itself (Bufr, Grib, Hdf5, Wmf, Mpeg: a program of yours
# must draw them; Fpx and Mic: need another package) and Eps, which hands the file to a Ghostscript process.
# Mpo is a Jpeg with more pictures behind the first one, and read as a Jpeg.
_PLUGINS = (
    *("Jpeg", "Png", "Tiff", "WebP", "Bmp", "Gif", "Avif", "Jpeg2K", "Ppm", "Tga", "Ico", "Cur", "Icns", "Psd", "Dds"),
    *("Qoi", "Sgi", "Pcx", "Dcx", "Sun", "Msp", "Xbm", "Xpm", "Fli", "Fits", "Blp", "Ftex", "Gbr", "Im", "Imt", "Iptc"),
    *("McIdas", "Pcd", "Pixar", "Spider", "XVThumb"),
)


class Refused(Exception):
    """We will not read this file; the text is the reason, in plain words."""


_most_pixels: ContextVar[int] = ContextVar("most_pixels", default=sys.maxsize)


@contextmanager
def at_most(pixels: int) -> Iterator[None]:
    """Inside, a picture with more pixels is refused before memory is taken for it."""
    token = _most_pixels.set(pixels)
    try:
        yield
    finally:
        _most_pixels.reset(token)


def check_pixels(size: tuple[float, float], **_: object) -> None:
    """Stands where Pillow compares with its global limit, in `open` and inside its plugins."""
    width, height = size
    if width * height > (most := _most_pixels.get()):
        raise Refused(f"too many pixels: {width} x {height} = {width * height:,} > {most:,}")


def _instance() -> ModuleType:
    for name in _COMPILED:
        with suppress(ImportError):  # a Pillow built without WebP, AVIF or LittleCMS
            sys.modules[f"{_NAME}.{name}"] = importlib.import_module(f"PIL.{name}")
    spec = importlib.util.spec_from_file_location(_NAME, PIL.__file__, submodule_search_locations=list(PIL.__path__))
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = package
    spec.loader.exec_module(package)
    image = importlib.import_module(f"{_NAME}.Image")
    for plugin in _PLUGINS:
        with suppress(ImportError):  # a format that this version of Pillow does not know
            importlib.import_module(f"{_NAME}.{plugin}ImagePlugin")
    return image


def _make_silent() -> None:
    silent = SimpleNamespace(warn=lambda *_, **__: None)
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{_NAME}.") and "warnings" in vars(module):
            vars(module)["warnings"] = silent
    logging.getLogger(_NAME).propagate = False
    logging.getLogger(_NAME).addHandler(logging.NullHandler())


if not TYPE_CHECKING:
    Image = _instance()
    _make_silent()
    Image._decompression_bomb_check = check_pixels
    # The plain class, not Pillow's factory, which would parse the index of a multi-picture file.
    Image.OPEN["JPEG"] = (sys.modules[f"{_NAME}.JpegImagePlugin"].JpegImageFile, Image.OPEN["JPEG"][1])

# Formats without a signature come last: an icon could pass for a TGA.
FORMATS: tuple[str, ...] = tuple(sorted(Image.ID, key=lambda name: Image.OPEN[name][1] is None))
"""Names of the formats that can be read, as Pillow calls them."""


def chosen_formats(names: Sequence[str] | None) -> tuple[str, ...]:
    """The formats to try: all, or the ones named."""
    if names is None:
        return FORMATS
    wanted = {name.upper() for name in names}
    if unknown := sorted(wanted - set(FORMATS)):
        raise ValueError(f"unknown picture formats {', '.join(unknown)}; known: {', '.join(FORMATS)}")
    return tuple(name for name in FORMATS if name in wanted)


def open_picture(file: BufferedIOBase, formats: Sequence[str] = FORMATS) -> "ImageFile.ImageFile":
    """The picture in `file`, its header read and its size within the limit, its pixels not decoded.

    Does what `Image.open` does, and keeps the complaint of the first format that recognised the file.
    """
    file.seek(0)
    prefix = file.read(_SIGNATURE)
    if not prefix:
        raise Refused("empty file")
    complaint: Refused | None = None
    for name in formats:
        factory, accept = Image.OPEN[name]
        if accept is not None and not _is_accepted(accept, prefix):
            continue
        file.seek(0)
        try:
            picture = factory(cast("IO[bytes]", file), "")
            check_pixels(picture.size)
            return picture
        except Refused:
            raise
        except Exception as error:  # each plugin fails in its own way
            if accept is not None and complaint is None:
                complaint = Refused(f"damaged or unsupported {name} ({_words(error)})")
    if complaint is None and len(prefix) < _SIGNATURE:
        complaint = Refused(f"no picture, or truncated: {len(prefix)} bytes")
    raise complaint or Refused(f"not a picture in {'a known format' if formats is FORMATS else ' or '.join(formats)}")


def _words(error: Exception) -> str:
    """Plugins take a header apart before they know that there is one."""
    if isinstance(error, struct.error) or isinstance(error.__cause__, struct.error):
        return "truncated"
    return str(error) or type(error).__name__


def _is_accepted(accept: "Callable[[bytes], bool | str]", prefix: bytes) -> bool:
    """Some look for more than a short file has."""
    try:
        return accept(prefix) is True
    except (struct.error, IndexError):
        return False


def raw_mode(picture: "ImageFile.ImageFile") -> str:
    """How the file stores a pixel, as Pillow names it ("RGB;16B", "L;4"); known only before decoding."""
    args = picture.tile[0].args if picture.tile else None
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""
