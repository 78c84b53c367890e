"""Decoding that refuses a picture of which a part was not in the file.

Mostly Pillow does, but what some formats lack it leaves black, or libjpeg grey, without a word.
"""

import re
from collections.abc import Mapping
from io import BufferedIOBase, BytesIO
from typing import TYPE_CHECKING, Any

from maskwise.data import png
from maskwise.data.pillow import Refused, check_pixels, open_picture, raw_mode

if TYPE_CHECKING:
    from PIL import ImageFile

_END = b"\xff\xd9"  # of JPEG and JPEG 2000; inside their pixel data these two bytes cannot follow each other
_SCAN = b"\xff\xda"  # of JPEG, likewise
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # not those that stand inside a scan

_MOST_SCANS = 100  # as in libtiff; each is worked through for the whole picture, however few bytes it has
_MOST_SEGMENTS = 10_000


def load_whole(picture: "ImageFile.ImageFile") -> None:
    """Decode the pixels."""
    file, tiles, stored = picture.fp, picture.tile, raw_mode(picture)
    assert isinstance(file, BufferedIOBase)
    start = file.tell()
    tags = getattr(picture, "tag_v2", None)  # of a TIFF
    if tags is not None and 324 in tags:  # a tile is decoded whole, however little of it is in the picture
        check_pixels((tags[322], tags[323]))
    if tags is not None and not _has_all_strips(tags):
        raise Refused("truncated: the TIFF has fewer strips or tiles than its size needs")
    if tags is not None and _is_misread(tags):
        raise Refused("more than 8 bits in a plane for each colour, uncompressed; store the colours pixel by pixel")
    if picture.format == "JPEG":
        _check_scans(_from(file, start))
    picture.load()
    match picture.format:
        case "PNG" if _may_lack_rows(picture) and not png.has_all_rows(file, tiles[0].offset - 8):
            raise Refused("truncated: the PNG has fewer rows than its header claims")
        case "JPEG":
            _check_jpeg(picture, file, start)
        case "JPEG2000" if not _from(file, 0).partition(b"\xff\x93")[2].count(_END):
            raise Refused("truncated: the JPEG 2000 has no end marker")
        case "PCX" if stored in ("L", "P") and _from(file, 0)[-769:][:1] != b"\x0c":
            raise Refused("truncated: the PCX has no palette")


def _from(file: BufferedIOBase, start: int, whence: int = 0) -> bytes:
    file.seek(start, whence)
    return file.read()


def _has_all_strips(tags: Mapping[int, Any]) -> bool:
    width, height = tags[256], tags[257]
    if 324 in tags:  # offsets of tiles, their width and length
        needed, offsets = -(-width // tags[322]) * -(-height // tags[323]), tags[324]
    else:  # offsets of strips, rows of each
        needed, offsets = -(-height // min(tags.get(278, height), height)), tags.get(273, ())
    planes = tags.get(277, 1) if tags.get(284, 1) == 2 else 1
    return len(offsets) >= needed * planes


def _is_misread(tags: Mapping[int, Any]) -> bool:
    """Pillow takes planes of whatever depth for bytes, where no library undoes a compression first."""
    return tags.get(284) == 2 and tags.get(277, 1) > 1 and max(tags.get(258, (1,))) > 8 and tags.get(259, 1) == 1


def _may_lack_rows(picture: "ImageFile.ImageFile") -> bool:
    """Rows that never came are black. Interlaced pictures come in another order, so any may."""
    width, height = picture.size
    last = picture.crop((0, height - 1, width, height))
    return bool(picture.info.get("interlace")) or not last.tobytes().strip(b"\0")


def _check_scans(rest: bytes) -> None:
    """Of a JPEG, from behind its first scan's head on. What follows its end may be another picture, or anything."""
    if rest.count(_SCAN) < _MOST_SCANS:
        return
    scans, place = 1, 0
    for _ in range(_MOST_SEGMENTS):
        marker = _MARKER.search(rest, place)
        if marker is None or marker[1] == _END[1:]:
            return
        scans += marker[1] == _SCAN[1:]
        if scans > _MOST_SCANS:
            raise Refused(f"a JPEG of more than {_MOST_SCANS} scans")
        place = marker.end() + int.from_bytes(rest[marker.end() : marker.end() + 2], "big")
    raise Refused(f"a JPEG of more than {_MOST_SEGMENTS:,} segments")


def _check_jpeg(picture: "ImageFile.ImageFile", file: BufferedIOBase, start: int) -> None:
    if _from(file, -2, whence=2) != _END and _END not in _from(file, start):
        raise Refused("truncated: the JPEG has no end marker")
    # Where an end marker comes too early, the rest is decoded as middle grey; but a whole picture may end in that too.
    last = picture.getpixel((picture.width - 1, picture.height - 1))
    if set(last if isinstance(last, tuple) else (last,)) <= {127, 128} and _goes_on(picture, file, start):
        raise Refused("truncated: the JPEG ends before its last row")


def _goes_on(picture: "ImageFile.ImageFile", file: BufferedIOBase, start: int) -> bool:
    """Whether the decoder still wanted data at the end: then zeros put before the end marker change the picture."""
    data = _from(file, 0)
    end = data.index(_END, start)
    with open_picture(BytesIO(data[:end] + bytes(1024) + data[end:]), ("JPEG",)) as longer:
        longer.load()
        return longer.tobytes() != picture.tobytes()
