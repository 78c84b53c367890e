"""Two questions about a PNG that Pillow answers only by decoding it, or not at all."""

import os
import struct
import zlib
from collections.abc import Iterator
from io import BufferedIOBase

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# Adam7: the first column and row of each pass, and its steps in both.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def exif_at_end(file: BufferedIOBase) -> bytes | None:
    """An eXIf chunk behind the pixels, among the last 64 KiB of the file: one read, however many chunks there are."""
    here = file.tell()
    file.seek(max(0, file.seek(0, os.SEEK_END) - 2**16))
    tail = file.read()
    file.seek(here)
    name = tail.rfind(b"eXIf")
    length = int.from_bytes(tail[max(0, name - 4) : max(0, name)], "big")
    block, checksum = tail[name + 4 :][:length], tail[name + 4 :][length : length + 4]
    return block if name >= 4 and checksum == zlib.crc32(b"eXIf" + block).to_bytes(4, "big") else None


def has_all_rows(file: BufferedIOBase, start: int) -> bool:
    """Whether the pixel data from the chunk at `start` on fill the size that the header claims; Pillow never asks."""
    file.seek(16)
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", file.read(13))
    missing = _row_bytes(width, height, depth * _CHANNELS[colour], interlaced=bool(interlaced))
    inflate = zlib.decompressobj()
    for name, length in _chunks(file, start):
        data = file.read(length) if name == b"IDAT" else b""
        while data and missing > 0:
            missing -= len(inflate.decompress(data, 2**20))
            data = inflate.unconsumed_tail
        if missing <= 0:
            return True
    return False


def _chunks(file: BufferedIOBase, start: int) -> Iterator[tuple[bytes, int]]:
    """Name and length of each chunk, the file at its data."""
    while True:
        file.seek(start)
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        length = int.from_bytes(head[:4], "big")
        yield head[4:], length
        start += length + 12


def _row_bytes(width: int, height: int, bits: int, *, interlaced: bool) -> int:
    total = 0
    for left, top, across, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total
