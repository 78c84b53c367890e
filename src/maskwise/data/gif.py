"""How many frames a GIF has, no further than is asked for: Pillow walks to the end of the file to count them."""

import os
from io import BufferedIOBase


def count_frames(file: BufferedIOBase, most: int) -> int:
    """At least 1, the frame that every GIF has; as Pillow counts them, what is cut off or unknown included."""
    file.seek(10)
    _pass_palette(file, file.read(1))
    file.seek(2, os.SEEK_CUR)
    count = 0
    while count < most and (kind := file.read(1)) not in (b"", b";"):
        if kind == b"!":
            file.seek(1, os.SEEK_CUR)
            _pass_blocks(file)
        elif kind == b",":
            count += 1
            file.seek(8, os.SEEK_CUR)
            _pass_palette(file, file.read(1))
            file.seek(1, os.SEEK_CUR)
            _pass_blocks(file)
    return max(1, count)


def _pass_palette(file: BufferedIOBase, flags: bytes) -> None:
    if flags and flags[0] & 0x80:
        file.seek(3 << (flags[0] % 8 + 1), os.SEEK_CUR)


def _pass_blocks(file: BufferedIOBase) -> None:
    """Each says how long it is; the last is empty."""
    while length := file.read(1):
        if length == b"\0":
            return
        file.seek(length[0], os.SEEK_CUR)
