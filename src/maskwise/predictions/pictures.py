"""Whatever a picture may be given as, turned into bytes of RGB by the rules of the one decoder (`data.images`).

A file, opened or not, or its bytes; an array `h w`, `h w 1`, `h w 3` or `h w 4`; a tensor `h w`, `1 h w`, `3 h w` or
`4 h w`; a picture of Pillow. Bytes are taken as they are, numbers of more bits scaled as those of files, floating point
is 0 to 1, and what is transparent lies on white.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import BinaryIO, TypeAlias, TypeGuard

import numpy as np
import torch
from jaxtyping import Float, Integer, Shaped, UInt8
from PIL import Image, ImageOps

from maskwise.data.files import at_home
from maskwise.data.images import IMAGE_SUFFIXES, MAX_PIXELS, ImageReadError, count_frames, read_image, to_bytes

Picture: TypeAlias = UInt8[np.ndarray, "_ _ 3"]
Bytes: TypeAlias = bytes | bytearray | memoryview
File: TypeAlias = BinaryIO | BufferedIOBase
"""Opened in binary mode."""
Given: TypeAlias = str | Path | Bytes | File | np.ndarray | torch.Tensor | Image.Image

SIDES = "expected h w, h w 1, h w 3 or h w 4 (for tensors 1 h w, 3 h w or 4 h w)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A picture that somebody wants to know about; read when its turn comes."""

    name: str
    """Relative and '/'-separated, unique among those that are asked for together."""
    read: Callable[[], Picture]
    path: Path | None = None
    """None: it is no file."""
    part_of: Path | None = None
    """The video that it is a frame of."""
    frames: Callable[[], int] = lambda: 1
    """That its file holds; this is the first."""

    @classmethod
    def file(cls, path: Path, *, name: str | None = None, max_pixels: int = MAX_PIXELS) -> "Asked":
        called = picture_name(name or path.name)
        read, frames = partial(read_image, path, max_pixels=max_pixels), partial(_frames, path, max_pixels)
        return cls(name=called, read=read, path=path, frames=frames)

    @classmethod
    def of(cls, given: Given, *, name: str, max_pixels: int = MAX_PIXELS) -> "Asked":
        """`name`: for what has none of its own. Its pixels are taken now: the memory may be used for the next one."""
        if isinstance(given, str | Path):
            return cls.file(at_home(given), max_pixels=max_pixels)
        if isinstance(given, bytes | bytearray | memoryview):
            data = bytes(given)
            return cls(
                name=name, read=partial(pixels, data, max_pixels=max_pixels), frames=partial(_frames, data, max_pixels)
            )
        return cls(name=name, read=_taken(given, max_pixels))


def picture_name(name: str) -> str:
    """One that formats take for that of a picture."""
    return name if Path(name).suffix.lower() in IMAGE_SUFFIXES else f"{name}.png"


def is_picture(source: object) -> TypeGuard[Given]:
    """And not several of them."""
    kinds = (str, Path, bytes, bytearray, memoryview, np.ndarray, torch.Tensor, Image.Image)
    return isinstance(source, kinds) or hasattr(source, "read")


def _taken(given: Given, max_pixels: int) -> Callable[[], Picture]:
    """What is cheap to copy is turned into a picture when its turn comes."""
    match given:
        case np.memmap() if not given.flags.writeable:  # a mosaic on the disk, which nobody draws over
            return partial(pixels, given)
        case np.ndarray():
            return partial(pixels, given.copy())
        case torch.Tensor():
            return partial(pixels, given.detach().clone())
    try:
        found = pixels(given, max_pixels=max_pixels)
    except ImageReadError as error:
        return partial(_raise, error)
    return lambda: found


def _frames(source: Path | bytes, max_pixels: int) -> int:
    try:
        return count_frames(source, max_pixels=max_pixels)
    except ImageReadError:  # it went since it was read
        return 1


def _raise(error: ImageReadError) -> Picture:
    raise error


def pixels(given: Given, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """RGB, upright. An array that is one already is given back itself."""
    match given:
        case str() | Path():
            return read_image(given, max_pixels=max_pixels)
        case bytes() | bytearray() | memoryview():
            return read_image(BytesIO(given), max_pixels=max_pixels)
        case np.ndarray():
            return _of_array(given)
        case torch.Tensor():
            return _of_tensor(given)
        case Image.Image():
            return _of_pillow(given)
        case _ if hasattr(given, "read"):
            return read_image(given, max_pixels=max_pixels)
    kinds = "a path, bytes, a file, an array, a tensor or a picture of Pillow"
    raise TypeError(f"expected {kinds}, got {type(given).__name__}")


def _of_array(array: Shaped[np.ndarray, "..."]) -> Picture:
    if array.ndim == 4:
        raise ValueError(f"one picture was expected, got an array of shape {array.shape}: give a list of pictures")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ValueError(f"a picture of shape {array.shape}: {SIDES}")
    if not array.size:
        raise ValueError(f"a picture without pixels, of shape {array.shape}")
    as_bytes = _scaled(array)
    if array.ndim == 2 or array.shape[2] == 1:
        return np.repeat(as_bytes.reshape(*array.shape[:2], 1), 3, axis=2)
    return _over_white(as_bytes) if array.shape[2] == 4 else as_bytes


def _of_tensor(tensor: Shaped[torch.Tensor, "..."]) -> Picture:
    if tensor.ndim == 3 and tensor.shape[0] not in (1, 3, 4):
        raise ValueError(f"a picture of shape {tuple(tensor.shape)}: {SIDES}")
    plain = tensor.detach().cpu()
    plain = plain.float() if plain.dtype == torch.bfloat16 else plain  # which numpy lacks
    return _of_array((plain.permute(1, 2, 0) if plain.ndim == 3 else plain).numpy())


def _of_pillow(picture: Image.Image) -> Picture:
    try:
        upright = ImageOps.exif_transpose(picture)
        if upright.mode in ("I", "F", "I;16", "I;16L", "I;16B", "I;16N"):
            return _of_numbers(np.asarray(upright))
        if upright.mode.endswith(("A", "a")) or "transparency" in upright.info:
            return _over_white(np.asarray(upright.convert("RGBA")))
        return np.array(upright.convert("RGB"))
    except Exception as error:  # decoders raise some fifteen kinds; see `data.images`
        raise ImageReadError(getattr(picture, "filename", "") or "<Pillow picture>", str(error)) from error


def _of_numbers(values: Shaped[np.ndarray, "h w"]) -> Picture:
    return np.repeat(to_bytes(values)[..., None], 3, axis=2)


def _scaled(array: Shaped[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w *c"]:
    """All colours by one scale."""
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind in "iu":
        has_alpha = array.shape[2:] == (4,)
        return np.dstack([to_bytes(array[..., :3]), _alpha(array[..., 3])]) if has_alpha else to_bytes(array)
    if array.dtype.kind != "f":
        raise ValueError(f"pixels of type {array.dtype}: expected bytes, whole numbers or numbers from 0 to 1")
    return _of_floats(array)


def _alpha(values: Integer[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """The most that a number of its bits can be is opaque; of a few of 16 bits, the highest that is there."""
    highest = int(values.max())
    opaque = 255 if highest <= 255 else 65535 if 2**15 <= highest <= 65535 else highest
    return np.rint(np.clip(values / opaque, 0, 1) * 255).astype(np.uint8)


def _of_floats(array: Float[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w *c"]:
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):  # of which NaN is neither
        raise ValueError(f"floating point pixels must be from 0 to 1, these are from {low:g} to {high:g}")
    return np.rint(array * 255).astype(np.uint8)


def _over_white(rgba: UInt8[np.ndarray, "h w 4"]) -> Picture:
    colour, alpha = rgba[..., :3].astype(np.uint16), rgba[..., 3:].astype(np.uint16)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
