"""COCO ground truth and COCO results, read for evaluation. Every complaint names the entry of the file it is about.

In results `score` is the mask score; `class_score` and `quality` may ride along. A missing box comes from the mask, or
from the keypoints. Images and classes are ordered by id, as pycocotools does: equal scores keep that order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import Float, Int

from maskwise.categories import Categories, told_apart
from maskwise.data.formats import json_file
from maskwise.evaluate import annotated
from maskwise.evaluate.objects import Comparison, Found, Pair, Truth, mask_areas, mask_boxes, order_of_id, xywh, xyxy
from maskwise.evaluate.segmentation import first_malformed, is_finite, to_rle
from maskwise.rle import RLE

Kind = Literal["bbox", "segm", "boundary", "keypoints"]
"""what is compared, and so which fields an entry must have"""

T = TypeVar("T")


def load_comparison(truth_path: str | Path, results_path: str | Path, iou: Kind = "segm") -> Comparison:
    """Ground truth and results of two COCO files, checked. Results may be the annotations of a data set, too."""
    truth, results = json_file.load(Path(truth_path)), json_file.load(Path(results_path))
    if not isinstance(truth, dict):
        raise ValueError(f"{truth_path}: expected a COCO data set (an object), got {type(truth).__name__}")
    if isinstance(results, dict):
        results = annotated.results(results, truth, str(results_path))
    if not isinstance(results, list):
        raise ValueError(f"{results_path}: expected COCO results (a list), got {type(results).__name__}")
    files = f"{truth_path}: ", f"{results_path}: "
    return compare(truth, results, iou, data=Path(truth_path).name, files=files)


def compare(
    truth: Mapping[str, object],
    results: Sequence[object],
    iou: Kind = "segm",
    *,
    data: str = "",
    files: tuple[str, str] = ("ground truth: ", ""),
) -> Comparison:
    """The same from what `json.load` returns. `files`: what complaints about the one and the other begin with."""
    of_truth, of_results = files
    tables = "categories", "images", "annotations"
    categories, images, annotations = (_entries(truth, table, of_truth) for table in tables)
    found = [_Entry.of(of_results, "results", i, row) for i, row in enumerate(results)]
    known = _Known.read(_categories(categories, [*annotations, *found], of_truth), images)
    sides = _truths(annotations, known, iou), _founds(found, known, iou)
    pairs = tuple(Pair(*row) for row in zip(known.images, *sides, strict=True))
    return Comparison(categories=known.categories, pairs=pairs, data=data)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One object of a list in a file, that can say where it stands."""

    where: str
    fields: Mapping[str, object]
    is_result: bool

    @classmethod
    def of(cls, file: str, table: str, index: int, row: object) -> "_Entry":
        if not isinstance(row, dict):
            raise ValueError(f"{file}{table}[{index}]: expected an object, got {type(row).__name__}")
        is_result = table == "results"
        id_ = f" (id {row['id']})" if "id" in row and not is_result else ""
        return cls(f"{file}{table}[{index}]{id_}", row, is_result)

    def has(self, name: str) -> bool:
        return _given(self.fields.get(name))

    def get(self, name: str) -> object:
        value = self.fields.get(name)
        if not _given(value):
            raise ValueError(f"{self.where}: no {name!r}")
        return value

    def number(self, name: str) -> float:
        value = self.get(name)
        if not is_finite(value):
            raise ValueError(f"{self.where}: {name!r} must be a finite number, got {value!r}")
        return float(value)

    def numbers(self, name: str) -> list[float]:
        value = self.get(name)
        if not isinstance(value, list) or not all(is_finite(v) for v in value):
            raise ValueError(f"{self.where}: {name!r} must be a list of finite numbers, got {value!r}")
        return [float(v) for v in value]

    def extent(self, name: str) -> int:
        """Pixels; run-length codes count up to 2^32 of them."""
        value = self.number(name)
        if not 1 <= value < 2**31:
            raise ValueError(f"{self.where}: {name!r} must be 1 or more pixels, got {value:g}")
        return int(value)

    def area(self) -> float:
        """Below 0 it would lie outside of every range, and the object would count nowhere."""
        value = self.number("area")
        if value < 0:
            raise ValueError(f"{self.where}: 'area' must be 0 or more, got {value:g}")
        return value

    def is_crowd(self) -> bool:
        """Nothing else is taken for true: an object would neither be found nor missed, and nobody be told."""
        value = self.fields.get("iscrowd")
        if value not in (None, 0, 1):
            raise ValueError(f"{self.where}: 'iscrowd' must be 0 or 1, got {value!r}")
        return value == 1

    def box(self) -> list[float]:
        """x y width height"""
        box = self.numbers("bbox")
        if len(box) != 4 or box[2] < 0 or box[3] < 0:
            raise ValueError(f"{self.where}: 'bbox' must be x, y, width, height with no negative extent, got {box}")
        return box

    def mask(self, size: tuple[int, int]) -> RLE:
        segmentation = self.get("segmentation")
        try:
            return to_rle(segmentation, size)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.where}: {error}") from None

    def look_up(self, name: str, known: Mapping[int | str, T]) -> T:
        value = json_file.whole(self.get(name))
        if not isinstance(value, int | str) or value not in known:
            raise ValueError(f"{self.where}: unknown {name} {value!r}: none of the {len(known)} of the ground truth")
        return known[value]


def _given(value: object) -> bool:
    """Tools write null and [] for what they do not know."""
    return value is not None and (type(value) is not list or len(value) > 0)


def _entries(truth: Mapping[str, object], table: str, file: str) -> list[_Entry]:
    rows = truth.get(table)
    if not isinstance(rows, list):
        raise ValueError(f"{file}expected a list {table!r}, got {type(rows).__name__}")
    return [_Entry.of(file, table, i, row) for i, row in enumerate(rows)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What entries may refer to."""

    categories: Categories
    labels: Mapping[int | str, int]
    """by category id"""
    images: Mapping[int | str, int]
    """place in `sizes`, by image id"""
    sizes: list[tuple[int, int]]
    """height, width"""

    @classmethod
    def read(cls, categories: Categories, images: list[_Entry]) -> "_Known":
        by_id: dict[int | str, tuple[int, int]] = {}
        for entry in images:
            id_ = json_file.whole(entry.get("id"))
            if not isinstance(id_, int | str) or id_ in by_id:
                raise ValueError(f"{entry.where}: 'id' must be a number or text that no other image has, got {id_!r}")
            by_id[id_] = entry.extent("height"), entry.extent("width")
        ids = sorted(by_id, key=order_of_id)
        return cls(
            categories=categories,
            labels={id_: label for label, id_ in enumerate(categories.ids)},
            images={id_: i for i, id_ in enumerate(ids)},
            sizes=[by_id[id_] for id_ in ids],
        )


def _categories(entries: list[_Entry], objects: list[_Entry], file: str) -> Categories:
    """Two of one name are told apart as in data sets that are read to learn from."""
    entries = sorted(entries, key=lambda entry: entry.number("id"))
    points = next((e.get("keypoints") for e in entries if e.has("keypoints")), [])
    named = {int(e.number("id")): str(e.get("name")) for e in entries}
    if len(named) < len(entries):
        raise ValueError(f"{file}two categories have the same 'id'")
    used = {id_ for e in objects if isinstance(id_ := e.fields.get("category_id"), int | float)}
    named = told_apart(named, used)
    return Categories(
        names=tuple(named.values()),
        ids=tuple(named),
        keypoints=tuple(str(name) for name in points) if isinstance(points, list) else (),
    )


def _truths(entries: list[_Entry], known: _Known, iou: Kind) -> list[Truth]:
    rows = _Objects.read(entries, known, iou)
    crowd = np.array([e.is_crowd() for e in entries], bool)
    areas = _areas(entries, rows, [known.sizes[i] for i in rows.image.tolist()])
    ids = [int(e.number("id")) if e.has("id") else i for i, e in enumerate(entries)]
    return [
        Truth(
            size=size,
            labels=rows.labels[mine],
            boxes=rows.boxes[mine],
            areas=areas[mine],
            crowd=crowd[mine],
            masks=rows.masks_of(mine),
            keypoints=rows.keypoints_of(mine),
            ids=tuple(ids[i] for i in mine.tolist()),
        )
        for size, mine in zip(known.sizes, rows.by_image(len(known.sizes)), strict=True)
    ]


def _areas(entries: list[_Entry], rows: "_Objects", sizes: Sequence[tuple[int, int]]) -> Float[np.ndarray, " n"]:
    """As the file says; else the pixels of the mask, whatever is compared, and the box where there is no mask."""
    areas = rows.areas.copy()
    drawn = [i for i, e in enumerate(entries) if e.has("segmentation") and not e.has("area")]
    areas[drawn] = mask_areas(_drawn(drawn, entries, sizes, rows.masks))
    stated = [i for i, e in enumerate(entries) if e.has("area")]
    areas[stated] = [entries[i].area() for i in stated]
    return areas


def _founds(entries: list[_Entry], known: _Known, iou: Kind) -> list[Found]:
    rows = _Objects.read(entries, known, iou)
    mask_scores = np.array([e.number("score") for e in entries], float)
    scores = np.array([e.number("class_score" if e.has("class_score") else "score") for e in entries], float)
    quality = np.array([e.number("quality") if e.has("quality") else 1.0 for e in entries], float)
    return [
        Found(
            labels=rows.labels[mine],
            boxes=rows.boxes[mine],
            scores=scores[mine],
            quality=quality[mine],
            mask_scores=mask_scores[mine],
            masks=rows.masks_of(mine),
            keypoints=rows.keypoints_of(mine),
            areas=rows.areas[mine],
        )
        for mine in rows.by_image(len(known.sizes))
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Objects:
    """What annotations and results have in common, for all images together."""

    image: Int[np.ndarray, " n"]
    """place in the list of images"""
    labels: Int[np.ndarray, " n"]
    boxes: Float[np.ndarray, "n 4"]
    areas: Float[np.ndarray, " n"]
    """of the boxes"""
    masks: list[RLE] | None
    keypoints: Float[np.ndarray, "n k 3"] | None

    @classmethod
    def read(cls, entries: list[_Entry], known: _Known, iou: Kind) -> "_Objects":
        image = [entry.look_up("image_id", known.images) for entry in entries]
        labels = [entry.look_up("category_id", known.labels) for entry in entries]
        sizes = [known.sizes[i] for i in image]
        keypoints = _keypoints(entries, len(known.categories.keypoints)) if iou == "keypoints" else None
        masks = _masks(entries, sizes) if iou in ("segm", "boundary") else None
        boxes, areas = _boxes(entries, sizes, masks=masks, keypoints=keypoints)
        return cls(
            image=np.array(image, np.int64),
            labels=np.array(labels, np.int64),
            boxes=boxes,
            areas=areas,
            masks=masks,
            keypoints=keypoints,
        )

    def by_image(self, images: int) -> list[Int[np.ndarray, " m"]]:
        """Rows of each image, in the order of the file."""
        order = np.argsort(self.image, kind="stable")
        return np.split(order, np.bincount(self.image, minlength=images).cumsum()[:-1]) if images else []

    def masks_of(self, mine: Int[np.ndarray, " m"]) -> tuple[RLE, ...] | None:
        return None if self.masks is None else tuple(self.masks[i] for i in mine.tolist())

    def keypoints_of(self, mine: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m k 3"] | None:
        return None if self.keypoints is None else self.keypoints[mine]


def _masks(entries: Sequence[_Entry], sizes: Sequence[tuple[int, int]]) -> list[RLE]:
    masks = [entry.mask(size) for entry, size in zip(entries, sizes, strict=True)]
    if (bad := first_malformed(masks)) is not None:
        raise ValueError(f"{entries[bad].where}: malformed run-length code for a mask of {list(sizes[bad])}")
    return masks


def _drawn(
    which: Sequence[int], entries: Sequence[_Entry], sizes: Sequence[tuple[int, int]], masks: list[RLE] | None
) -> list[RLE]:
    """Masks of some entries, also where masks are not compared and were not read."""
    return [masks[i] for i in which] if masks else _masks([entries[i] for i in which], [sizes[i] for i in which])


def _boxes(
    entries: Sequence[_Entry],
    sizes: Sequence[tuple[int, int]],
    *,
    masks: list[RLE] | None,
    keypoints: Float[np.ndarray, "n k 3"] | None,
) -> tuple[Float[np.ndarray, "n 4"], Float[np.ndarray, " n"]]:
    """Boxes and their areas as the file says; else the tightest around keypoints, or around a mask with its area."""
    boxes = np.zeros((len(entries), 4))
    stated = np.array([entry.has("bbox") for entry in entries], bool)
    boxes[stated] = xyxy(np.array([e.box() for e in entries if e.has("bbox")]).reshape(-1, 4))
    bare = np.flatnonzero(~stated).tolist()
    if keypoints is not None and keypoints.shape[1]:
        boxes[bare] = np.concatenate([keypoints[bare, :, :2].min(axis=1), keypoints[bare, :, :2].max(axis=1)], axis=1)
    areas = xywh(boxes)[:, 2:].prod(axis=1)
    if keypoints is None:
        drawn = _drawn(bare, entries, sizes, masks)
        boxes[bare], areas[bare] = mask_boxes(drawn), mask_areas(drawn)
    return boxes, areas


def _keypoints(entries: Sequence[_Entry], named: int) -> Float[np.ndarray, "n k 3"]:
    """Annotations without keypoints have zeros: no visible point. Results must have them."""
    given = {i: e.numbers("keypoints") for i, e in enumerate(entries) if e.has("keypoints") or e.is_result}
    k = named or max((len(numbers) // 3 for numbers in given.values()), default=0)
    points = np.zeros((len(entries), k, 3))
    for i, numbers in given.items():
        if len(numbers) != 3 * k:
            raise ValueError(f"{entries[i].where}: 'keypoints' must be {3 * k} numbers (x, y, v), got {len(numbers)}")
        points[i] = np.array(numbers).reshape(k, 3)
    return points
