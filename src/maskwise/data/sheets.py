"""What `maskwise data preview` shows: some pictures of a data set, or scenes of every kind, made to fit a cell."""

import logging
from dataclasses import dataclass, replace
from math import log2

import numpy as np
import torch
from jaxtyping import UInt8

from maskwise.categories import Categories
from maskwise.data.dataset import DataSet, Record
from maskwise.data.images import ImageReadError, read_image
from maskwise.data.synthetic.scenes import Scenes
from maskwise.structures import Instances, Targets

MOST_LABELS = 16
"""In a cell with more instances, words would hide them."""
MOST_ZOOM = 4

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cell:
    """A picture to be drawn, and how."""

    pixels: UInt8[np.ndarray, "h w 3"]
    found: Targets | Instances
    categories: Categories
    caption: str
    labels: bool
    by_part: bool = False


def of_data(data: DataSet, count: int, side: int) -> list[Cell]:
    """Pictures spread evenly over a data set; those that cannot be read are passed over with a warning."""
    if not len(data):
        raise ValueError(f"there is no picture in {data.root} {data.split}".rstrip())
    places = np.unique(np.linspace(0, len(data) - 1, min(count, len(data))).round().astype(int))
    cells = [cell for i in places.tolist() if (cell := _of_record(data, data[i], side)) is not None]
    if not cells:
        raise ValueError(f"none of {len(places)} pictures of {data.root} can be read")
    return cells


def _of_record(data: DataSet, record: Record, side: int) -> Cell | None:
    try:
        pixels, read = read_image(record.path), record.labelled()
    except ImageReadError as error:
        logger.warning("%s", error)
        return None
    found = read.targets if read.scores is None else read.instances()
    if pixels.shape[:2] != tuple(found.masks.size):
        logger.warning("%s: the annotations are for another size than that of the picture", record.name)
        return None
    caption = f"{record.path.stem} · {_objects(len(found))}"
    return fitted(Cell(pixels, found, data.categories, caption, _are_few(found, data.categories)), side)


def _objects(count: int) -> str:
    return "1 object" if count == 1 else f"{count} objects"


def _are_few(found: Targets | Instances, categories: Categories) -> bool:
    return len(categories) > 1 and len(found) <= MOST_LABELS


def fitted(cell: Cell, side: int) -> Cell:
    """Made to fit a square before it is drawn, so that lines and words are as thick on every picture.

    A small picture is enlarged by a power of two, so that its pixels stay what they are.
    """
    h, w = cell.pixels.shape[:2]
    by = side / max(h, w)
    by = min(MOST_ZOOM, 2.0 ** int(log2(by))) if by >= 1 else by
    size = (max(1, round(h * by)), max(1, round(w * by)))
    if size == (h, w):
        return cell
    return replace(cell, pixels=_resized(cell.pixels, size), found=_moved(cell.found, size))


def _resized(pixels: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    shrinks = size[0] < pixels.shape[0] or size[1] < pixels.shape[1]
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    mode = "bilinear" if shrinks else "nearest"
    resized = torch.nn.functional.interpolate(planes, size, mode=mode, antialias=shrinks)
    return resized[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).contiguous().numpy()


def _moved(found: Targets | Instances, size: tuple[int, int]) -> Targets | Instances:
    (h, w), masks = found.masks.size, found.masks.resize(size)
    points = found.keypoints
    if points is not None:
        points = points * points.new_tensor([size[1] / w, size[0] / h, 1])
    moved = replace(found, masks=masks, boxes=masks.boxes(), keypoints=points)
    return moved[masks.area() > 0]


# Scenes


def of_scenes(count: int, side: int) -> list[Cell]:
    """Scenes of every kind in turn."""
    kinds = _kinds(side)
    return [_of_scene(*kinds[i % len(kinds)], i) for i in range(count)]


def _kinds(side: int) -> list[tuple[str, Scenes]]:
    plain = Scenes(size=(side, side), noise=2.0)
    radius = (side / 30, side / 16)
    return [
        ("still", replace(plain, count=(5, 9), overlap=0.5, touching=0.2)),
        ("many", replace(plain, count=(45, 45), radius=radius, classes=("ellipse", "blob"), touching=0.4)),
        ("salient", replace(plain, mode="salient")),
        ("parts", replace(plain, mode="parts", count=(3, 5), radius=(side / 11, side / 8))),
        ("clip", replace(plain, mode="clip", count=(4, 6), overlap=0.4)),
        ("crowd", replace(plain, crowds=1, count=(3, 5))),
    ]


def _of_scene(name: str, scenes: Scenes, index: int) -> Cell:
    middle = index * scenes.frames + scenes.frames // 2
    scene = scenes.scene(middle if scenes.mode == "clip" else index)
    caption = f"{name} · {_objects(len(scene.targets))}"
    is_parts = scenes.mode == "parts"
    few = _are_few(scene.targets, scenes.categories) and not is_parts
    return Cell(scene.pixels, scene.targets, scenes.categories, caption, few, by_part=is_parts)
