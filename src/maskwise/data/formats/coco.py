"""COCO data sets: one JSON a split, with polygons or run lengths for the masks.

Holds everything that `Targets` have but depth, tracks and parts. Predictions are written with `score` (the mask score),
`class_score` and `quality` beside each annotation, and read back; a list of results is for `coco_results`. `bbox` is
that of the mask, as everywhere in COCO, or what the file that is converted stated; the predicted one is
`predicted_bbox`, and is not read back.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Literal

import torch

from maskwise.categories import Categories
from maskwise.data.dataset import DataSet, Id, Item, Written
from maskwise.data.formats import json_file
from maskwise.data.formats.coco_annotation import MIDDLE
from maskwise.data.formats.coco_files import Pictures, annotation_files, choose, is_coco
from maskwise.data.formats.coco_index import (
    Problems,
    entries,
    read_categories,
    read_records,
    read_rows,
    usable_images,
)
from maskwise.data.formats.folders import names_a_file, relative, visible
from maskwise.data.formats.painting import unheld
from maskwise.data.formats.pictures import TOO_LONG, claim, fits, put_picture, shows_another
from maskwise.outlines import Polygon
from maskwise.rle import RLE
from maskwise.structures import Instances, Targets

Segmentation = Literal["rle", "polygon"]


def detect(root: Path) -> str | None:
    if root.is_file():
        return "it is a JSON with images or annotations" if is_coco(root) else None
    found = [relative(root, path) for path in annotation_files(root).values()]
    shown = ", ".join(found[:4]) + (" ..." if len(found) > 4 else "")
    return f"there are COCO annotations: {shown}" if found else None


def splits(root: Path) -> tuple[str, ...]:
    return tuple(annotation_files(root))


def read(root: Path, *, split: str | None = None) -> DataSet:
    """The file is parsed once; masks are decoded when they are asked for."""
    found = annotation_files(root)
    split = choose(root, tuple(found), split)
    path = found[split]
    content = json_file.load(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a COCO data set (an object), got {type(content).__name__}")
    problems = Problems(path.name if root.is_file() else relative(root, path))
    images = usable_images(entries(content, "images", problems), problems)
    annotations = entries(content, "annotations", problems)
    used = Counter(id_ for entry in annotations if isinstance(id_ := json_file.whole(entry.get("category_id")), int))
    categories = read_categories(entries(content, "categories", problems), used, problems)
    pictures = Pictures.of(root, path, split, [str(entry["file_name"]) for entry in images])
    packed = read_rows(annotations, images, categories, problems)
    records = read_records(images, packed, pictures, categories, problems)
    return DataSet("coco", pictures.root, split, categories, records, tuple(problems.found))


def write(
    root: Path,
    categories: Categories,
    items: Iterable[Item],
    *,
    split: str = "train",
    segmentation: Segmentation = "rle",
) -> Written:
    """`<split>.json` in the root, pictures under their names, which no picture of another split may have.

    'rle' is compressed run lengths. 'polygon' is for tools that read nothing else: the exact outlines of objects
    without holes; crowds and objects with holes remain run lengths. Both read back to the same masks.
    """
    losses: Counter[str] = Counter()
    files, taken, images, annotations = [], {}, [], []
    others = cache(partial(_others, root, split))  # asked only when a picture would be replaced by another
    for item in items:
        target = root / claim(taken, item.name, item)
        has_picture = item.image is not None or item.pixels is not None
        if has_picture and not fits(root, item.name, item.name):
            losses[TOO_LONG] += 1
            continue
        if shows_another(item, target) and (other := others().get(target)):
            raise ValueError(f"{target} is a picture of {other}, and {item.image} is another; choose another place")
        files += put_picture(item, target)
        image = {"id": item.id, "file_name": item.name, "height": item.size[0], "width": item.size[1]}
        images.append(image)
        rows = _annotations(item, categories, segmentation)
        losses["instances without pixels"] += len(item.labelled) - len(rows)
        losses += unheld(item.labelled, held=("crowd flags", "stated areas", "keypoints", "scores"))
        annotations += [row | {"image_id": len(images) - 1} for row in rows]
    losses["image ids"] = _number(images)
    losses["annotation ids"] = _number(annotations, refused=0)  # pycocotools: a detection that has hit nothing
    for row in annotations:
        row["image_id"] = images[row["image_id"]]["id"]
    content = {"images": images, "annotations": annotations, "categories": _categories(categories)}
    return Written((*files, json_file.save(root / f"{split}.json", content)), +losses)


def _others(root: Path, split: str) -> dict[Path, Path]:
    """Pictures that other files in the root list, and these files: all splits share one folder of pictures."""
    files = {*annotation_files(root).values(), *filter(is_coco, visible(root))} - {root / f"{split}.json"}
    return {picture: path for path in sorted(files) for picture in _listed(root, path)}


def _listed(root: Path, path: Path) -> list[Path]:
    content = json_file.load(path)
    rows = content.get("images") if isinstance(content, dict) else None
    names = [row["file_name"] for row in rows if _has_name(row)] if isinstance(rows, list) else []
    pictures = Pictures.of(root, path, path.stem, names)
    return [root / pictures.place(name)[0] for name in names]


def _has_name(row: object) -> bool:
    return isinstance(row, dict) and isinstance(name := row.get("file_name"), str) and names_a_file(name)


def _annotations(item: Item, categories: Categories, segmentation: Segmentation) -> list[dict]:
    """One a mask that has pixels."""
    labelled = item.labelled
    areas = labelled.masks.area().tolist()
    stated = labelled.areas.tolist() if isinstance(labelled, Targets) and labelled.areas is not None else areas
    crowd = labelled.crowd.tolist() if isinstance(labelled, Targets) else [False] * len(areas)
    outlines = labelled.masks.outlines() if segmentation == "polygon" else [[] for _ in areas]
    rows = []
    boxes = labelled.boxes if isinstance(labelled, Targets) else labelled.masks.boxes()
    for i, (code, box) in enumerate(zip(labelled.masks.rle(), boxes.tolist(), strict=True)):
        if not areas[i]:
            continue
        row = {
            "id": item.ids[i] if item.ids else None,
            "category_id": categories.id(int(labelled.labels[i])),
            "segmentation": _segmentation(code, [] if crowd[i] else outlines[i]),
            "bbox": _corner_and_sides(box),
            "area": stated[i],
            "iscrowd": int(crowd[i]),
        }
        rows.append(row | _scores(labelled, i) | _keypoints(labelled, i))
    return rows


def _corner_and_sides(box: Sequence[float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def _segmentation(code: RLE, polygons: Sequence[Polygon]) -> RLE | list[list[float]]:
    if not polygons or any(polygon.holes for polygon in polygons):
        return code
    return [polygon.outer.ravel().tolist() for polygon in polygons]


def _scores(labelled: Targets | Instances, i: int) -> dict[str, object]:
    if isinstance(labelled, Targets):
        return {}
    return {
        "score": float(labelled.mask_scores[i]),
        "class_score": float(labelled.scores[i]),
        "quality": float(labelled.quality[i]),
        "predicted_bbox": _corner_and_sides(labelled.boxes[i].tolist()),
    }


def _keypoints(labelled: Targets | Instances, i: int) -> dict[str, object]:
    """Of predictions the third number is a score; ground truth counts those that are labelled."""
    if labelled.keypoints is None:
        return {}
    points = labelled.keypoints[i]
    known = points[:, 2:] > 0 if isinstance(labelled, Targets) else torch.ones(len(points), 1)
    points = points - known * torch.tensor(MIDDLE)
    return {"keypoints": points.flatten().tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}


def _number(rows: Sequence[dict], *, refused: int | None = None) -> int:
    """Give each row an id of its own: the first with an id keeps it. How many ids were lost."""
    used: set[Id] = set()
    bare, lost = [], 0
    for row in rows:
        if type(row["id"]) is int and row["id"] != refused and row["id"] not in used:
            used.add(row["id"])
        else:
            lost += row["id"] is not None
            bare.append(row)
    start = max([0, *(id_ for id_ in used if isinstance(id_, int))]) + 1
    for id_, row in enumerate(bare, start):
        row["id"] = id_
    return lost


def _categories(categories: Categories) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for i, (id_, name) in enumerate(zip(categories.ids, categories.names, strict=True)):
        row: dict[str, object] = {"id": id_, "name": name}
        if categories.supercategories:
            row["supercategory"] = categories.supercategories[i]
        if categories.keypoints:
            row |= {
                "keypoints": list(categories.keypoints),
                "skeleton": [[a + 1, b + 1] for a, b in categories.skeleton],
            }
        rows.append(row)
    return rows
