"""From masks that may overlap to one image of ids: what lies in front, and what that costs.

Used by every format in which a pixel belongs to one instance.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int32, UInt8
from PIL import Image

from maskwise.data.dataset import Item
from maskwise.data.files import replacing
from maskwise.masks import Masks
from maskwise.structures import Instances, Targets


def paint(labelled: Targets | Instances, numbers: Sequence[int]) -> tuple[Int32[np.ndarray, "h w"], Counter[str]]:
    """Image that shows instance i as `numbers[i]` and the rest as 0, and the losses.

    In front lie: of predictions the better mask score; of ground truth the nearer by `depth`, without it the smaller,
    because of a cup in a hand the hand should give way. Crowds lie behind everything.
    """
    order = _front_to_back(labelled)
    places = labelled.masks[order].label_map()
    values = np.zeros(len(order) + 1, np.int32)
    values[1:] = np.asarray(numbers, np.int32)[order]
    areas = labelled.masks.area()
    seen = np.bincount(places.ravel(), minlength=len(order) + 1)[1:] > 0
    empty = int((areas == 0).sum())
    losses = {
        "pixels where masks overlapped": int(areas.sum()) - int(np.count_nonzero(places)),
        "instances without pixels": empty,
        "instances wholly covered by others": len(order) - int(seen.sum()) - empty,
    }
    return values[places], +Counter(losses)


def _front_to_back(labelled: Targets | Instances) -> list[int]:
    if isinstance(labelled, Instances):
        return labelled.mask_scores.argsort(descending=True, stable=True).tolist()
    near = (labelled.masks.area() if labelled.depth is None else labelled.depth).to(torch.int64)
    return sorted(range(len(near)), key=lambda i: (bool(labelled.crowd[i]), int(near[i])))


def unheld(labelled: Targets | Instances, *, held: Collection[str] = ()) -> Counter[str]:
    """Instances whose further fields a format has no place for."""
    losses: Counter[str] = Counter()
    names = ("keypoints", "tracks") if isinstance(labelled, Instances) else ("areas", "keypoints", "depth", "tracks")
    if isinstance(labelled, Instances):
        losses["scores"] = len(labelled)
    else:
        losses["crowd flags"] = int(labelled.crowd.sum())
        losses["parts"] = 0 if labelled.parts is None else len(labelled.parts.labels)
    for name in names:
        if getattr(labelled, name) is not None:
            losses["stated areas" if name == "areas" else name] = len(labelled)
    return +Counter({what: count for what, count in losses.items() if what not in held})


def numbers(item: Item, *, most: int) -> list[int]:
    """A number from 1 to `most` for each instance: those of the file it came from, where they fit, else 1, 2, 3 ..."""
    if (count := len(item.labelled)) > most:
        raise ValueError(f"{item.name}: {count:,} instances, but this format holds at most {most:,} in a picture")
    ids = item.ids or ()
    own = [i for i in ids if isinstance(i, int) and 1 <= i <= most]
    return own if len(set(own)) == count else list(range(1, count + 1))


def renumbered(item: Item, own: Mapping[int, int]) -> Counter[str]:
    """Instances, by their place in the item, that get another number than they had in the file they came from."""
    return +Counter({"instance ids": sum(item.ids[i] != number for i, number in own.items()) if item.ids else 0})


def white(masks: Masks) -> UInt8[np.ndarray, "h w"]:
    """A picture with 255 where a mask is."""
    return np.where(masks.label_map() > 0, 255, 0).astype(np.uint8)


def write_png(path: Path, values: UInt8[np.ndarray, "h w"], *, colours: UInt8[np.ndarray, "k 3"] | None = None) -> None:
    """An 8-bit PNG, grey or with a palette of 256 colours. The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.ascontiguousarray(values))
    if colours is not None:
        picture.putpalette(colours.tobytes())
    with replacing(path) as file:
        picture.save(file, "PNG")
