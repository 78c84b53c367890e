"""Masks: one cropped bitmap per instance. Memory follows the area of the objects, never N x H x W.

All bitmaps lie one after another in one flat tensor, so that a picture's masks are two tensors whatever their number:
cheap to index, to move to a device and to send between processes.

Legend: n masks, k regions, m cells along a side, h w a window, H W the picture.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer, UInt64
from scipy import ndimage
from torch import Tensor

from maskwise import interpolation, outlines, rle
from maskwise.interpolation import product
from maskwise.outlines import Polygon
from maskwise.rle import RLE, Size, Window

CELLS_AT_ONCE = {"cpu": 1 << 18, "other": 1 << 25}
"""How many cells a padded stack of windows may have: on a CPU padding costs time, elsewhere each step does."""


Index = int | Tensor | slice | Sequence[int]
"""A position, or several: what is chosen by either is a collection, of one or of more."""


@dataclass(frozen=True, slots=True, eq=False)
class Masks:
    """The masks of one picture."""

    bits: Bool[Tensor, " area"]
    windows: Int[Tensor, "n 4"]
    """x0, y0, x1, y1 of each bitmap in the picture; x1 and y1 not included. It need not be tight."""
    size: Size
    """Height and width of the picture."""

    def __post_init__(self) -> None:
        if self.bits.ndim != 1 or self.windows.ndim != 2:
            raise ValueError(f"bits and windows of shape {tuple(self.bits.shape)}, {tuple(self.windows.shape)}")

    # --- in

    @classmethod
    def none(cls, size: Size) -> "Masks":
        return cls.empty(0, size)

    @classmethod
    def empty(cls, count: int, size: Size) -> "Masks":
        """So many without pixels."""
        return cls(torch.zeros(0, dtype=torch.bool), torch.zeros(count, 4, dtype=torch.int64), size)

    @classmethod
    def of(cls, windows: Sequence[Window], size: Size) -> "Masks":
        """From one window per mask."""
        if not windows:
            return cls.none(size)
        rows = [(w.x0, w.y0, w.x0 + w.bits.shape[1], w.y0 + w.bits.shape[0]) for w in windows]
        bits = np.concatenate([np.ravel(w.bits) for w in windows])
        return cls(torch.from_numpy(bits), torch.tensor(rows, dtype=torch.int64), size)

    @classmethod
    def from_dense(cls, dense: Bool[Tensor, "n H W"]) -> "Masks":
        found = [_tight(Window(0, 0, picture)) for picture in dense.cpu().numpy()]
        return cls.of(found, (dense.shape[1], dense.shape[2]))

    @classmethod
    def from_rle(cls, masks: Iterable[RLE], size: Size) -> "Masks":
        codes = list(masks)
        for i, mask in enumerate(codes):
            if tuple(mask["size"]) != tuple(size):
                raise ValueError(f"mask {i} is for a picture of {mask['size']}, expected {list(size)}")
        return cls.of(rle.decode_all(codes), size)

    @classmethod
    def from_outlines(cls, objects: Iterable[Sequence[Polygon]], size: Size) -> "Masks":
        """Each object is the union of its polygons, each without its holes."""
        return cls.of([outlines.fill(polygons, size) for polygons in objects], size)

    @classmethod
    def from_label_map(
        cls, ids: Integer[np.ndarray, "H W"], *, background: Sequence[int] = (0,)
    ) -> tuple["Masks", tuple[int, ...]]:
        """One mask for each id in an image of ids, and the ids in ascending order."""
        values, dense = _renumbered(ids)
        windows, found = [], []
        for number, (value, place) in enumerate(zip(values.tolist(), ndimage.find_objects(dense), strict=True), 1):
            if value not in background:
                windows.append(Window(place[1].start, place[0].start, dense[place] == number))
                found.append(value)
        return cls.of(windows, ids.shape), tuple(found)

    @classmethod
    def paste(
        cls,
        probabilities: Float[Tensor, "n m m"],
        boxes: Float[Tensor, "n 4"],
        size: Size,
        *,
        threshold: float = 0.5,
        convention: Literal["continuous", "legacy"] = "continuous",
    ) -> "Masks":
        """Draw small masks into their boxes, once, at the resolution of the picture.

        `continuous` samples the small mask at the centre of each pixel (value >= threshold); `legacy` is what Detectron
        and torchvision do: the box grown by one cell, its corners cut to whole pixels, value > threshold.
        """
        axis = interpolation.paste_legacy if convention == "legacy" else interpolation.paste_continuous
        x0, x1 = axis.span(boxes[:, 0], boxes[:, 2], probabilities.shape[-1], size[1])
        y0, y1 = axis.span(boxes[:, 1], boxes[:, 3], probabilities.shape[-1], size[0])
        windows = torch.stack([x0, y0, torch.maximum(x1, x0), torch.maximum(y1, y0)], 1)
        shape = (windows[:, 2:] - windows[:, :2]).flip(1)
        found: list[Tensor] = [probabilities.new_zeros(0, dtype=torch.bool)] * len(boxes)
        for which, h, w in stacks(shape, cells=cells_at_once(boxes.device)):
            at, small = boxes[which], probabilities[which]
            down = axis.weights(at[:, 1], at[:, 3], y0[which], h, small.shape[-1])  # k h m
            across = axis.weights(at[:, 0], at[:, 2], x0[which], w, small.shape[-1])  # k w m
            drawn = axis.accept(product(down, product(small, across.mT)), threshold)  # k h w
            for i, bits, (rows, columns) in zip(which.tolist(), drawn, shape[which].tolist(), strict=True):
                found[i] = bits[:rows, :columns].flatten()
        return cls(torch.cat([probabilities.new_zeros(0, dtype=torch.bool), *found]), windows, size)

    # --- choose and move

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, keep: Index) -> "Masks":
        which = positions(keep, len(self), device=self.windows.device)
        offsets = self._offsets().tolist()
        chosen = [self.bits[offsets[i] : offsets[i + 1]] for i in which.tolist()]
        return Masks(torch.cat([self.bits[:0], *chosen]), self.windows[which], self.size)

    def __iter__(self) -> Iterator["Masks"]:
        """One mask after another."""
        return (self[i] for i in range(len(self)))

    def to(self, device: torch.device | str) -> "Masks":
        return Masks(self.bits.to(device), self.windows.to(device), self.size)

    @staticmethod
    def cat(several: Sequence["Masks"]) -> "Masks":
        """All masks of the same picture, or at least of pictures of one size."""
        if len(sizes := {m.size for m in several}) != 1:
            raise ValueError(f"masks of pictures of different sizes cannot be joined: {sorted(sizes)}")
        bits, windows = torch.cat([m.bits for m in several]), torch.cat([m.windows for m in several])
        return Masks(bits, windows, several[0].size)

    # --- change

    def tight(self) -> "Masks":
        """The same masks with the smallest windows that hold them."""
        return self._each(_tight)

    def crop(self, x0: int, y0: int, size: Size) -> "Masks":
        """What a picture of `size` shows whose corner lies at (x0, y0), which may be outside the old one."""
        return self._each(lambda w: _cut(Window(w.x0 - x0, w.y0 - y0, w.bits), size), size=size)

    def in_frames(self, frames: Iterable[tuple[int, int, int, int]]) -> Iterator[tuple[Int[Tensor, " m"], "Masks"]]:
        """Of each frame, x0, y0, x1, y1 in the picture: which masks have pixels in it, and what it shows of them.

        Others are not looked at, and nothing is copied whole: a river is in hundreds of tiles of a mosaic.
        """
        crops, (x0, y0, x1, y1) = self.crops(), self.windows.unbind(1)
        for left, top, right, bottom in frames:
            near = torch.where((x0 < right) & (x1 > left) & (y0 < bottom) & (y1 > top))[0]
            size = (bottom - top, right - left)
            moved = (Window(w.x0 - left, w.y0 - top, w.bits) for w in map(crops.__getitem__, near.tolist()))
            seen = [_tight(_cut(w, size)) for w in moved]
            has_pixels = torch.tensor([w.bits.size > 0 for w in seen], dtype=torch.bool)
            yield near[has_pixels], Masks.of([w for w in seen if w.bits.size], size)

    def translate(self, dx: int, dy: int) -> "Masks":
        """Shifted within the same picture; what leaves it is lost."""
        return self.crop(-dx, -dy, self.size)

    def resize(self, size: Size) -> "Masks":
        """The mask at the centres of the new pixels, as for images of ids: masks that did not overlap never do."""
        rows, columns = (interpolation.nearest(old, new) for old, new in zip(self.size, size, strict=True))

        def resized(w: Window) -> Window:
            (y0, y1), (x0, x1) = (
                np.searchsorted(source, (at, at + length)).tolist()
                for source, at, length in ((rows, w.y0, w.bits.shape[0]), (columns, w.x0, w.bits.shape[1]))
            )
            return Window(x0, y0, w.bits[np.ix_(rows[y0:y1] - w.y0, columns[x0:x1] - w.x0)])

        return self._each(resized, size=size)

    def flip_horizontal(self) -> "Masks":
        width = self.size[1]
        return self._each(lambda w: Window(width - w.x0 - w.bits.shape[1], w.y0, w.bits[:, ::-1]))

    def flip_vertical(self) -> "Masks":
        height = self.size[0]
        return self._each(lambda w: Window(w.x0, height - w.y0 - w.bits.shape[0], w.bits[::-1]))

    def rotate(self, quarters: int) -> "Masks":
        """By right angles, anticlockwise as `torch.rot90`."""
        turned = self
        for _ in range(quarters % 4):
            height, width = turned.size
            turned = turned._each(
                lambda w, width=width: Window(w.y0, width - w.x0 - w.bits.shape[1], np.rot90(w.bits)),
                size=(width, height),
            )
        return turned

    def subtract(self, other: Bool[np.ndarray, "H W"]) -> "Masks":
        """Without the pixels that something else covers."""
        return self._each(
            lambda w: w._replace(bits=w.bits & ~other[w.y0 : w.y0 + w.bits.shape[0], w.x0 : w.x0 + w.bits.shape[1]])
        )

    def boundary(self, distance: int) -> "Masks":
        """Pixels of each mask within `distance` (chessboard) of a pixel outside it; so is the border of the picture."""
        side = 2 * distance + 1

        def ring(w: Window) -> Window:
            inner = w.bits.astype(np.uint8)
            for axis in (0, 1):
                inner = ndimage.minimum_filter1d(inner, side, axis, mode="constant", cval=0)
            return w._replace(bits=w.bits & (inner == 0))

        return self._each(ring)

    # --- measure

    def area(self) -> Int[Tensor, " n"]:
        """Pixels of each mask."""
        counts = [np.count_nonzero(w.bits) for w in self.crops()]
        return torch.tensor(counts, dtype=torch.int64, device=self.windows.device)

    def boxes(self) -> Float[Tensor, "n 4"]:
        """Tight boxes, xyxy; zeros for a mask without pixels."""
        return self.tight().windows.to(torch.float32)

    def iou(self, other: "Masks", *, crowd: Bool[Tensor, " k"] | None = None) -> Float[Tensor, "n k"]:
        """Intersection over union of each mask here with each of `other`, looked at only where their boxes meet.

        For those of `other` that are marked as `crowd`: the share of the mask here that they cover.
        """
        shared, area = self.intersection(other), self.area()[:, None]
        union = area + other.area() - shared
        if crowd is not None:
            union = torch.where(crowd, area, union)
        return shared / union.clamp(min=1)

    def intersection(self, other: "Masks") -> Int[Tensor, "n k"]:
        """Pixels that each mask here shares with each of `other`.

        Looked at only where their windows meet, 64 pixels at a time.
        """
        shared = np.zeros((len(self), len(other)), np.int64)
        mine, theirs = ([_pack(w) for w in masks.crops()] for masks in (self, other))
        x0, y0, x1, y1 = self.windows.cpu().numpy().T
        for k, (theirs_x0, theirs_y0, theirs_x1, theirs_y1) in enumerate(other.windows.tolist()):
            meet = (x0 < theirs_x1) & (x1 > theirs_x0) & (y0 < theirs_y1) & (y1 > theirs_y0)
            for i in np.flatnonzero(meet).tolist():
                shared[i, k] = _common(mine[i], theirs[k])
        return torch.from_numpy(shared).to(self.windows.device)

    def sample(self, boxes: Float[Tensor, "k 4"], which: Int[Tensor, " k"], cells: int) -> Float[Tensor, "k m m"]:
        """Share of mask `which[i]` in each cell of a grid over box i.

        Equals torchvision's `roi_align(dense, ..., sampling_ratio=-1, aligned=True)`, without the dense masks.
        """
        out = boxes.new_zeros(len(boxes), cells, cells)
        offsets, windows = self._offsets(), self.windows[which]
        shape = (windows[:, 2:] - windows[:, :2]).flip(1)
        for part, h, w in stacks(shape, cells=cells_at_once(boxes.device)):
            at, window = boxes[part], windows[part]
            down = interpolation.grid_weights(at[:, 1], at[:, 3], window[:, 1], h, cells, self.size[0])  # k m h
            across = interpolation.grid_weights(at[:, 0], at[:, 2], window[:, 0], w, cells, self.size[1])  # k m w
            stack = self._stack(offsets[which[part]], shape[part], h, w).to(boxes.dtype)  # k h w
            out[part] = product(down, stack, across.mT)
        return out

    def at(self, points: Float[Tensor, "k 2"], which: Int[Tensor, " k"]) -> Bool[Tensor, " k"]:
        """Whether the pixel that holds point i (x and y) belongs to mask `which[i]`."""
        pixel, window = points.floor().to(torch.int64), self.windows[which]
        x, y = (pixel - window[:, :2]).unbind(1)
        found = ((pixel >= window[:, :2]) & (pixel < window[:, 2:])).all(1)
        place = self._offsets()[which] + y * (window[:, 2] - window[:, 0]) + x
        found[found.clone()] = self.bits[place[found]]
        return found

    def area_inside(self, boxes: Float[Tensor, "k 4"], which: Int[Tensor, " k"]) -> Float[Tensor, " k"]:
        """How much of mask `which[i]` lies in box i, in pixels; of pixels that the box cuts, the share inside."""
        out = boxes.new_zeros(len(boxes))
        offsets, windows = self._offsets(), self.windows[which]
        shape = (windows[:, 2:] - windows[:, :2]).flip(1)
        for part, h, w in stacks(shape, cells=cells_at_once(boxes.device)):
            at, window = boxes[part], windows[part]
            down = interpolation.coverage(at[:, 1], at[:, 3], window[:, 1], h)  # k h
            across = interpolation.coverage(at[:, 0], at[:, 2], window[:, 0], w)  # k w
            stack = self._stack(offsets[which[part]], shape[part], h, w).to(boxes.dtype)  # k h w
            out[part] = product(down[:, None], stack, across[..., None])[:, 0, 0]
        return out

    # --- out

    def crops(self) -> list[Window]:
        """A window per mask, in numpy; of masks in the memory of the CPU these are views."""
        bits, offsets = self.bits.cpu().numpy(), self._offsets().tolist()
        return [
            Window(x0, y0, bits[a:b].reshape(y1 - y0, x1 - x0))
            for (x0, y0, x1, y1), a, b in zip(self.windows.tolist(), offsets[:-1], offsets[1:], strict=True)
        ]

    def rle(self) -> list[RLE]:
        """Compressed COCO run lengths, straight from the windows."""
        return rle.encode(self.crops(), self.size)

    def outlines(self, *, tolerance: float = 0.0) -> list[list[Polygon]]:
        """Polygons of each mask, with holes told apart."""
        return [outlines.trace(w.bits, corner=(w.x0, w.y0), tolerance=tolerance) for w in self.crops()]

    def label_map(self) -> Int[np.ndarray, "H W"]:
        """Image of ids: 1 for the first mask, 2 for the second ...; where masks overlap, the earlier one stays."""
        ids = np.zeros(self.size, np.int32)
        for number, w in reversed(list(enumerate(self.crops(), 1))):
            ids[w.y0 : w.y0 + w.bits.shape[0], w.x0 : w.x0 + w.bits.shape[1]][w.bits] = number
        return ids

    def dense(self) -> Bool[Tensor, "n H W"]:
        """N x H x W truth values. For tests and for whoever must; mind the memory."""
        out = np.zeros((len(self), *self.size), bool)
        for picture, w in zip(out, self.crops(), strict=True):
            picture[w.y0 : w.y0 + w.bits.shape[0], w.x0 : w.x0 + w.bits.shape[1]] = w.bits
        return torch.from_numpy(out).to(self.bits.device)

    # --- inside

    def _offsets(self) -> Int[Tensor, " n1"]:
        sides = self.windows[:, 2:] - self.windows[:, :2]
        return torch.cat([sides.new_zeros(1), sides.prod(1).cumsum(0)])

    def _each(self, change, *, size: Size | None = None) -> "Masks":
        changed = Masks.of([change(w) for w in self.crops()], size or self.size)
        return changed.to(self.bits.device)

    def _stack(self, starts: Int[Tensor, " k"], shape: Int[Tensor, "k 2"], h: int, w: int) -> Bool[Tensor, "k h w"]:
        """Bitmaps side by side, each padded to h x w."""
        y, x = torch.arange(h, device=starts.device)[:, None], torch.arange(w, device=starts.device)
        inside = (y < shape[:, :1, None]) & (x < shape[:, 1:, None])
        place = starts[:, None, None] + y * shape[:, 1:, None] + x
        return self.bits[torch.where(inside, place, 0)] & inside


def positions(keep: Index, count: int, *, device: torch.device) -> Int[Tensor, " m"]:
    """Which of `count` things are chosen."""
    which = torch.arange(count, device=device)[keep]
    if which.ndim > 1:
        raise TypeError("expected a position, a slice, a list, or a tensor of positions or truth values")
    return which.reshape(-1)


def stacks(shape: Int[Tensor, "k 2"], *, cells: int) -> Iterator[tuple[Int[Tensor, " j"], int, int]]:
    """Positions of windows of like size that are worked on together, and the height and width that hold them all."""
    order = shape.prod(1).argsort()
    sides = shape[order].tolist()
    start, h, w = 0, 0, 0
    for i, (rows, columns) in enumerate(sides):
        if rows == 0 or columns == 0:
            start = i + 1
            continue
        taller, wider = max(h, rows), max(w, columns)
        if i > start and taller * wider * (i + 1 - start) > cells:
            yield order[start:i], h, w
            start, taller, wider = i, rows, columns
        h, w = taller, wider
    if start < len(order):
        yield order[start:], h, w


def cells_at_once(device: torch.device) -> int:
    return CELLS_AT_ONCE["cpu" if device.type == "cpu" else "other"]


class _Packed(NamedTuple):
    """A bitmap with 64 pixels of a row in a word; words begin at columns of the picture that 64 divides.

    Words of a column lie side by side: a mask is much higher than it is wide in words, and long runs are quick.
    """

    word: int
    row: int
    bits: UInt64[np.ndarray, "words h"]


def _pack(window: Window) -> _Packed:
    left, width = window.x0 % 64, window.bits.shape[1]
    padded = np.pad(window.bits, ((0, 0), (left, -(left + width) % 64)))
    words = np.packbits(padded, 1, bitorder="little").view(np.uint64)
    return _Packed(window.x0 // 64, window.y0, np.ascontiguousarray(words.T))


def _common(first: _Packed, second: _Packed) -> int:
    """Pixels that both bitmaps show."""
    y0, x0 = max(first.row, second.row), max(first.word, second.word)
    y1 = min(first.row + first.bits.shape[1], second.row + second.bits.shape[1])
    x1 = min(first.word + first.bits.shape[0], second.word + second.bits.shape[0])
    mine = first.bits[x0 - first.word : x1 - first.word, y0 - first.row : y1 - first.row]
    theirs = second.bits[x0 - second.word : x1 - second.word, y0 - second.row : y1 - second.row]
    return int(np.bitwise_count(mine & theirs).sum(dtype=np.int64))


def _renumbered(ids: Integer[np.ndarray, "H W"]) -> tuple[Integer[np.ndarray, " n"], Integer[np.ndarray, "H W"]]:
    """The ids in ascending order, and the image with 1, 2, 3 ... in their places."""
    if not ids.size or ids.min() < 0 or ids.max() > max(ids.size, 2**16):
        values, dense = np.unique(ids, return_inverse=True)
        return values, dense.reshape(ids.shape) + 1
    whole = ids.astype(np.intp, copy=False)
    values = np.flatnonzero(np.bincount(whole.ravel()))  # to count is much faster than to sort
    places = np.zeros(int(values[-1]) + 1, np.int32)
    places[values] = np.arange(1, len(values) + 1)
    return values, places[whole]


def _tight(window: Window) -> Window:
    """The smallest window with the same pixels; an empty one at the origin where there are none."""
    rows = np.flatnonzero(window.bits.any(1))
    if not len(rows):
        return Window(0, 0, np.zeros((0, 0), bool))
    columns = np.flatnonzero(window.bits.any(0))
    y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    return Window(window.x0 + x0, window.y0 + y0, window.bits[y0:y1, x0:x1])


def _cut(window: Window, size: Size) -> Window:
    """The part of a window inside a picture; an empty one at the origin where it lies outside."""
    h, w = window.bits.shape
    y0, y1 = max(window.y0, 0), min(window.y0 + h, size[0])
    x0, x1 = max(window.x0, 0), min(window.x0 + w, size[1])
    if y0 >= y1 or x0 >= x1:
        return Window(0, 0, np.zeros((0, 0), bool))
    return Window(x0, y0, window.bits[y0 - window.y0 : y1 - window.y0, x0 - window.x0 : x1 - window.x0])
