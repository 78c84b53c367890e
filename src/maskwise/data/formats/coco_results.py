"""COCO results: one list of predictions for a whole data set.

`score` is the mask score, which is what COCO's own evaluation ranks by; `class_score` and `quality` ride along and are
read back. Results are written by machines, so the first thing that is wrong in them is an error with its index.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch

from maskwise.categories import Categories
from maskwise.data.dataset import Id, Item, Severity
from maskwise.data.formats import json_file
from maskwise.data.formats.coco_annotation import MIDDLE, is_number, mask_of
from maskwise.data.formats.json_file import whole
from maskwise.masks import Masks
from maskwise.rle import RLE, Size, Window
from maskwise.structures import Instances

Result = dict[str, object]


def results(item: Item, categories: Categories) -> list[Result]:
    """Entries for the predictions of one picture, best first; `item.id` is the image id of the ground truth."""
    if not isinstance(item.labelled, Instances):
        raise ValueError(f"{item.name}: COCO results are predictions, got {type(item.labelled).__name__}")
    if item.id is None:
        raise ValueError(f"{item.name}: COCO results need the image id of the ground truth")
    found = item.labelled
    boxes = torch.cat([found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]], 1)
    columns = (found.labels, boxes, found.mask_scores, found.scores, found.quality)
    points = None if found.keypoints is None else found.keypoints.flatten(1).tolist()
    return entries(item.id, categories, found.masks.rle(), *(column.tolist() for column in columns), keypoints=points)


def entries(
    image: Id,
    categories: Categories,
    masks: Sequence[RLE],
    labels: Sequence[int],
    boxes: Sequence[Sequence[float]],
    mask_scores: Sequence[float],
    scores: Sequence[float],
    qualities: Sequence[float],
    *,
    keypoints: Sequence[Sequence[float]] | None,
) -> list[Result]:
    """The same of plain values; boxes as x, y, width, height."""
    rows = zip(masks, labels, boxes, mask_scores, scores, qualities, strict=True)
    return [
        {
            "image_id": image,
            "category_id": categories.id(label),
            "bbox": box,
            "segmentation": mask,
            "score": mask_score,
            "class_score": score,
            "quality": quality,
            **({} if keypoints is None else {"keypoints": [v - MIDDLE[j % 3] for j, v in enumerate(keypoints[i])]}),
        }
        for i, (mask, label, box, mask_score, score, quality) in enumerate(rows)
    ]


def write_results(path: Path, categories: Categories, items: Iterable[Item]) -> Path:
    """The results of a whole data set; a prediction without pixels stays, because boxes are judged too."""
    return json_file.save(path, [entry for item in items for entry in results(item, categories)])


def read_results(path: Path, categories: Categories, sizes: Mapping[Id, Size]) -> dict[Id, Instances]:
    """Predictions for each image of `sizes`, best first; none for those that the file does not mention."""
    content = json_file.load(path)
    if not isinstance(content, list):
        raise ValueError(f"{path}: expected COCO results (a list), got {type(content).__name__}")
    entries: dict[Id, list[tuple[str, Result]]] = {image: [] for image in sizes}
    for i, entry in enumerate(content):
        where = f"{path}: results[{i}]"
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: expected an object, got {type(entry).__name__}")
        image = whole(entry.get("image_id"))
        if type(image) not in (int, str) or image not in entries:
            raise ValueError(f"{where}: unknown image_id {image!r:.80}, {len(sizes)} images are known")
        entries[cast(Id, image)].append((where, entry))
    return {image: _instances(rows, categories, sizes[image]) for image, rows in entries.items()}


def _instances(rows: list[tuple[str, Result]], categories: Categories, size: Size) -> Instances:
    if not rows:
        return Instances.none(size)
    masks = Masks.of([_mask(where, entry, size) for where, entry in rows], size)
    numbers = torch.tensor([_scores(where, entry) for where, entry in rows], dtype=torch.float32)
    boxes = [_box(*row, tight) for row, tight in zip(rows, masks.boxes().tolist(), strict=True)]
    found = Instances(
        boxes=torch.tensor(boxes),
        labels=torch.tensor([_label(where, entry, categories) for where, entry in rows]),
        scores=numbers[:, 1],
        quality=numbers[:, 2],
        mask_scores=numbers[:, 0],
        masks=masks,
        keypoints=_keypoints(rows, len(categories.keypoints)),
    )
    return found.ranked()


def _mask(where: str, entry: Result, size: Size) -> Window:
    def complain(rule: str, message: str, severity: Severity = "error") -> None:
        if severity == "error":
            raise ValueError(f"{where}: {message.removesuffix('; left out')} [{rule}]")

    mask = mask_of(entry.get("segmentation"), size, complain)
    assert mask is not None
    return mask


def _scores(where: str, entry: Result) -> tuple[float, float, float]:
    """Mask score, class score, quality."""
    values = {name: entry.get(name) for name in ("score", "class_score", "quality")}
    if values["class_score"] is None:
        values["class_score"] = values["score"]
    if values["quality"] is None:
        values["quality"] = 1.0
    for name, value in values.items():
        if not is_number(value):
            raise ValueError(f"{where}: {name!r} must be a finite number, got {value!r:.80}")
    return cast(tuple[float, float, float], tuple(values.values()))


def _label(where: str, entry: Result, categories: Categories) -> int:
    id_ = whole(entry.get("category_id"))
    if type(id_) is not int or not categories.has_id(id_):
        raise ValueError(f"{where}: unknown category_id {id_!r:.80}, {len(categories)} categories are known")
    return categories.label(id_)


def _box(where: str, entry: Result, tight: list[float]) -> list[float]:
    """xyxy; that of the mask where none is stated."""
    box = entry.get("bbox")
    if box is None:
        return tight
    if not isinstance(box, list) or len(box) != 4 or not all(is_number(v) for v in box) or min(box[2:]) < 0:
        raise ValueError(f"{where}: 'bbox' must be x, y, width, height with no negative extent, got {box!r:.80}")
    return [float(box[0]), float(box[1]), float(box[0] + box[2]), float(box[1] + box[3])]


def _keypoints(rows: list[tuple[str, Result]], count: int) -> torch.Tensor | None:
    if not count or not all("keypoints" in entry for _, entry in rows):
        return None
    for where, entry in rows:
        points = entry["keypoints"]
        if not isinstance(points, list) or len(points) != 3 * count or not all(is_number(v) for v in points):
            raise ValueError(f"{where}: 'keypoints' must be {3 * count} finite numbers (x, y, score)")
    points = torch.tensor([entry["keypoints"] for _, entry in rows], dtype=torch.float32).reshape(-1, count, 3)
    return points + torch.tensor(MIDDLE)
